"""What a shard costs beside its work: rendering and fitting by both executors, CPU-seconds by part.

    fpipe demo DATASET        (or plan, render and train-shared of other objects)
    python -m tests.benchmarks.bench_overhead DATASET [--objects 5] [--shards 0..3] [--workers 2]

Renders shards of a dataset's objects anew and fits them anew to its shared components, in copies, through the
stages themselves: session, executor, driver, store. --objects is the size of a shard; the real one is what 32
MiB hold: 14 objects of 160 views of 128², 134 codes (deploy/docs/scale.md).

Work is what makes the data: fetching or making a mesh, Blender's requests (import, BVH, rendering, checks of
the images), the steps of the fit with what they start from, the held-out figures, compression, rounding and
checksums of what is stored. The rest is overhead, whoever causes it. One JSON line per stage and executor, in
CPU-seconds:

    work, overhead       sums over all shards, and overhead_percent: the one over the other
    parts                of the overhead:
      blender: start and pipes    of the child process outside of its requests
      blender start, pipes, …     of the task's own process, by what it does; `task` is what is left
      between tasks      of Ray's workers, from one task to the next
      driver             the process of the command, while shards run
      start              of a task's process: interpreter and imports. Ray starts one for many tasks
                         (compute.max_calls): with few shards, as here, it weighs too much
      other processes    their end; of Ray its agents, and workers that wait in reserve
      ray                Ray's head and raylet, from their start
    steady_percent       overhead without what with Ray comes once for many shards: the last three
    idle_percent         of the workers' time while shards ran, that in which no work went on
    seconds, before      while shards ran, by the clock; until Ray had started
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import cli.main
from pipeline import fit_stage, render_stage
from pipeline.compute import ComputeSession
from pipeline.config import PipelineConfig, load_config
from pipeline.planned import stored_config
from pipeline.run import read_events
from pipeline.stages import StageResult
from storage.store import Store
from storage.views import ViewsStore
from tests.benchmarks import parts_of_task
from tests.benchmarks.bench_driver import cpu_by_role
from tests.benchmarks.bench_render import rounded
from tests.benchmarks.bench_scale import Silent

WORK = {"render": parts_of_task.RENDER_WORK, "fit-objects": parts_of_task.FIT_WORK}
STAGES = tuple(WORK)
WALL_OF_WORK = {"pipes", *parts_of_task.RENDER_WORK, *parts_of_task.FIT_WORK}
"""While a task waits for Blender's answer, Blender works."""
ONCE = {"local": (), "ray": ("start", "other processes", "ray")}
NOT_COPIED = ("fits", "runs", "reports", "maintenance")


