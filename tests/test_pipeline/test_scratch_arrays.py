from __future__ import annotations

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
