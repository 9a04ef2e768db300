"""For how many tasks at a time shards are cut: those of all machines, whoever makes the plan."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import ray_nodes
from pipeline.compute import ComputeSession, usable_cores
from pipeline.config import ComputeConfig, PipelineConfig
from pipeline.executor import TaskResources
from pipeline.fit_stage import fit_header
from storage.errors import UsageError
from storage.plan import choose_objects_per_shard, shard_count
from tests.test_pipeline.test_cluster_nodes import NODES, node

CODE_BYTES = 202_000
"""Of a code with preset demo."""


def session(**config: Any) -> ComputeSession:
    return ComputeSession(ComputeConfig(**config))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The nodes of a cluster that a session is connected to; a test may change them."""
    nodes = list(NODES)
    monkeypatch.setattr(ray_nodes.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ComputeSession, "executor", SimpleNamespace(name="ray"))
    return nodes


@pytest.mark.parametrize(("cores", "count", "shards"), [(8, 16, 667), (4, 16, 286)])
def test_an_array_cuts_shards_for_all_its_members(cores: int, count: int, shards: int) -> None:
    tasks = session(executor="local", workers=cores).planned_workers(TaskResources(), count)
    assert tasks == cores * count
    # 2000 // (4 · 128) = 3 objects, 2000 // (4 · 64) = 7; by one member alone 62 and 125: 33 and 16 shards
    size = choose_objects_per_shard(2000, CODE_BYTES, tasks)
    assert shard_count(2000, size) == shards >= 4 * tasks


def test_without_a_number_it_is_the_cores_of_each_machine() -> None:
    assert session(executor="local").planned_workers(TaskResources(), 3) == 3 * usable_cores()
    assert session(executor="ray").planned_workers(TaskResources()) == usable_cores()


def test_on_a_cluster_it_is_what_its_nodes_have_room_for(cluster: list[Any]) -> None:
    ours = session(ray_address="auto")
    assert ours.planned_workers(TaskResources(cpus=2)) == 7  # see test_cluster_nodes
    cluster.extend(node(CPU=64.0, GPU=4.0) for _ in range(3))
    assert ours.planned_workers(TaskResources(cpus=4, gpus=1)) == 13, "GPUs, not cores"
    assert session(ray_address="auto", workers=40).planned_workers(TaskResources(), 1) == 40


def test_a_cluster_that_starts_from_zero_has_to_be_told(cluster: list[Any]) -> None:
    with pytest.raises(UsageError, match=r"no node yet for a task, which needs 1 CPU, 4 GPU.*--workers"):
        session(ray_address="auto").planned_workers(TaskResources(gpus=4))


def test_a_gpu_gets_at_least_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    meta = {"plane_resolution": 32, "f_mic": 32, "n_base": 8, "plane_order": ["xy", "xz", "yz"]}
    monkeypatch.setattr("pipeline.fit_stage.read_shared_meta", lambda *_: meta)
    plan: Any = SimpleNamespace(n_objects=1000, n_rows=1000)

    def size(workers: int, gpus: float, batch: int) -> int:
        config = PipelineConfig()
        compute = config.compute.model_copy(update={"fit_gpus": gpus})
        fit = config.fit.model_copy(update={"batch": batch})
        config = config.model_copy(update={"compute": compute, "fit": fit})
        return fit_header(SimpleNamespace(), plan, config, "a", "v", workers).objects_per_shard  # type: ignore[arg-type]

    assert size(workers=256, gpus=1, batch=64) == 64
    assert size(workers=256, gpus=0, batch=64) == 1
    assert size(workers=256, gpus=1, batch=0) == 1, "planned on the GPU, which is not here"
    assert size(workers=4, gpus=1, batch=8) == 62
