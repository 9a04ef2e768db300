"""What the driver costs per shard, and whether its memory grows: 100,000 shards through Ray that do no work.

    python -m tests.benchmarks.bench_driver [--shards 100000] [--workers 2] [--plain 10000] [--failing 0]

Everything of a stage is real but the work: the command's ComputeSession and RayExecutor, `run_shards`, the
progress bar, the live state, events and records of the run, which go to a store on the local disk. Its
commits are replaced by a counting stub, `count_instead_of_committing`, which writes nothing: it numbers the
calls of its process and answers like `render_shard`. The events of the run are read at the end, and must name
every shard once and agree with the numbers of the stubs.

Before it, --plain tasks of the same kind go through plain Ray in the same session: one remote function, as
many tasks in flight, `ray.wait` for the next.

One JSON line:

    shards_per_s, plain_per_s, of_plain      of the whole run, of plain Ray, and the one over the other
    per_s_by_quarter                         shards a second in each quarter of the run
    cpu_ms, plain_cpu_ms                     per shard, of the driver's process, of the GCS, of the raylet and
                                             of the workers; the same of plain Ray
    rss_mib                                  of driver, GCS and raylet: before the first shard, when 1%, a
                                             quarter, half, three quarters and all were done
    run_bytes, run_files                     what the run's record takes: events, live state
    hours_of_10m                             hours of the driver for 10^7 objects, by objects per shard
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray
from rich.console import Console

from cli.terminal import TerminalProgress
from pipeline.compute import ComputeSession
from pipeline.config import ComputeConfig
from pipeline.executor import TaskResources
from pipeline.ray_executor import WINDOW_PER_SLOT
from pipeline.run import read_events, record_run
from pipeline.stages import ShardsFailedError, StageResult, run_shards
from storage.layout import run_folder
from storage.store import Store
from tests.benchmarks.counting_stub import PER_SHARD, count_instead_of_committing

MIB = 2**20
ROLES = {"gcs_server": "gcs", "raylet": "raylet"}
QUARTERS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Look:
    """Seconds since the start, shards done, resident bytes by role."""

    seconds: float
    done: int
    rss: dict[str, int]


@dataclass
class Watch:
    """Looks at the processes of this session once a second; a context manager.

    It is the progress that the stage tells, too, so that it knows how far the stage is.
    """

    progress: TerminalProgress
    looks: list[Look] = field(default_factory=list)
    done: int = 0

    def __enter__(self) -> Watch:
        self._processes = session_processes()
        self._cpu = cpu_by_role()
        self._began = time.monotonic()
        self._over = threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()
        self.cpu_s = {role: seconds - self._cpu.get(role, 0.0) for role, seconds in cpu_by_role().items()}

    def start(self, stage: str, total: int, unit: str, done: int = 0, work_unit: str = "") -> None:
        self.progress.start(stage, total, unit, done, work_unit)

    def advance(self, amount: int = 1, work: float | None = None, **figures: Any) -> None:
        self.done += 1
        self.progress.advance(amount, work, **figures)

    def finish(self) -> None:
        self.progress.finish()

    def say(self, message: str) -> None:
        self.progress.say(message)

    def at(self, done: float) -> Look:
        """The first look after so many shards."""
        return next((look for look in self.looks if look.done >= done), self.looks[-1])

    def _run(self) -> None:
        while not self._over.wait(1.0):
            self._look()

    def _look(self) -> None:
        rss = {role: process.memory_info().rss for role, process in self._processes.items()}
        self.looks.append(Look(time.monotonic() - self._began, self.done, rss))


def session_processes() -> dict[str, psutil.Process]:
    """This process, Ray's GCS and its raylet."""
    below = psutil.Process().children(recursive=True)
    found = {ROLES[process.name()]: process for process in below if process.name() in ROLES}
    return {"driver": psutil.Process(), **found}


def cpu_by_role() -> dict[str, float]:
    """CPU-seconds of this process, of GCS and raylet, and of all other processes below, the dead included."""
    me = psutil.Process()
    mine = me.cpu_times()
    ended = mine.children_user + mine.children_system
    total: dict[str, float] = {"driver": mine.user + mine.system, "workers": ended}
    for process in me.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times, role = process.cpu_times(), ROLES.get(process.name(), "workers")
            total[role] = total.get(role, 0.0) + times.user + times.system
            total["workers"] += times.children_user + times.children_system
    return total


@ray.remote(max_retries=0)
def plain_task(root_url: str, shard: int, attempt: str) -> dict[str, Any]:
    """The same without fpipe."""
    return count_instead_of_committing(root_url, shard, attempt)


def plain(count: int, window: int) -> tuple[float, dict[str, float]]:
    """Tasks a second through plain Ray, and CPU-milliseconds a task by role."""
    before, began = cpu_by_role(), time.monotonic()
    running: list[Any] = []
    for shard in range(count):
        if len(running) == window:
            ready, running = ray.wait(running, num_returns=1)
            ray.get(ready)
        running.append(plain_task.remote("file:///nowhere", shard, "0123456789abcdef"))
    ray.get(running)
    seconds, after = time.monotonic() - began, cpu_by_role()
    return count / seconds, per_task({role: after[role] - before.get(role, 0.0) for role in after}, count)


