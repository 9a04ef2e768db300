"""What a rendered view costs, end to end, and what of it is not Blender's work; one JSON line.

Run: make bench-render, or python -m tests.benchmarks.bench_render [--objects 20] [--views 40] [--size 128].
Cars of FPIPE_TEST_MESHES where it is set, built-in ones elsewhere. Per shading, through the real stage under
Ray with a warm worker: CPU of the whole process tree (driver, Ray, task, Blender) against CPU inside
Blender's requests (import, BVH, rendering). Blender's and Ray's start are given apart: they come once per
shard and once per command. `ratio_to_plain`: CPU a view of `plain_render` in the same run, over ours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from pipeline.compute import ComputeSession
from pipeline.config import PipelineConfig, load_config
from pipeline.executor import Task, TaskResources
from pipeline.render_stage import make_plan
from render_jobs.job import render_shard
from render_jobs.sources.base import make_source
from render_jobs.worker import BlenderWorker
from storage.store import Store
from storage.views import ViewsStore

PLAIN_OBJECTS, PLAIN_VIEWS = 3, 4
SYNSET_OF_CARS = "02958343"


def config_of(arguments: argparse.Namespace, shading: str) -> PipelineConfig:
    """Returns one dataset's configuration: `objects` cars and a shading."""
    meshes = os.environ.get("FPIPE_TEST_MESHES")
    source = {"kind": "shapenet", "path": meshes} if meshes else {"kind": "procedural"}
    size = {"width": arguments.size, "height": arguments.size}
    render = {"views": arguments.views, "shading": shading, **size}
    base = {"source": {**source, "classes": {"car": arguments.objects}}, "render": render}
    return load_config({**base, "compute": {"workers": 1, "executor": arguments.executor}})


def tree_cpu_s() -> float:
    """CPU-seconds of this process and everything below it, the dead included where they were waited for."""
    total = 0.0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def ours(arguments: argparse.Namespace, shading: str) -> dict[str, Any]:
    """Renders all objects as one shard, after a first shard that warms the worker up."""
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(arguments, shading)
        store = Store(Path(folder) / "dataset")
        views = ViewsStore.create_or_open(store, make_plan(store, config, workers=1))
        half = -(-views.n_shards // 2)
        with ComputeSession(config.compute) as session:
            run(session, views, range(half))
            before, began = tree_cpu_s(), time.monotonic()
            run(session, views, range(half, views.n_shards))
            cpu_s, wall_s = tree_cpu_s() - before, time.monotonic() - began
        return figures(views, range(half, views.n_shards), cpu_s, wall_s)


def run(session: ComputeSession, views: ViewsStore, shards: range) -> None:
    """Renders some shards through the session's executor."""
    tasks = [Task(shard, {"root_url": views.store.url, "shard": shard, "attempt": "b"}) for shard in shards]
    for outcome in session.executor.run(render_shard, tasks, TaskResources(cpus=1.0)):
        if outcome.failure is not None:
            raise RuntimeError(outcome.failure.message)


def blender_start_cpu_s() -> float:
    """CPU-seconds until a Blender process is ready; each shard starts one."""
    with BlenderWorker() as worker:
        worker.start()
        times = psutil.Process(worker.pid).cpu_times()
        return float(times.user + times.system)


def figures(views: ViewsStore, shards: range, cpu_s: float, wall_s: float) -> dict[str, Any]:
    """Puts together what the tree used and what the objects' records say."""
    records = [info for shard in shards for info in views.shard_info(shard).values()]
    n_views = len(records) * views.plan.header.n_views
    blender_s = sum(info["cpu_s"] for info in records)
    start_s = len(shards) * blender_start_cpu_s()
    per_view = 1000.0 / n_views
    return {
        "views": n_views,
        "cpu_ms_per_view": per_view * (cpu_s - start_s),
        "blender_cpu_ms_per_view": per_view * blender_s,
        "import_share": sum(info["load_s"] for info in records) / sum(info["render_s"] for info in records),
        "overhead": (cpu_s - start_s - blender_s) / blender_s,
        "blender_start_cpu_s": start_s / len(shards),
        "views_per_s": n_views / wall_s,
    }


def plain(arguments: argparse.Namespace, meshes: list[Path]) -> float:
    """CPU-milliseconds a view of the usual script."""
    command = [sys.executable, "-m", "tests.benchmarks.plain_render", str(PLAIN_VIEWS), str(arguments.size)]
    done = subprocess.run([*command, *map(str, meshes)], capture_output=True, text=True, check=True)
    line = next(text for text in done.stderr.splitlines() if text.startswith("cpu_s "))
    return 1000.0 * float(line.split()[1]) / (PLAIN_VIEWS * len(meshes))


def some_meshes(arguments: argparse.Namespace, folder: Path) -> list[Path]:
    """Fetches the first meshes for the baseline."""
    config = config_of(arguments, "default")
    source = make_source(config.source.spec())
    entries = source.list({"car": arguments.objects}, config.source.seed)[:PLAIN_OBJECTS]
    return [source.fetch(entry, folder).path for entry in entries]


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in (("objects", 20), ("views", 40), ("size", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--executor", choices=["ray", "local"], default="ray")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain_ms = plain(arguments, some_meshes(arguments, Path(folder)))
    found: dict[str, Any] = {"plain_cpu_ms_per_view": plain_ms, **vars(arguments)}
    for shading in ("default", "diffuse"):
        found[shading] = ours(arguments, shading)
        found[shading]["ratio_to_plain"] = plain_ms / found[shading]["cpu_ms_per_view"]
    sys.stdout.write(json.dumps(rounded(found)) + "\n")


def rounded(value: Any) -> Any:
    """Keeps four significant digits."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
