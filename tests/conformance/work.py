"""The work of a fit shard, made cheap: a code is drawn from its row. Commits and publishing are real.

It goes wrong once, in the chosen way, in the chosen shard, after its objects are built and before the commit.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from storage.errors import TransientError
from storage.planes import PlanesStore
from storage.records import ObjectFit, Status
from storage.store import Store

WORK_S = 0.3
"""A shard takes so long, so that others run while one goes wrong."""
BLOCK_BYTES = 64 * 2**20
LIMIT_BLOCKS = 8
SWOLLEN_BLOCKS = 72
"""Blocks that a task may take at most; and those that it takes where something else ends it (4.5 GiB)."""


@dataclass(frozen=True)
class Plot:
    """What goes wrong, and where.

    Attributes:
        fault: One of `FAULTS`, or "" for nothing.
        shard: In this shard.
        folder: For the attempts' own log, and for the mark that it has happened.
        work_s: How long a shard takes.
    """

    fault: str
    shard: int
    folder: str
    work_s: float = WORK_S

    def strike(self, shard: int) -> None:
        """Go wrong, once."""
        if not self.fault or shard != self.shard:
            return
        try:
            (Path(self.folder) / "struck").touch(exist_ok=False)
        except FileExistsError:
            return
        (_swell if self.fault == SWELL else FAULTS[self.fault])()


def code_of(row: int, header: Any) -> ObjectFit:
    """The code of one object: what every attempt comes to."""
    rng = np.random.default_rng(row)
    shape = (3, header.f_mic, header.resolution, header.resolution)
    metrics = {"psnr_db": 20.0 + row}
    return ObjectFit(
        rng.normal(size=shape).astype(header.dtype), rng.normal(size=header.n_base).astype("f4"), 2, metrics
    )


def fit_shard(
    root_url: str, fit_name: str, shard: int, attempt: str, resources: Any, plot: Plot
) -> dict[str, Any]:
    """Takes the place of `pipeline.fit.job.fit_shard`."""
    note(plot, shard, "begun")
    planes = PlanesStore.open(Store(root_url), fit_name)
    try:
        planes.publish(shard)
        skipped = True
    except FileNotFoundError:
        skipped = False
        with planes.builder(shard, f"{attempt}-{os.getpid()}-{time.time_ns()}") as builder:
            for row in planes.shard_rows(shard):
                builder.add(row, code_of(row, planes.header))
            time.sleep(plot.work_s)
            plot.strike(shard)
            builder.commit()
    status = planes.sidecar(shard).status
    note(plot, shard, "ended")
    counts = {"n_ok": int((status == Status.OK).sum()), "n_failed": int((status == Status.FAILED).sum())}
    return {"shard": shard, "skipped": skipped, **counts}


def note(plot: Plot, shard: int, what: str) -> None:
    """One file per event: processes die at any moment."""
    values = {"shard": shard, "what": what, "at": time.time(), "pid": os.getpid(), "parent": os.getppid()}
    path = Path(plot.folder) / f"{time.time_ns()}-{os.getpid()}-{what}.json"
    path.with_suffix(".part").write_text(json.dumps(values))
    path.with_suffix(".part").rename(path)


def _raise() -> None:
    raise RuntimeError("a bug in one shard")


def _store_away() -> None:
    raise TransientError("the store did not answer")


def _exit() -> None:
    os._exit(7)


def _segv() -> None:
    ctypes.string_at(0)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _memory() -> None:
    raise MemoryError("no memory left")


def _fill_to_limit() -> None:
    """Take memory until the system refuses more: `ulimit -v` as a user or a batch system sets it."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + LIMIT_BLOCKS * BLOCK_BYTES
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size, before[1]))
    try:
        _fill(2 * LIMIT_BLOCKS)
    finally:  # the process may go on with other tasks
        resource.setrlimit(resource.RLIMIT_AS, before)


def _swell() -> None:
    """Take memory and keep it until somebody ends this process."""
    blocks = _fill(SWOLLEN_BLOCKS)
    time.sleep(60)
    raise AssertionError(f"nobody minded {len(blocks)} blocks of {BLOCK_BYTES} bytes")


def _fill(n_blocks: int) -> list[bytes]:
    blocks = []
    for _ in range(n_blocks):
        blocks.append(b"1" * BLOCK_BYTES)  # every page is written
        time.sleep(0.02)
    return blocks


def _hang() -> None:
    time.sleep(3600)


FAULTS = {
    "raise": _raise,
    "store does not answer": _store_away,
    "exit": _exit,
    "SIGSEGV": _segv,
    "SIGKILL (also the kernel's when memory ends)": _kill,
    "MemoryError": _memory,
    "memory up to ulimit -v": _fill_to_limit,
    "hang": _hang,
}
SWELL = "Ray's memory monitor"
