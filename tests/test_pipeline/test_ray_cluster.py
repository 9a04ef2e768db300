"""Two Ray nodes: both work, one is removed in the middle, the result is that of one node."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage.store import Store
from storage.views import ViewsStore
from tests.conformance import faults
from tests.conftest import TINY, clean_environment, command
from tests.test_cli.test_main_job import ONE_THREAD, assert_same_datasets


@pytest.fixture
def cluster(tmp_path_factory, monkeypatch):
    """A head without CPUs and two workers with one CPU each, as processes of this machine."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    nodes = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100 * 2**20},
    )
    workers = [nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20) for _ in range(2)]
    yield nodes, workers
    nodes.shutdown()


def nodes_of(root: Path, stage: str) -> set[str]:
    """Returns the Ray nodes that committed shards, from the runs' event logs."""
    events = [
        json.loads(line)
        for path in (root / "runs" / stage).glob("*/events-0000.jsonl")
        for line in path.read_text().splitlines()
    ]
    return {event["node"] for event in events if event["event"] == "shard_done"}


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err


def test_render_and_fit_on_two_nodes_of_which_one_is_removed(cluster, tiny_dataset, tmp_path):
    nodes, workers = cluster
    root, address = tmp_path / "dataset", nodes.address
    rendering = start("render", str(root), "--preset", str(TINY), "--ray-address", address, "--workers", "2")
    finish(rendering)
    assert len(nodes_of(root, "render")) == 2
    finish(start("train-shared", str(root), "--ray-address", address, *ONE_THREAD))
    fitting = start("fit-objects", str(root), "--ray-address", address, "--workers", "2")
    deadline = time.monotonic() + 200
    while not list((root / "fits/default/done").glob("*")):
        assert fitting.poll() is None, fitting.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    nodes.remove_node(workers[0], allow_graceful=False)
    finish(fitting)
    assert ViewsStore.open(Store(root)).done() == frozenset(range(8))
    assert_same_datasets(root, tiny_dataset)


ABANDONING_DRIVER = """
import sys
from pathlib import Path

from pipeline.executor import Task, TaskResources
from pipeline.ray_executor import RayExecutor
from pipeline.ray_session import ray_session
from tests.conformance import faults

address, folder = sys.argv[1], Path(sys.argv[2])
tasks = [Task(shard, {"shard": shard, "folder": str(folder)}) for shard in range(2)]
with ray_session(address, folder):
    function = faults.first_answers_second_writes_its_pid_and_hangs
    outcomes = RayExecutor().run(function, tasks, TaskResources())
    assert next(outcomes).shard == 0
    outcomes.close()
"""


def test_abandoned_tasks_end_when_their_driver_leaves_the_cluster(cluster, tmp_path):
    nodes, _ = cluster
    driver = subprocess.run(
        [sys.executable, "-c", ABANDONING_DRIVER, nodes.address, str(tmp_path)],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=200,
        check=False,
    )
    assert driver.returncode == 0, driver.stderr
    pid = faults.wait_for_pid(tmp_path)
    deadline = time.monotonic() + 30
    while faults.is_alive(pid):
        assert time.monotonic() < deadline, "the hanging task outlived its driver by 30 s"
        time.sleep(0.1)
