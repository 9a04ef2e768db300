"""train_rank, on one rank and on two: what it leaves out, refuses and publishes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from pipeline.model.shared import load_regime_one
from pipeline.train.job import TrainResources, train_rank
from pipeline.train.ray_bank import EmptyHullError
from storage.store import Store
from tests.test_pipeline.disc_training import MONITOR, TRAIN, disc_dataset
from tests.test_pipeline.two_ranks import both


def train(store: Store, rank: int = 0, world: int = 1) -> dict[str, Any]:
    return train_rank(store.url, TRAIN, rank, world, TrainResources(threads=1), monitor=MONITOR)


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
    assert load_regime_one(store, first["shared_version"]).ids == ("disc-0", "disc-1")


def test_a_rank_that_is_left_with_nothing_is_refused_on_all(tmp_path: Path) -> None:
    disc_dataset(tmp_path / "dataset", empty=1)
    first, second = both(_train_only_one_left, tmp_path)
    assert first == second
    assert "visual hull of disc-1" in first
