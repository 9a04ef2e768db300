"""The cells of the conformance table: every way to run a stage, with everything that may go wrong."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from storage.documents import dump_document
from storage.layout import shared_key
from storage.shared import META_FILE
from tests.conformance import work
from tests.conformance.check import Cell, check
from tests.conformance.faults import is_alive
from tests.conformance.jobs import SHARED_VERSION, IndexedJob, Job, SlurmArray, plot
from tests.conformance.strikes import (
    DRIVER_STRIKES,
    LOST_MEMBER,
    OUTAGES_S,
    DriverStrike,
    outage,
    store_on_s3,
    struck_driver,
    wait_until,
)
from tests.test_pipeline.small_dataset import write_small_dataset

STRUCK_SHARD = 4
LOCAL = ("--executor", "local", "--workers", "2")
RAY = ("--executor", "ray", "--workers", "2")
DEADLINE = ("--set", "compute.fit_deadline_s=4")
PATIENT = ("--set", "compute.retry.transient=10")
EXECUTORS: dict[str, tuple[type[Job], tuple[str, ...]]] = {
    "local": (Job, LOCAL),
    "ray": (Job, RAY),
    "slurm array": (SlurmArray, LOCAL),
    "kubernetes indexed job": (IndexedJob, LOCAL),
}
NODE_LOST = "its node is lost"
MONITOR = "memory ends, Ray's monitor"
FAULTS = ("none", *work.FAULTS, MONITOR, *OUTAGES_S, *DRIVER_STRIKES, NODE_LOST)
FORGIVEN = {
    "store does not answer": "transient",
    "exit": "died",
    "SIGSEGV": "died",
    "MemoryError": "memory",
    "memory up to ulimit -v": "memory",
    "hang": "timeout",
}
"""Fault → the class of failure under which a driver tries again."""
IN_FLIGHT = 2
"""Shards that a driver of these cells has under way at a time."""
SPARE_BYTES = 3 * 2**30
"""Memory beyond what is in use now at which Ray's monitor strikes: more than Ray and two workers take, less
than `work.SWELL` takes."""


def exists(executor: str, fault: str) -> bool:
    """Whether there is such a cell: Ray's monitor is Ray's, and the local executor has one node alone."""
    return executor == "ray" if fault == MONITOR else (executor, fault) != ("local", NODE_LOST)


def write_dataset(root: Path) -> None:
    """Views of 24 objects, and what the header of a fit asks of shared components."""
    store = write_small_dataset(root, 24)
    meta = {"plane_resolution": 8, "plane_order": ["xy", "xz", "yz"], "f_mic": 2, "n_base": 4}
    document = dump_document({"schema_version": "1.0", "box_half": 0.55, **meta}, readable=True)
    store.create(shared_key(SHARED_VERSION, META_FILE), document)


def run_cell(executor: str, fault: str, dataset: Path, folder: Path) -> Cell:
    """Run one cell and check what it leaves.

    Args:
        executor: One of `EXECUTORS`.
        fault: One of `FAULTS` that `exists` for it.
        dataset: A dataset with views and shared metadata; it is copied.
        folder: An empty folder.

    Raises:
        AssertionError: The dataset is not what it should be, or more was lost than the shards in flight.
    """
    if fault in OUTAGES_S:
        return _without_store(executor, OUTAGES_S[fault], dataset, folder)
    shutil.copytree(dataset, folder / "d")
    if fault == MONITOR:
        return _memory_monitor(folder)
    if fault == NODE_LOST:
        return _lost_node(folder) if executor == "ray" else _strike(executor, LOST_MEMBER, folder)
    if fault in DRIVER_STRIKES:
        return _strike(executor, DRIVER_STRIKES[fault], folder)
    return _go_wrong(executor, fault, folder)


def _job(executor: str, folder: Path, plot: str, *options: str, root: str | None = None) -> Job:
    kind, own = EXECUTORS[executor]
    return kind(root or folder / "d", folder, plot, (*own, *options))


def _go_wrong(executor: str, fault: str, folder: Path) -> Cell:
    """The work of one shard goes wrong, once."""
    of_work = fault if fault in work.FAULTS else ""
    job = _job(executor, folder, plot(of_work, STRUCK_SHARD, folder / "log"), *DEADLINE)
    codes = job.run()
    assert (1 in codes) if fault == "raise" else not any(codes), (codes, _said(folder))
    commands = _finish(job)
    cell = check(job.root, folder / "log", commands)
    assert cell.repeated <= bool(of_work), (cell, _said(folder))
    if of_work:
        assert (folder / "log" / "struck").exists(), "nothing went wrong"
        assert cell.recovery_s is not None
    assert fault not in FORGIVEN or FORGIVEN[fault] in cell.classes, (cell, _said(folder))
    return cell


def _strike(executor: str, strike: DriverStrike, folder: Path) -> Cell:
    """A driver gets a signal while it has shards under way."""
    grace = () if strike.grace_s is None else ("--set", f"compute.grace_s={strike.grace_s}")
    settings = plot("", STRUCK_SHARD, folder / "log", work_s=strike.work_s)
    job = _job(executor, folder, settings, *grace)
    with struck_driver(job, strike) as struck:
        job.run()
    assert job.processes[0].returncode == strike.code, (job.ends, _said(folder))
    commands = _finish(job)
    assert commands == 1 or not strike.is_node, "who watches over the job starts a lost member anew"
    cell = check(job.root, folder / "log", commands, struck)
    is_drained = strike.code > 0 and strike.grace_s is None
    assert cell.repeated <= (0 if is_drained else IN_FLIGHT), (cell, _said(folder))
    assert is_drained == (" 0 abandoned" in _said(folder)) or strike.code < 0, _said(folder)
    return cell


def _without_store(executor: str, seconds: float, dataset: Path, folder: Path) -> Cell:
    """The store answers nobody for some time: requests outlast 2 s, and shards are tried again after 20 s.

    A driver whose own first or last requests fall into the 20 s ends with 3, "environment".
    """
    with store_on_s3(dataset) as (root, proxy):
        settings = plot("", STRUCK_SHARD, folder / "log", work_s=1.0)
        job = _job(executor, folder, settings, *PATIENT, root=root)
        job.environment["AWS_ENDPOINT_URL"] = proxy.url
        with outage(job, proxy, seconds):
            codes = job.run()
        assert set(codes) <= ({0} if seconds < 5 else {0, 3}), (codes, _said(folder))
        cell = check(root, folder / "log", _finish(job))
    assert set(cell.classes) <= {"transient"}, cell
    if seconds < 5:
        assert cell.repeated == 0, (cell, _said(folder))
    else:
        assert cell.classes["transient"] >= 1, (cell, _said(folder))
    return cell


def _memory_monitor(folder: Path) -> Cell:
    """A task takes more memory than is left below the threshold of Ray's monitor, which ends it."""
    from ray._private import utils

    job = _job("ray", folder, plot(work.SWELL, STRUCK_SHARD, folder / "log"))
    share = (utils.get_used_memory() + SPARE_BYTES) / utils.get_system_memory()
    job.environment |= {
        "RAY_memory_usage_threshold": f"{share:.3f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    codes = job.run()
    assert not any(codes), (codes, _said(folder))
    _none_is_left(folder / "log")
    cell = check(job.root, folder / "log", 1)
    assert cell.classes["memory"] >= 1, (cell, _said(folder))
    assert cell.repeated <= IN_FLIGHT, (cell, _said(folder))
    return cell


def _lost_node(folder: Path) -> Cell:
    """Remove, from a Ray cluster of two nodes, the one that runs the struck shard."""
    log = folder / "log"
    with _ray_cluster() as (nodes, workers):
        job = Job(
            folder / "d", folder, plot("hang", STRUCK_SHARD, log), ("--ray-address", nodes.address, *RAY)
        )
        process = job.start()
        wait_until(lambda: (log / "struck").exists(), process)
        (note,) = [note for note in _notes(log) if note["shard"] == STRUCK_SHARD]
        raylets = {worker.all_processes["raylet"][0].process.pid: worker for worker in workers}
        nodes.remove_node(raylets[note["parent"]], allow_graceful=False)
        assert process.wait(200) == 0, _said(folder)
    cell = check(job.root, log, 1)
    assert cell.repeated <= IN_FLIGHT  # the node may have had another one begun
    assert "node_lost" in cell.classes, cell
    return cell


@contextlib.contextmanager
def _ray_cluster() -> Iterator[tuple[Any, list[Any]]]:
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 100 * 2**20}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    try:
        yield nodes, [nodes.add_node(num_cpus=1, **small) for _ in range(2)]
    finally:
        nodes.shutdown()


def _finish(job: Job) -> int:
    """Gives the same command once more where one did not end well; returns the number of commands."""
    commands = 1
    if any(job.ends.values()):
        commands += 1
        job.run()
        assert not any(job.ends.values()), (job.ends, _said(job.folder))
    _none_is_left(job.folder / "log")
    return commands


def _none_is_left(log: Path) -> None:
    """Every process that worked on a shard ends, also those of drivers that were killed."""
    pids = {note["pid"] for note in _notes(log)}
    deadline = time.monotonic() + 30
    while left := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"processes {left} are left"
        time.sleep(0.1)


def _notes(log: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in log.glob("*.json")]


def _said(folder: Path) -> str:
    lines = (folder / "said.txt").read_text().splitlines()
    return "\n".join(line for line in lines if "statistics" not in line)[-3000:]