@contextlib.contextmanager
def clocks(per_shard: int) -> Iterator[None]:
    """Lets the stages run tasks with clocks, on shards of this size.

    Processes of the local executor import what is the main module: let it be that of the command.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(sys.modules, {"__main__": cli.main}))
        for stage in (render_stage, fit_stage):
            stack.enter_context(mock.patch.object(stage, "choose_objects_per_shard", lambda *_: per_shard))
        stack.enter_context(mock.patch.object(render_stage, "render_shard", parts_of_task.render_shard))
        stack.enter_context(mock.patch.object(fit_stage, "fit_shard", parts_of_task.fit_shard))
        yield


def run_stage(
    stage: str, store: Store, config: PipelineConfig, session: ComputeSession, shards: str
) -> StageResult:
    """Runs some shards of a stage."""
    if stage == "render":
        return render_stage.render(store, config, shards, session, Silent(), {})
    return fit_stage.fit_objects(
        store, config, "overhead", None, shards, session, Silent(), {}, publish=False
    )


def measure(stage: str, root: Path, config: PipelineConfig, per_shard: int, shards: str) -> dict[str, Any]:
    """Runs one stage in a dataset of its own, and says where the time went."""
    store, began, before = Store(root), time.monotonic(), cpu_by_role()
    workers = config.compute.workers or 1
    with ComputeSession(config.compute) as session, clocks(per_shard):
        _ = session.executor  # a Ray of our own is started
        started_s, before["driver"] = time.monotonic() - began, cpu_by_role()["driver"]
        result = run_stage(stage, store, config, session, shards)
        after = cpu_by_role()
    (run_id,) = store.list(f"runs/{stage}")
    tasks = [event["parts"] for event in read_events(store, stage, run_id) if event["event"] == "shard_done"]
    inside_s = blender_s(ViewsStore.open(store), result) if stage == "render" else 0.0
    work, parts = split(stage, tasks, inside_s)
    used = {role: seconds - before.get(role, 0.0) for role, seconds in after.items()}
    parts["driver"] = used.pop("driver")
    parts["ray"] = used.pop("gcs", 0.0) + used.pop("raylet", 0.0)
    seen = sum(task["process_cpu_s"] for task in last_of_each_process(tasks))
    parts["other processes"] = used["workers"] - seen - sum(task["children_cpu_s"] for task in tasks)
    once = ONCE[config.compute.executor]
    overhead, steady = sum(parts.values()), sum(s for part, s in parts.items() if part not in once)
    busy_s = sum(seconds for task in tasks for part, seconds in task["wall"].items() if part in WALL_OF_WORK)
    return {
        "stage": stage,
        "executor": config.compute.executor,
        "workers": workers,
        "shards": len(tasks),
        "objects": result.objects_ok,
        "work": work,
        "overhead": overhead,
        "overhead_percent": 100 * overhead / work,
        "steady_percent": 100 * steady / work,
        "idle_percent": 100 * (1 - busy_s / (workers * result.seconds)),
        "seconds": result.seconds,
        "before": started_s,
        "parts": dict(sorted(parts.items(), key=lambda part: -part[1])),
    }


def last_of_each_process(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the tasks of each process the last, which knows what the process has used."""
    return list({task["process"]: task for task in sorted(tasks, key=lambda t: t["process_cpu_s"])}.values())


def blender_s(views: ViewsStore, result: StageResult) -> float:
    """CPU-seconds inside Blender's requests, by the records of the objects rendered now."""
    infos = [info for shard in views.done() for info in views.shard_info(shard).values()]
    assert len(infos) == result.objects_ok + result.objects_failed
    return float(sum(info.get("cpu_s", 0.0) for info in infos))


def split(stage: str, tasks: list[dict[str, Any]], inside_s: float) -> tuple[float, dict[str, float]]:
    """CPU-seconds of the work, and of what else the tasks did by part.

    Args:
        stage: Its name.
        tasks: What the clocks of each task say.
        inside_s: Of the work, what a child process did.
    """
    parts: Counter[str] = Counter()
    for task in tasks:
        parts.update(task["cpu"])  # a Counter adds
        parts.update({part: cpu_s for part, (cpu_s, _) in task["before"].items()})
        parts["blender: start and pipes"] += task["children_cpu_s"]
    work = inside_s + sum(parts.pop(part, 0.0) for part in WORK[stage])
    parts["blender: start and pipes"] -= inside_s
    return work, {part: seconds for part, seconds in parts.items() if seconds}


def copy_of(root: Path, folder: Path, stage: str) -> Path:
    """A dataset of the same objects: without views for `render`, without fits for `fit-objects`."""
    target = folder / f"{stage}-{len(list(folder.iterdir()))}"
    if stage == "render":
        return target  # planned anew
    shutil.copytree(root, target, ignore=shutil.ignore_patterns(*NOT_COPIED))
    return target


def main() -> None:
    """Prints one JSON line per stage and executor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--objects", type=int, default=5, help="per shard")
    parser.add_argument("--shards", default="0..3", help="of each stage")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--executors", nargs="+", choices=["local", "ray"], default=["local", "ray"])
    parser.add_argument("--set", nargs="*", default=[], help="settings for the copies, e.g. render.views=160")
    given = parser.parse_args()
    values = stored_config(Store(given.dataset))
    if values is None:
        sys.exit(f"{given.dataset}: no dataset; make one with: fpipe demo {given.dataset}")
    for stage in given.stages:
        for executor in given.executors:
            settings = [f"compute.executor={executor}", f"compute.workers={given.workers}", *given.set]
            config = load_config(values, settings=settings)
            with tempfile.TemporaryDirectory(prefix="bench-overhead-") as folder:
                root = copy_of(given.dataset, Path(folder), stage)
                found = measure(stage, root, config, given.objects, given.shards)
            sys.stdout.write(json.dumps(rounded({"dataset": given.dataset.name, **found})) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
