"""RayExecutor on small clusters: classes of failure, replaced workers, labels, nodes that come and go."""

from __future__ import annotations

import collections
import logging
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray

from pipeline.backlog import RetryPolicy
from pipeline.drain import Drain
from pipeline.executor import Task, TaskOutcome, TaskResources
from pipeline.ray_executor import RayExecutor
from pipeline.ray_nodes import await_nodes
from pipeline.ray_notes import NAMESPACE, PER_BLOCK
from pipeline.ray_session import ray_session
from storage.errors import EnvironmentProblem
from tests.conformance import faults

pytestmark = pytest.mark.slow
SMALL = {"object_store_memory": 100 * 2**20}
SOON = RetryPolicy(pause_s=0.1)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, short_folder: Path) -> Iterator[Any]:
    """A head without CPUs, and this process connected to it."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **SMALL})
    try:
        with ray_session(nodes.address, short_folder):
            yield nodes
    finally:
        nodes.shutdown()


def run(
    function: Any, executor: RayExecutor, resources: TaskResources, count: int, **arguments: Any
) -> dict[int, TaskOutcome]:
    tasks = [Task(shard, {"shard": shard, **arguments}) for shard in range(count)]
    return {outcome.shard: outcome for outcome in executor.run(function, tasks, resources)}


def await_note() -> None:
    """Returns when a task has begun: it leaves a note."""
    deadline = time.monotonic() + 60
    while not ray.experimental.internal_kv._internal_kv_list("", namespace=NAMESPACE):
        assert time.monotonic() < deadline, "no task has begun"
        time.sleep(0.1)


def test_deadlines_crashes_and_memory_are_told_apart(cluster: Any, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=1, **SMALL)
    once = RayExecutor(RetryPolicy(1, 1, 1, 1))
    late = run(faults.hang, once, TaskResources(deadline_s=1.0), 1)[0]
    assert late.failure is not None
    assert (late.failure.kind, late.attempts) == ("timeout", 1)
    assert late.node, "the node of a task that died is known"
    crashed = run(faults.die, once, TaskResources(deadline_s=60.0), 1)[0]
    assert crashed.failure is not None
    assert crashed.failure.kind == "died"
    full = run(faults.memory_once, RayExecutor(SOON), TaskResources(), 2, folder=str(tmp_path))
    assert (full[1].retried, full[1].failure) == ({"memory": 1}, None)
    notes = ray.experimental.internal_kv._internal_kv_list("", namespace=NAMESPACE)
    assert not notes, "tasks leave nothing in Ray's store"


def test_notes_are_removed_by_the_block(cluster: Any) -> None:
    """While the last tasks of many run, those of the first are gone."""
    cluster.add_node(num_cpus=1, **SMALL)
    tasks = [Task(shard, {"shard": shard, "seconds": 0.0}) for shard in range(PER_BLOCK + 50)]
    most = 0
    for ended, _ in enumerate(RayExecutor().run(faults.where, tasks, TaskResources()), 1):
        if ended % 25 == 0:
            left = len(ray.experimental.internal_kv._internal_kv_list("", namespace=NAMESPACE))
            most = max(most, left)
            assert ended < PER_BLOCK + 10 or left < 100, "the first block is gone"
    assert PER_BLOCK / 2 < most <= PER_BLOCK + 10
    assert not ray.experimental.internal_kv._internal_kv_list("", namespace=NAMESPACE)


def test_workers_are_replaced_now_and_then(cluster: Any) -> None:
    cluster.add_node(num_cpus=1, **SMALL)
    kept = run(faults.where, RayExecutor(max_calls=0), TaskResources(), 12, seconds=0.0)
    assert len({outcome.result["pid"] for outcome in kept.values() if outcome.result}) == 1
    replaced = run(faults.where, RayExecutor(max_calls=2), TaskResources(), 16, seconds=0.0)
    pids = collections.Counter(outcome.result["pid"] for outcome in replaced.values() if outcome.result)
    assert pids.total() == 16
    assert len(pids) >= 4
    assert max(pids.values()) <= 2 * 2 + 1
    assert all(not outcome.retried for outcome in replaced.values()), "a process that ends so is no failure"


def test_tasks_go_to_nodes_with_their_label(cluster: Any) -> None:
    ids = {
        name: cluster.add_node(num_cpus=1, labels={"group": name}, **SMALL).node_id
        for name in ("spot", "big")
    }
    for name, node_id in ids.items():
        needs = TaskResources(labels={"group": name})
        found = run(faults.where, RayExecutor(), needs, 4, seconds=0.1)
        assert {outcome.result["node"] for outcome in found.values() if outcome.result} == {node_id}
    message = r"needs 1 CPU, label group=gpu; nodes: .*1 with 1 CPU, label group=spot.*compute\."
    with pytest.raises(EnvironmentProblem, match=message):
        run(faults.where, RayExecutor(), TaskResources(labels={"group": "gpu"}), 1, seconds=0.0)
    with pytest.raises(EnvironmentProblem, match="needs 64 CPU"):
        await_nodes(TaskResources(cpus=64), 0.0)


def test_a_node_that_joins_gets_work(cluster: Any) -> None:
    first = cluster.add_node(num_cpus=1, **SMALL)
    with ThreadPoolExecutor(1) as thread:
        work = thread.submit(run, faults.where, RayExecutor(), TaskResources(), 40, seconds=0.5)
        time.sleep(3.0)
        cluster.add_node(num_cpus=1, **SMALL)
        found = work.result()
    nodes = collections.Counter(outcome.result["node"] for outcome in found.values() if outcome.result)
    assert nodes.total() == 40
    assert len(nodes) == 2
    assert nodes[first.node_id] < 35


def test_lost_nodes_cost_no_tries_and_are_waited_for(cluster: Any, caplog: pytest.LogCaptureFixture) -> None:
    """All nodes go in the middle of the work; another one comes when the driver has missed them."""
    only_node = cluster.add_node(num_cpus=1, **SMALL)
    policy = RetryPolicy(1, 1, 1, 1, node_lost=5, pause_s=0.1)
    executor = RayExecutor(policy, wait_for_nodes_s=60.0)
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(1) as thread:
        work = thread.submit(run, faults.where, executor, TaskResources(), 8, seconds=3.0)
        await_note()
        cluster.remove_node(only_node, allow_graceful=False)
        deadline = time.monotonic() + 60
        while "no node of the cluster can run a task" not in caplog.text:
            assert time.monotonic() < deadline, caplog.text
            time.sleep(0.2)
        cluster.add_node(num_cpus=1, **SMALL)
        found = work.result()
    assert all(outcome.failure is None for outcome in found.values()), found
    assert sum(outcome.retried.get("node_lost", 0) for outcome in found.values()) >= 1


class Beginnings:
    """Keeps the shards whose attempts begin."""

    def __init__(self, shards: list[int]) -> None:
        self._shards = shards

    def started(self, shard: int, attempt: int) -> None:
        self._shards.append(shard)

    def waits(self, shard: int) -> None:
        """See pipeline.executor.Watcher."""


def test_a_drain_lets_what_runs_end_and_begins_nothing_more(cluster: Any, tmp_path: Path) -> None:
    """One place, three tasks in Ray's hands: the two that wait for it answer at once when it is free."""
    cluster.add_node(num_cpus=1, **SMALL)
    tasks = [Task(shard, {"shard": shard, "folder": str(tmp_path)}) for shard in range(6)]
    begun: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with Drain(60.0) as drain, ThreadPoolExecutor(1) as thread:

            def strike() -> None:
                deadline = time.monotonic() + 120
                while not list(tmp_path.glob("*.pid")):
                    assert time.monotonic() < deadline, "no task has begun"
                    time.sleep(0.05)
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(2.0)
                (tmp_path / "go").touch()

            struck = thread.submit(strike)
            outcomes = list(
                RayExecutor().run(
                    faults.write_pid_and_wait,
                    tasks,
                    TaskResources(),
                    Beginnings(begun),
                    drain,
                )
            )
            struck.result()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [outcome.shard for outcome in outcomes] == begun == [0]
    assert len(list(tmp_path.glob("*.pid"))) == 1
    assert (drain.n_running, drain.running) == (1, {0}), "run_shards takes those out that ended"
