"""Hundreds of objects through the real render job, first in peace, then with a Blender that keeps dying.

    python -m tests.benchmarks.bench_soak [--objects 300] [--views 20] [--size 128] [--meshes FOLDER]

Renders --objects procedural objects (or those of a ShapeNet folder, over and over) as one shard in one
process and watches the memory of the Blender process; then a third as many while a thread kills or stops the
Blender process every few seconds with SIGSEGV, SIGABRT, SIGKILL or SIGSTOP. Prints one JSON line:

    rss_mib                                    resident memory of the Blender process of the first part: mean
                                               of each tenth of its time (the first has its start in it)
    rss_mib_max                                the largest
    parent_mib_first, parent_mib_last          of the job's process, over both parts
    kills, processes                           how often it was killed or stopped, Blender processes used
    ok, failed                                 objects of both parts by their end
    fds_before, fds_after                      open descriptors of the job's process
    zombies, processes_left, files_left        what is left at the end; all must be 0
    mib_on_disk_max                            most that the temporary folder ever held
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from render_jobs.config import RenderConfig
from render_jobs.job import render_shard
from render_jobs.sources.base import make_source
from render_jobs.swept_folder import PREFIX
from storage.plan import PlanHeader, write_plan
from storage.records import PlanRow
from storage.store import Store
from storage.views import ViewsStore

MIB = 2**20
KILL_EVERY_S = 4.0
DEADLINE_S = 8.0
SIGNALS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL, signal.SIGSTOP)


@dataclass
class Watch:
    """Looks at the Blender process ten times a second, and kills it if asked to; a context manager."""

    folder: Path
    kills_every_s: float | None = None
    rss: list[tuple[float, int, int]] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    disk: int = 0
    kills: int = 0

    def __enter__(self) -> Watch:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def processes(self) -> set[int]:
        """Ids of the Blender processes that were seen."""
        return {pid for _, pid, _ in self.rss}

    def _run(self) -> None:
        choice, next_kill = random.Random(0), time.monotonic() + (self.kills_every_s or 0.0)
        while not self._ended.wait(0.1):
            self.parent.append(psutil.Process().memory_info().rss)
            self.disk = max(self.disk, _bytes_below(self.folder))
            for child in blender_processes():
                with contextlib.suppress(psutil.Error):
                    self.rss.append((time.monotonic(), child.pid, child.memory_info().rss))
                    if self.kills_every_s and time.monotonic() > next_kill:
                        os.kill(child.pid, choice.choice(SIGNALS))
                        self.kills += 1
                        next_kill = time.monotonic() + self.kills_every_s * choice.uniform(0.5, 1.5)


def blender_processes() -> list[psutil.Process]:
    """The Blender processes of this process."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "render_jobs.child" in child.cmdline():
                found.append(child)
    return found


def _bytes_below(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(place) / name).stat().st_size
    return total


def make_dataset(root: Path, n_objects: int, config: RenderConfig, meshes: str | None) -> ViewsStore:
    """A plan of one shard; with a folder of meshes, its objects come again and again under other names."""
    source = {"kind": "shapenet", "path": meshes} if meshes else {"kind": "procedural"}
    each = -(-n_objects // 4)
    entries = make_source(source).list(
        {} if meshes else dict.fromkeys(["car", "sofa", "cabinet", "speaker"], each), 0
    )
    rows = [
        PlanRow(
            row,
            f"{row:05d}-{entry.object_id}",
            entry.class_name,
            source["kind"],
            entry.location,
            entry.fingerprint,
        )
        for row, entry in enumerate(entries[row % len(entries)] for row in range(n_objects))
    ]
    header = PlanHeader(
        n_objects=n_objects,
        n_views=config.views,
        height=config.height,
        width=config.width,
        objects_per_views_shard=n_objects,
        source=source,
        render_config=config.model_dump(mode="json"),
    )
    store = Store(root)
    return ViewsStore.create_or_open(store, write_plan(store, header, rows))


def soak(n_objects: int, views: int, size: int, meshes: str | None = None) -> dict[str, Any]:
    """Run both parts and return the figures."""
    config = RenderConfig(views=views, width=size, height=size)
    me = psutil.Process()
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as name,
        _temporary_folder(Path(name) / "tmp") as temporary,
    ):
        calm = make_dataset(Path(name) / "calm", n_objects, config, meshes)
        wild = make_dataset(Path(name) / "wild", -(-n_objects // 3), config, meshes)
        fds_before = me.num_fds()
        with Watch(temporary) as first:
            in_peace = render_shard(calm.store.url, 0, "calm", {"deadline_s": 300.0})
        with Watch(temporary, KILL_EVERY_S) as second:
            in_trouble = render_shard(wild.store.url, 0, "wild", {"deadline_s": DEADLINE_S})
        time.sleep(1.0)
        children = me.children(recursive=True)
        left = [path for path in temporary.rglob("*") if path.is_file() or path.name.startswith(PREFIX)]
        return {
            **_memory(first.rss),
            "parent_mib_first": round(first.parent[0] / MIB),
            "parent_mib_last": round(second.parent[-1] / MIB),
            "seconds": round(in_peace["seconds"] + in_trouble["seconds"], 1),
            "kills": second.kills,
            "processes": [len(first.processes), len(second.processes)],
            "ok": [in_peace["n_ok"], in_trouble["n_ok"]],
            "failed": [in_peace["n_failed"], in_trouble["n_failed"]],
            "failures": sorted({failure.kind for *_, failure in wild.failures()}),
            "fds_before": fds_before,
            "fds_after": me.num_fds(),
            "zombies": sum(child.status() == psutil.STATUS_ZOMBIE for child in children),
            "processes_left": len(children),
            "files_left": len(left),
            "mib_on_disk_max": round(max(first.disk, second.disk) / MIB, 1),
        }


@contextlib.contextmanager
def _temporary_folder(folder: Path) -> Any:
    """Make everything use this folder for temporary files."""
    folder.mkdir()
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before


def _memory(samples: list[tuple[float, int, int]]) -> dict[str, Any]:
    """Figures of the process that lived longest."""
    pids = [pid for _, pid, _ in samples]
    longest = max(set(pids), key=pids.count)
    sizes = [rss / MIB for _, pid, rss in samples if pid == longest]
    tenths = [sizes[len(sizes) * i // 10 : len(sizes) * (i + 1) // 10] for i in range(10)]
    return {
        "rss_mib": [round(sum(part) / max(1, len(part))) for part in tenths],
        "rss_mib_max": round(max(sizes)),
    }


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objects", type=int, default=300)
    parser.add_argument("--views", type=int, default=20)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--meshes", help="a folder in ShapeNet's layout, in the place of procedural objects")
    given = parser.parse_args()
    print(json.dumps(soak(given.objects, given.views, given.size, given.meshes)))  # noqa: T201


if __name__ == "__main__":
    main()