def per_task(cpu_s: dict[str, float], count: int) -> dict[str, float]:
    """Milliseconds per task."""
    return {role: round(1000 * seconds / count, 4) for role, seconds in sorted(cpu_s.items())}


def stage(store: Store, session: ComputeSession, watch: Watch, shards: int, failing: int) -> StageResult:
    """Runs one stage of no work, recorded like any other."""
    with record_run(store, "render", {"compute": session.config.model_dump(mode="json")}) as run:
        return run_shards(
            "render",
            session.executor,
            count_instead_of_committing,
            {"root_url": store.url, "fails_every": failing},
            range(shards),
            dict.fromkeys(range(shards), PER_SHARD),
            frozenset(),
            TaskResources(),
            watch,
            run,
            (160, "views"),
        )


def check_events(store: Store, shards: int) -> dict[str, Any]:
    """Reads the record of the only run; says what it takes, or raises where it is wrong."""
    (run_id,) = store.list("runs/render")
    seen, calls = bytearray(shards), dict[int, tuple[int, int]]()  # first and last call of a process
    for event in read_events(store, "render", run_id):
        if event["event"] == "shard_done":
            seen[event["shard"]] += 1
            first, last = calls.get(event["process"], (event["call"], event["call"]))
            calls[event["process"]] = (min(first, event["call"]), max(last, event["call"]))
    retried = sum(name.startswith("tried-") for name in os.listdir(store.local_path() or ""))  # noqa: PTH208 names
    n_calls = sum(last - first + 1 for first, last in calls.values())
    if seen.count(1) != shards or n_calls != shards:
        raise AssertionError(f"{seen.count(1)} of {shards} shards are recorded once, of {n_calls} calls")
    folder = run_folder("render", run_id)
    files = store.list(folder)
    sizes = sum(store.size(f"{folder}/{name}") for name in files)
    return {"run_files": len(files), "run_bytes": sizes, "processes": len(calls), "retried": retried}


def figures(watch: Watch, shards: int) -> dict[str, Any]:
    """What the looks say."""
    edges = [watch.looks[0], *(watch.at(part * shards) for part in QUARTERS)]
    speeds = [
        round((after.done - before.done) / max(after.seconds - before.seconds, 1e-9), 1)
        for before, after in itertools.pairwise(edges)
    ]
    marks = {"start": edges[0], "1%": watch.at(shards / 100)}
    marks |= {f"{part:.0%}": look for part, look in zip(QUARTERS, edges[1:], strict=True)}
    rss = {
        role: {name: round(look.rss[role] / MIB, 1) for name, look in marks.items()} for role in edges[0].rss
    }
    return {"per_s_by_quarter": speeds, "cpu_ms": per_task(watch.cpu_s, shards), "rss_mib": rss}


@contextlib.contextmanager
def session_of(workers: int, max_calls: int) -> Iterator[ComputeSession]:
    """A command's session with Ray on this machine."""
    with ComputeSession(ComputeConfig(executor="ray", workers=workers, max_calls=max_calls)) as session:
        yield session


def bench(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures plain Ray, then the driver."""
    n = arguments.shards
    with (
        tempfile.TemporaryDirectory(prefix="bench-driver-") as folder,
        session_of(arguments.workers, arguments.max_calls) as session,
    ):
        store = Store(Path(folder) / "root")
        Path(store.local_path() or "").mkdir()
        _ = session.executor  # starts Ray
        window = WINDOW_PER_SLOT * arguments.workers
        plain(100 * arguments.workers, window)  # workers are there
        plain_per_s, plain_ms = plain(arguments.plain, window)
        with Watch(TerminalProgress(Console(file=sys.stderr))) as watch:
            result = stage(store, session, watch, n, arguments.failing)
        if result.done != n:
            raise AssertionError(f"{result.done} of {n} shards done")
        per_s = n / result.seconds
        return {
            "shards": n,
            "workers": arguments.workers,
            "seconds": round(result.seconds, 2),
            "shards_per_s": round(per_s, 1),
            "plain_per_s": round(plain_per_s, 1),
            "of_plain": round(per_s / plain_per_s, 3),
            **figures(watch, n),
            "plain_cpu_ms": plain_ms,
            **check_events(store, n),
            "hours_of_10m": {size: round(1e7 / size / per_s / 3600, 2) for size in (1, PER_SHARD, 134)},
        }


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2, help="tasks at a time")
    parser.add_argument("--max-calls", type=int, default=0, help="shards per worker process; 0: any number")
    parser.add_argument("--plain", type=int, default=10_000, help="tasks of the baseline")
    parser.add_argument("--failing", type=int, default=0, help="every so many shards fail once; 0: none")
    try:
        sys.stdout.write(json.dumps(bench(parser.parse_args())) + "\n")
    except ShardsFailedError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
