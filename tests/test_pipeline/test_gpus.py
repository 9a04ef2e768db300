from __future__ import annotations

import os
from typing import Any

import pytest

from pipeline.executor import Task, TaskResources
from pipeline.gpus import gpu_slots, visible_gpus
from pipeline.local_executor import LocalExecutor
from storage.errors import EnvironmentProblem


@pytest.mark.parametrize(
    ("gpus", "names", "workers", "expected"),
    [
        (0.0, [], 3, [None, None, None]),
        (1.0, ["0", "1"], 8, ["0", "1"]),
        (1.0, ["0", "1"], 1, ["0"]),
        (0.5, ["0", "1"], 8, ["0", "1", "0", "1"]),
        (0.3, ["GPU-a"], 8, ["GPU-a"] * 3),
        (2.0, ["0", "1", "2", "3", "4"], 8, ["0,1", "2,3"]),
    ],
)
def test_slots(gpus: float, names: list[str], workers: int, expected: list[str | None]) -> None:
    assert gpu_slots(gpus, names, workers) == expected


def test_too_few_gpus_are_an_error() -> None:
    with pytest.raises(EnvironmentProblem, match="needs 1 GPUs, and this machine offers 0"):
        gpu_slots(1.0, [], 2)


def test_the_environment_decides_which_are_visible() -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3, GPU-b"}) == ["3", "GPU-b"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []


def _seen(shard: int) -> dict[str, Any]:
    return {"gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}


def test_local_tasks_see_their_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    tasks = [Task(shard, {"shard": shard}) for shard in range(4)]
    outcomes = list(LocalExecutor(workers=4).run(_seen, tasks, TaskResources(gpus=1.0)))
    seen = [outcome.result["gpus"] for outcome in outcomes if outcome.result]
    assert len(seen) == 4
    assert set(seen) == {"5", "7"}
