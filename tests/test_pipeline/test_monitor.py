"""The monitor looks and does not touch: the same bits with it, every step once, held-out never measured."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.train.config import TrainConfig
from pipeline.train.event_file import NAME
from pipeline.train.job import TrainResources, build_trainer, read_training_views, train_folder
from pipeline.train.monitor import Monitor, gradient_norms, picture_steps
from pipeline.train.monitor_config import MonitorConfig
from pipeline.train.one_process import told_by_process, train_in_process
from storage.errors import EnvironmentProblem, TransientError
from storage.plan import read_plan
from storage.store import Store
from tests.test_pipeline.disc_training import MONITOR, TRAIN, disc_dataset, train_discs
from tests.test_pipeline.small_dataset import SIZE_PX
from tests.test_pipeline.test_event_file import read_events


def _folder(store: Store) -> str:
    return train_folder(read_plan(store), TRAIN)


def _scalars(store: Store) -> dict[str, list[int]]:
    """Steps by tag."""
    found: dict[str, list[int]] = {}
    for event in read_events(store.read(f"{_folder(store)}/tensorboard/{NAME}")):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append(event.step)
    return found


def _losses(store: Store) -> dict[tuple[int, str], float]:
    """Losses by step and tag."""
    return {
        (event.step, value.tag): value.simple_value
        for event in read_events(store.read(f"{_folder(store)}/tensorboard/{NAME}"))
        for value in event.summary.value
        if value.tag.startswith("loss_")
    }


@pytest.fixture(scope="module")
def plain_version(tmp_path_factory: pytest.TempPathFactory) -> str:
    store = disc_dataset(tmp_path_factory.mktemp("plain"))
    version = train_discs(store, monitor=None)
    assert not store.exists(f"{_folder(store)}/monitor.json")
    return version


def test_a_watched_training_has_the_same_bits_and_records_everything(
    tmp_path: Path, plain_version: str
) -> None:
    store = disc_dataset(tmp_path)
    assert train_discs(store) == plain_version
    tags = _scalars(store)
    assert tags["loss_autoencoder/ae"] == [2, 4]
    assert tags["loss_warmup/latent"] == [6, 8]
    assert tags["loss_joint/rgb"] == tags["psnr_batch/render"] == [10, 12]
    assert tags["learning_rate/base"] == tags["gradient_norm/base_planes"] == [6, 8, 10, 12]
    assert tags["gradient_norm/autoencoder"] == tags["learning_rate/autoencoder"] == [2, 4, 10, 12]
    assert tags["speed/steps_per_s"] == [2, 4, 6, 8, 10, 12]
    assert tags["psnr_fixed_training_view/reconstruction"] == [4, 6, 12]
    assert tags["psnr_fixed_training_view/render"] == [6, 12]
    assert tags["training_view, reconstruction | render | truth/disc-0"] == [4, 6, 12]
    assert tags["heldout_view, render | truth/disc-2"] == [6, 12]
    assert not any("psnr" in tag and "held" in tag for tag in tags)  # held-out views are never measured


def test_pictures_of_heldout_views_are_stored(tmp_path: Path) -> None:
    store = disc_dataset(tmp_path)
    train_discs(store)
    document = json.loads(store.read(f"{_folder(store)}/monitor.json"))
    assert document["resumed_at"] == []
    assert [one["object_id"] for one in document["objects"]] == ["disc-0", "disc-2"]
    assert all(one["heldout_view"] in (2, 7) for one in document["objects"])
    assert store.list(f"{_folder(store)}/pictures") == ["00000006.webp", "00000012.webp"]
    data = store.read(f"{_folder(store)}/pictures/00000012.webp")
    with Image.open(io.BytesIO(data)) as sheet:
        assert (sheet.format, sheet.size) == ("WEBP", (SIZE_PX, 2 * SIZE_PX))


@pytest.mark.parametrize("url", ["local", "memory://monitor/resumed"])
def test_a_resumed_training_records_every_step_once(tmp_path: Path, url: str, plain_version: str) -> None:
    store = disc_dataset(tmp_path if url == "local" else url)
    with pytest.raises(InterruptedError):
        train_discs(store, stop=7)
    assert train_discs(store) == plain_version
    tags = _scalars(store)
    assert tags["speed/steps_per_s"] == [2, 4, 6, 8, 10, 12]
    assert tags["psnr_fixed_training_view/reconstruction"] == [4, 6, 12]
    assert json.loads(store.read(f"{_folder(store)}/monitor.json"))["resumed_at"] == [6]


def test_phases_end_with_a_record_of_their_last_steps(tmp_path: Path, plain_version: str) -> None:
    """Phases of 4 steps and records every 3: what is left at a border is recorded there."""
    every_3 = {**MONITOR, "scalars_every": 3, "pictures": 0}
    whole, resumed = disc_dataset(tmp_path / "whole"), disc_dataset(tmp_path / "resumed")
    assert train_discs(whole, every_3) == plain_version
    with pytest.raises(InterruptedError):
        train_discs(resumed, every_3, stop=6)  # goes on after step 5, in the middle of a group
    assert train_discs(resumed, every_3) == plain_version
    tags = _scalars(whole)
    assert tags["speed/steps_per_s"] == [3, 4, 6, 8, 9, 12]
    assert (tags["loss_autoencoder/ae"], tags["loss_warmup/latent"]) == ([3, 4], [6, 8])
    assert tags["loss_joint/rgb"] == [9, 12]
    assert _scalars(resumed) == tags
    losses = [_losses(store) for store in (whole, resumed)]
    assert losses[0] == losses[1]


def test_a_record_is_the_mean_since_the_last_one(tmp_path: Path) -> None:
    each, both = disc_dataset(tmp_path / "each"), disc_dataset(tmp_path / "both")
    train_discs(each, {**MONITOR, "scalars_every": 1, "pictures": 0})
    train_discs(both, {**MONITOR, "scalars_every": 3, "pictures": 0})
    own, means = _losses(each), _losses(both)
    assert means[4, "loss_autoencoder/ae"] == own[4, "loss_autoencoder/ae"]  # after 3, of its own
    pair = [own[step, "loss_warmup/latent"] for step in (5, 6)]  # 4 is of another phase
    assert means[6, "loss_warmup/latent"] == pytest.approx(sum(pair) / 2)
    three = [own[step, "loss_joint/rgb"] for step in (10, 11, 12)]
    assert means[12, "loss_joint/rgb"] == pytest.approx(sum(three) / 3)


def test_nothing_depends_on_heldout_views(tmp_path: Path, plain_version: str) -> None:
    assert train_discs(disc_dataset(tmp_path, noise=True)) == plain_version


def test_a_store_that_refuses_pictures_does_not_stop_the_training(
    tmp_path: Path, plain_version: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, replace_object = disc_dataset(tmp_path), Store.replace

    def refuse(self: Store, key: str, data: bytes) -> None:
        if key.endswith(".webp"):
            raise TransientError(f"{key}: the store does not answer")
        replace_object(self, key, data)

    monkeypatch.setattr(Store, "replace", refuse)
    with caplog.at_level(logging.WARNING):
        assert train_discs(store) == plain_version
    (warning,) = [record for record in caplog.records if "training goes on" in record.message]
    assert "00000006.webp: the store does not answer" in warning.message


def _trainer(store: Store) -> Any:
    plan = read_plan(store)
    return build_trainer(
        read_training_views(store, plan, [0, 1, 2]), TrainConfig.model_validate(TRAIN), "cpu"
    )


def test_pictures_come_in_the_ratio_of_squares(tmp_path: Path) -> None:
    settings = SimpleNamespace(autoencoder=SimpleNamespace(steps=100))
    trainer: Any = SimpleNamespace(settings=settings, total_steps=500)
    # Before the planes 2 times: 100/4, 100. After that 4 times: 400/16 · (1, 4, 9, 16).
    assert sorted(picture_steps(trainer, 4)) == [25, 100, 125, 200, 325, 500]
    assert picture_steps(trainer, 0) == frozenset()


def test_gradient_norms_are_those_of_all_entries_together(tmp_path: Path) -> None:
    trainer = _trainer(disc_dataset(tmp_path))
    while trainer.phase != "done":
        trainer.step()
    entries = [param.grad.flatten().double().numpy() for param in trainer.renderer.parameters()]
    norms = gradient_norms(trainer)
    assert norms["renderer"] == pytest.approx(float(np.linalg.norm(np.concatenate(entries))), rel=1e-5)
    assert set(norms) == {"base_planes", "renderer", "autoencoder"}


class FakeWandb(SimpleNamespace):
    """Stands in for the wandb module: keeps what it is told."""

    class Error(Exception):
        pass

    def __init__(self, refuses_from: int | None = None) -> None:
        super().__init__(started=[], logged=[], ended=[], Image=lambda picture: ("image", picture.shape))
        self.refuses_from = refuses_from

    def init(self, **arguments: Any) -> Any:
        self.started.append(arguments)
        return SimpleNamespace(log=self.log, finish=lambda exit_code: self.ended.append(exit_code))

    def log(self, values: dict[str, Any], step: int) -> None:
        if self.refuses_from is not None and step >= self.refuses_from:
            raise self.Error("the service process is gone")
        self.logged.append((step, values))


def test_wandb_gets_the_same_and_goes_on_in_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_API_KEY", "secret-key")
    store = disc_dataset(tmp_path)
    with pytest.raises(InterruptedError):
        train_discs(store, {**MONITOR, "wandb": "cars"}, stop=7)
    train_discs(store, {**MONITOR, "wandb": "cars"})
    first, second = fake.started
    assert first == second
    assert (first["project"], first["resume"]) == ("cars", "allow")
    assert first["id"] == _folder(store).rpartition("/")[2]
    assert "secret-key" not in repr(fake)
    assert fake.ended == [1, 0]
    assert any("loss_joint/rgb" in values for _, values in fake.logged)
    pictures = [values for _, values in fake.logged if "heldout_view, render | truth/disc-0" in values]
    assert pictures[-1]["heldout_view, render | truth/disc-0"] == ("image", (SIZE_PX, 2 * SIZE_PX, 3))


def test_wandb_that_fails_on_the_way_costs_neither_training_nor_event_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, plain_version: str
) -> None:
    fake = FakeWandb(refuses_from=6)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    store = disc_dataset(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert train_discs(store, {**MONITOR, "wandb": "cars"}) == plain_version
    (warning,) = [record for record in caplog.records if "training goes on" in record.message]
    assert "Weights & Biases" in warning.message
    assert "step 6 was not taken (Error: the service process is gone)" in warning.message
    assert max(step for step, _ in fake.logged) == 4
    assert fake.ended == [0]
    assert _scalars(store)["speed/steps_per_s"] == [2, 4, 6, 8, 10, 12]
    assert len(store.list(f"{_folder(store)}/pictures")) == 2


def test_wandb_that_does_not_start_is_said_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**arguments: Any) -> Any:
        raise ValueError("run ids have at most 64 characters")

    fake = FakeWandb()
    monkeypatch.setattr(fake, "init", refuse)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    store = disc_dataset(tmp_path)
    with pytest.raises(EnvironmentProblem, match=r"ValueError: run ids.*run wandb login"):
        Monitor(store, _folder(store), TRAIN, [0, 1, 2], _trainer(store), MonitorConfig(wandb="cars"))


def test_wandb_that_is_not_installed_is_said_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    store = disc_dataset(tmp_path)
    with pytest.raises(EnvironmentProblem, match=r"compute\.monitor\.wandb.*pip install wandb"):
        Monitor(store, _folder(store), TRAIN, [0, 1, 2], _trainer(store), MonitorConfig(wandb="cars"))


class _Told:
    def __init__(self) -> None:
        self.steps, self.figures = 0, {}

    def start(self, stage: str, total: int, unit: str, done: int = 0, work_unit: str = "") -> None:
        self.total = total

    def advance(self, amount: int = 1, work: float | None = None, **figures: Any) -> None:
        self.steps += amount
        self.figures |= figures

    def finish(self) -> None:
        self.is_finished = True

    def say(self, message: str) -> None:
        raise AssertionError(message)


def test_one_process_tells_its_steps_phase_and_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.train.one_process.POLL_S", 0.0)
    told = _Told()
    store = disc_dataset(tmp_path)
    arguments = {"train": TRAIN, "rank": 0, "world": 1, "resources": TrainResources(threads=1)}
    with told_by_process(told, 12) as connection:
        train_in_process(connection, root_url=store.url, **arguments)
    assert (told.steps, told.total, told.is_finished) == (12, 12, True)
    assert told.figures["phase"] == "joint"
    assert told.figures["rgb"] > 0
