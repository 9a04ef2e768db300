from __future__ import annotations

import hashlib
import io
import json
import logging
from pathlib import Path

import pytest
import torch

from pipeline.train.checkpoints import Checkpoints
from pipeline.train.job import TrainingDivergedError, _named_divergence, _resume
from storage.errors import StoreMismatchError
from storage.store import Store
from tests.test_pipeline.toy import toy_trainer

FOLDER = "runs/train-shared/x"


def state(value: float) -> dict[str, object]:
    return {"a": torch.full((3,), value), "nested": [{"b": torch.zeros(2), "rate": 0.1}], "n": 4}


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A folder, and a store that fsspec leads to."""
    return Store(tmp_path if request.param == "folder" else f"memory://{tmp_path}")


def test_the_last_ones_are_kept_and_found_by_another_process(store: Store) -> None:
    first = Checkpoints(store, FOLDER, 0, keep=3)
    assert first.steps() == []
    for step in range(10, 60, 10):
        first.save(step, state(step))
    again = Checkpoints(store, FOLDER, 0, keep=3)
    assert again.steps() == [30, 40, 50]
    loaded = again.load(40)
    assert loaded is not None
    assert torch.equal(loaded["a"], torch.full((3,), 40.0))
    assert loaded["nested"][0]["rate"] == 0.1
    assert again.newest is None, "it was only tried"
    again.go_on_from(40)
    assert again.newest == (40, f"{FOLDER}/checkpoint-rank0-0.pt")
    again.save(41, state(41))  # over 50: the run goes on from 40
    assert again.steps() == [30, 40, 41]
    assert Checkpoints(store, FOLDER, 1).steps() == []
    assert len(store.list(FOLDER)) == 6


def test_a_damaged_state_is_absent(store: Store) -> None:
    checkpoints = Checkpoints(store, FOLDER, 0)
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2))
    key = f"{FOLDER}/checkpoint-rank0-1.pt"
    data = bytearray(store.read(key))
    data[len(data) // 2] ^= 1
    store.replace(key, bytes(data))
    again = Checkpoints(store, FOLDER, 0)
    assert again.steps() == [1, 2]
    assert again.load(2) is None
    assert again.load(1) is not None
    again.go_on_from(1)
    again.save(3, state(3))
    assert again.steps() == [1, 3]
    store.replace(f"{FOLDER}/checkpoint-rank0-0.json", b"{")
    assert again.steps() == [3]


def test_a_state_that_was_cut_off_before_its_record_is_absent(store: Store) -> None:
    checkpoints = Checkpoints(store, FOLDER, 0)
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2))
    record = store.read(f"{FOLDER}/checkpoint-rank0-0.json")
    checkpoints.save(3, state(3))
    store.replace(f"{FOLDER}/checkpoint-rank0-0.json", record)  # as if killed between the two writes
    again = Checkpoints(store, FOLDER, 0)
    assert [again.load(step) is None for step in (1, 2)] == [True, False]


def test_a_store_cannot_run_code(store: Store) -> None:
    checkpoints = Checkpoints(store, FOLDER, 0)
    checkpoints.save(1, state(1))
    buffer = io.BytesIO()
    torch.save({"step": 1, "state": logging.getLogger()}, buffer)
    evil = buffer.getvalue()
    record = {"step": 1, "bytes": len(evil), "sha256": hashlib.sha256(evil).hexdigest()}
    store.replace(f"{FOLDER}/checkpoint-rank0-0.pt", evil)
    store.replace(f"{FOLDER}/checkpoint-rank0-0.json", json.dumps(record).encode())
    with pytest.raises(Exception, match="weights_only"):
        checkpoints.load(1)


def test_a_state_that_is_not_finite_is_not_kept(store: Store) -> None:
    checkpoints = Checkpoints(store, FOLDER, 0)
    checkpoints.save(1, state(1))
    with pytest.raises(FloatingPointError, match=r"after step 2 nested\[0\]\.b is not finite"):
        checkpoints.save(2, {"nested": [{"b": torch.tensor([0.0, torch.nan])}]})
    assert checkpoints.steps() == [1]
    with pytest.raises(ValueError, match="at least 2"):
        Checkpoints(store, FOLDER, 0, keep=1)


def test_training_goes_on_from_the_newest_whole_checkpoint(store: Store) -> None:
    trainer = toy_trainer(2)
    checkpoints = Checkpoints(store, FOLDER, 0)
    for _ in range(2):
        trainer.step()
        checkpoints.save(trainer.step_count, trainer.state_dict())
    newest = f"{FOLDER}/checkpoint-rank0-1.pt"
    store.replace(newest, store.read(newest)[:-1])
    other, again = toy_trainer(2), Checkpoints(store, FOLDER, 0)
    _resume(other, again)
    assert other.step_count == 1
    assert again.newest == (1, f"{FOLDER}/checkpoint-rank0-0.pt")


def test_a_checkpoint_that_was_only_tried_is_not_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, checkpoints = toy_trainer(2), Checkpoints(store, FOLDER, 0)
    trainer.step()
    checkpoints.save(1, trainer.state_dict())
    # Another rank has the record, and no whole state.
    monkeypatch.setattr("pipeline.train.job._common", lambda steps: steps if len(tried) == 0 else [])
    tried: list[int] = []
    again = Checkpoints(store, FOLDER, 0)
    load = again.load
    monkeypatch.setattr(again, "load", lambda step: [tried.append(step), load(step)][1])
    assert _resume(toy_trainer(2), again) == 0
    assert tried == [1]
    assert again.newest is None


def test_checkpoints_of_another_number_of_ranks_are_refused(store: Store) -> None:
    for rank in range(2):
        Checkpoints(store, FOLDER, rank, world=2).save(7, state(rank))
    Checkpoints(store, FOLDER, 1, world=2).require_same_world()
    for rank, world in ((0, 1), (2, 3)):
        with pytest.raises(
            StoreMismatchError,
            match=rf"has {world} ranks, but was interrupted after step 7 with 2: set "
            rf"compute\.train_workers to 2 .* delete {FOLDER}/checkpoint-rank\* in ",
        ):
            Checkpoints(store, FOLDER, rank, world=world).require_same_world()


def test_a_checkpoint_of_other_objects_says_what_to_do(store: Store) -> None:
    trainer, checkpoints = toy_trainer(3), Checkpoints(store, FOLDER, 0)
    checkpoints.save(0, trainer.state_dict())
    record = json.loads(store.read(f"{FOLDER}/checkpoint-rank0-0.json"))
    del record["world"]  # as older versions wrote it
    store.replace(f"{FOLDER}/checkpoint-rank0-0.json", json.dumps(record).encode())
    again = Checkpoints(store, FOLDER, 0, world=2)
    again.require_same_world()
    with pytest.raises(StoreMismatchError, match=r"3 other objects than these 2: .*train_workers.* delete"):
        _resume(toy_trainer(2), again)


def test_a_training_that_diverged_names_step_rates_and_last_good_checkpoint(store: Store) -> None:
    trainer = toy_trainer(2)
    for _ in range(4):
        trainer.step()
    checkpoints = Checkpoints(store, FOLDER, 0)
    checkpoints.save(trainer.step_count, trainer.state_dict())
    with torch.no_grad():
        trainer.base_planes.fill_(torch.nan)
    with pytest.raises(FloatingPointError) as error:
        trainer.step()
    with pytest.raises(TrainingDivergedError) as named, _named_divergence("warmup", checkpoints):
        raise error.value
    said = str(named.value)
    assert "step 4 (warmup) is nan at learning rates micro" in said
    assert "Lower train.rates: that is another training" in said
    assert f"last good checkpoint is that of step 4, {FOLDER}/checkpoint-rank0-0.pt: the same" in said
    with (
        pytest.raises(TrainingDivergedError, match=r"train\.autoencoder\.learning_rate: .*no checkpoint"),
        _named_divergence("autoencoder", Checkpoints(store, FOLDER, 0)),
    ):
        raise error.value
    with pytest.raises(FloatingPointError, match="after step 4 base_planes is not finite"):
        checkpoints.save(trainer.step_count, trainer.state_dict())
