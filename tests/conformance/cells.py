"""The cells of the conformance table: every way to run a stage, with everything that may go wrong."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from storage.documents import dump_document
from storage.layout import shared_key
from storage.planes import PlanesStore
from storage.shared import META_FILE
from storage.store import Store
from tests.conformance import work
from tests.conformance.check import Cell, check
from tests.conformance.faults import is_alive
from tests.conformance.jobs import DRAINED, SHARED_VERSION, IndexedJob, Job, SlurmArray, plot
from tests.test_pipeline.small_dataset import write_small_dataset

STRUCK_SHARD = 4
LOCAL = ("--executor", "local", "--workers", "2", "--set", "compute.fit_deadline_s=4")
RAY = ("--executor", "ray", "--workers", "2", "--set", "compute.fit_deadline_s=4")
EXECUTORS: dict[str, Callable[[Path, str], Job]] = {
    "local": lambda root, plot: Job(root, plot, LOCAL),
    "ray": lambda root, plot: Job(root, plot, RAY),
    "slurm array": lambda root, plot: SlurmArray(root, plot, LOCAL),
    "kubernetes indexed job": lambda root, plot: IndexedJob(root, plot, LOCAL),
}
DRIVER_FAULTS = {
    "driver killed": signal.SIGKILL,
    "SIGTERM to the driver": signal.SIGTERM,
    "Ctrl-C": signal.SIGINT,
}
NODE_LOST = "node lost"
FAULTS = ("none", *work.FAULTS, *DRIVER_FAULTS)
SIGNAL_CODES = {signal.SIGKILL: -9, signal.SIGTERM: DRAINED, signal.SIGINT: 130}
IN_FLIGHT = 2
"""Shards that a driver of these cells has under way at a time."""


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
        fault: One of `FAULTS`.
        dataset: A dataset with views and shared metadata; it is copied.
        folder: An empty folder.

    Raises:
        AssertionError: The dataset is not what it should be, or more was lost than the shards in flight.
    """
    root, log = folder / "d", folder / "log"
    shutil.copytree(dataset, root)
    of_work = fault if fault in work.FAULTS else ""
    job = EXECUTORS[executor](root, plot(of_work, STRUCK_SHARD, log))
    struck = DRIVER_FAULTS.get(fault)
    with _struck_driver(job, struck) if struck else contextlib.nullcontext():
        codes = job.run()
    commands = 1
    if any(code != 0 for code in _last(job)):
        commands += 1
        codes = [*codes, *job.run()]
        assert not any(_last(job)), (codes, _said(root))
    _check_codes(job, fault, codes)
    _none_is_left(log)
    cell = check(root, log, STRUCK_SHARD, commands)
    bound = 0 if fault == "none" else IN_FLIGHT if struck else 1
    assert cell.repeated <= bound, (cell, _said(root))
    if of_work:
        assert (log / "struck").exists(), "nothing went wrong"
        assert cell.recovery_s is not None
    return cell


def run_lost_node(dataset: Path, folder: Path) -> Cell:
    """Remove, from a Ray cluster of two nodes, the one that runs the struck shard."""
    root, log = folder / "d", folder / "log"
    shutil.copytree(dataset, root)
    with _ray_cluster() as (nodes, workers):
        options = ("--ray-address", nodes.address, "--workers", "2")
        job = Job(root, plot("hang", STRUCK_SHARD, log), options)
        process = job.start()
        _wait(lambda: (log / "struck").exists(), process)
        (note,) = [note for note in _notes(log) if note["shard"] == STRUCK_SHARD]
        raylets = {worker.all_processes["raylet"][0].process.pid: worker for worker in workers}
        nodes.remove_node(raylets[note["parent"]], allow_graceful=False)
        assert process.wait(200) == 0, _said(root)
    cell = check(root, log, STRUCK_SHARD, 1)
    assert cell.repeated <= IN_FLIGHT  # the node may have had another one begun
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


@contextlib.contextmanager
def _struck_driver(job: Job, number: signal.Signals) -> Iterator[None]:
    """Sends a signal to the first driver when it has done some shards and has others under way."""

    def strike() -> None:
        _wait(lambda: bool(job.processes) and len(_done(job.root)) >= 2, None)
        job.processes[0].send_signal(number)

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive()


def _done(root: Path) -> frozenset[int]:
    try:
        return PlanesStore.open(Store(root), "made").done()
    except Exception:  # noqa: BLE001 it is being made at this moment
        return frozenset()


def _last(job: Job) -> list[int]:
    """The codes with which each part of the job ended at last."""
    return list(job.ends.values())


def _check_codes(job: Job, fault: str, codes: list[int]) -> None:
    """The first end says what happened; work that may pass is tried again and says nothing."""
    if fault in DRIVER_FAULTS:
        assert job.processes[0].returncode == SIGNAL_CODES[DRIVER_FAULTS[fault]], codes
    elif fault == "raise":
        assert 1 in codes, codes
    else:
        assert not any(codes), codes


def _none_is_left(log: Path) -> None:
    """Every process that worked on a shard ends, also those of drivers that were killed."""
    pids = {note["pid"] for note in _notes(log)}
    deadline = time.monotonic() + 30
    while left := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"processes {left} are left"
        time.sleep(0.1)


def _notes(log: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in log.glob("*.json")]


def _said(root: Path) -> str:
    return (root.parent / "said.txt").read_text()[-3000:]


def _wait(what: Callable[[], bool], process: subprocess.Popen[str] | None) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert process is None or process.poll() is None, "it ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.02)
