from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.train.joint import JointTrainer
from pipeline.train.scratch_arrays import ScratchArrays
from pipeline.train.training_views import TrainingViews
from storage.errors import EnvironmentProblem
from tests.test_pipeline.toy import toy_autoencoder, toy_object, toy_settings


def test_the_budget_decides_where_an_array_lies(tmp_path: Path) -> None:
    arrays = ScratchArrays(4000, str(tmp_path))
    (small, first), (large, second), (last, third) = (
        arrays.empty(name, shape, np.float32)
        for name, shape in (("a", (10, 50)), ("b", (501,)), ("c", (500,)))
    )
    assert (first, second, third) == (False, True, False)
    assert (arrays.memory_bytes, arrays.file_bytes) == (4000, 2004)
    large[:] = np.arange(501)
    assert (small.shape, last.shape, large[500]) == ((10, 50), (500,), 500.0)
    assert not list(tmp_path.iterdir()), "files have no name: they go with their process, however it ends"
    with pytest.raises(EnvironmentProblem, match=r"training views take up to 1048576\.00 GiB.* TMPDIR"):
        arrays.empty("training views", (2**50,), np.uint8)
    assert not ScratchArrays().empty("any", (2**20,), np.uint8)[1]


def test_the_space_of_a_file_is_taken_when_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve, taken, left = os.posix_fallocate, [], 3 * 2**20

    def on_a_disk_of_3_mib(file: int, start: int, size: int) -> None:
        nonlocal left
        if size > left:
            raise OSError(errno.ENOSPC, "No space left on device")
        left -= size
        reserve(file, start, size)
        taken.append(os.fstat(file).st_blocks * 512)

    monkeypatch.setattr(os, "posix_fallocate", on_a_disk_of_3_mib)
    arrays = ScratchArrays(0, str(tmp_path))
    first, in_file = arrays.empty("training views", (2 * 2**20,), np.uint8)
    assert in_file
    assert taken[0] >= first.nbytes
    with pytest.raises(EnvironmentProblem, match=r"latents take up to .* TMPDIR.* no checkpoint"):
        arrays.empty("latents", (2 * 2**20,), np.uint8)  # either alone would have room
    assert arrays.file_bytes == first.nbytes


def test_where_space_cannot_be_reserved_the_free_space_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(file: int, start: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", cannot)
    arrays = ScratchArrays(0, str(tmp_path))
    array, in_file = arrays.empty("training views", (1000,), np.uint8)
    array[:] = 7
    assert in_file
    with pytest.raises(EnvironmentProblem, match="training views take up to"):
        arrays.empty("training views", (2**50,), np.uint8)


def _train(arrays: ScratchArrays) -> dict[str, object]:
    objects = []
    for seed in range(3):
        own = toy_object(seed).training()
        table, _ = arrays.empty("views", own.rgba.shape, np.uint8)
        table[:] = own.rgba
        objects.append(TrainingViews(own.object_id, table, own.cam2world, own.intrinsics))
    trainer = JointTrainer(objects, toy_autoencoder(), toy_settings(), seed=0, arrays=arrays)
    while trainer.phase != "done":
        trainer.step()
    return trainer.state_dict()


def _equal(a: object, b: object) -> bool:
    if isinstance(a, dict):
        return all(_equal(value, b[name]) for name, value in a.items() if name != "curve")  # type: ignore[index]
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)  # type: ignore[arg-type]
    return a == b


@pytest.mark.parametrize("budget", [0, 200_000])
def test_files_and_memory_train_the_same_bits(budget: int) -> None:
    large, small = ScratchArrays(), ScratchArrays(budget)
    expected, found = _train(large), _train(small)
    assert large.file_bytes == 0
    assert small.file_bytes > 0
    assert small.memory_bytes <= budget
    assert (small.memory_bytes > 0) == (budget > 0)
    assert _equal(expected, found)
