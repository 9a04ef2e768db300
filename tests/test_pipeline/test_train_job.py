"""train_rank, on one rank and on two: what it leaves out, refuses and publishes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.model.shared import load_regime_one, load_shared
from pipeline.train.job import TrainingDivergedError, TrainResources, train_folder, train_rank
from pipeline.train.joint import JointTrainer
from pipeline.train.ray_bank import EmptyHullError
from storage.errors import StoreMismatchError
from storage.plan import read_plan
from storage.store import Store
from tests.test_pipeline.disc_training import MONITOR, TRAIN, disc_dataset, train_discs
from tests.test_pipeline.two_ranks import both


def train(
    store: Store, rank: int = 0, world: int = 1, monitor: dict[str, Any] | None = MONITOR
) -> dict[str, Any]:
    return train_rank(store.url, TRAIN, rank, world, TrainResources(threads=1), monitor=monitor)


@pytest.mark.parametrize("empty", [0, 2])
def test_an_object_without_rays_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, empty: int
) -> None:
    store = disc_dataset(tmp_path, empty=empty)
    with caplog.at_level(logging.WARNING):
        summary = train(store)
    assert summary["objects"] == 2
    ids = load_regime_one(store, summary["shared_version"]).ids
    assert ids == tuple(f"disc-{row}" for row in range(3) if row != empty)
    (warning,) = [record.message for record in caplog.records if "objects left out" in record.message]
    assert f"objects left out (1): no training ray meets the visual hull of disc-{empty}: " in warning


def _train_one_of_two(rank: int, folder: Path) -> dict[str, Any]:
    return train(Store(folder / "dataset"), rank, 2)


def _train_only_one_left(rank: int, folder: Path) -> str:
    with pytest.raises(EmptyHullError) as error:
        train(Store(folder / "dataset"), rank, 2)
    return str(error.value)


def test_two_ranks_leave_the_same_object_out(tmp_path: Path) -> None:
    store = disc_dataset(tmp_path / "dataset", empty=2)  # the first rank has objects 0 and 2, the second 1
    first, second = both(_train_one_of_two, tmp_path)
    assert first["objects"] == second["objects"] == 2
    codes = load_regime_one(store, first["shared_version"])
    assert codes.ids == ("disc-0", "disc-1")
    # New fits start from the mean of all objects, not of the first rank's.
    shared = load_shared(store, first["shared_version"])
    assert shared.mean_micro is not None
    assert codes.micro is not None
    np.testing.assert_allclose(shared.mean_micro, codes.micro.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(shared.mean_coefficients, codes.coefficients.mean(0), rtol=1e-5, atol=1e-7)


def test_a_rank_that_is_left_with_nothing_is_refused_on_all(tmp_path: Path) -> None:
    disc_dataset(tmp_path / "dataset", empty=1)
    first, second = both(_train_only_one_left, tmp_path)
    assert first == second
    assert "visual hull of disc-1" in first


@pytest.mark.parametrize("where", ["base_planes", "coefficients"])
def test_a_number_that_the_last_step_spoils_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    store, do_step = disc_dataset(tmp_path), JointTrainer.step

    def step(self: JointTrainer) -> Any:
        point = do_step(self)
        if self.phase == "done":
            values = self.base_planes if where == "base_planes" else self._codes.coefficients.values
            with torch.no_grad():
                values[1, ..., 0] = torch.nan
        return point

    monkeypatch.setattr(JointTrainer, "step", step)
    said = rf"after step 12 {where} is not finite.*Lower train\.rates"
    with pytest.raises(TrainingDivergedError, match=said):
        train(store, monitor=None)
    assert not store.exists("shared")
    assert not any(name.startswith("result") for name in store.list(train_folder(read_plan(store), TRAIN)))


def test_another_number_of_ranks_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    store = disc_dataset(tmp_path)
    with pytest.raises(InterruptedError):
        train_discs(store, stop=3)
    with pytest.raises(StoreMismatchError, match=r"has 2 ranks, .* with 1: set compute\.train_workers to 1"):
        train(store, rank=1, world=2)
    assert train(store)["resumed_after_step"] == 2
