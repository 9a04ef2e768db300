"""What rendering costs, from a few objects of the source; and how calibration tries any task."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.compute import usable_cores
from pipeline.config import PipelineConfig
from pipeline.executor import Executor, Task, TaskFunction, TaskOutcome, TaskResources, TaskUsage
from pipeline.forecast_costs import Cost, Range
from pipeline.render_stage import write_new_plan
from render_jobs.sources.base import ObjectEntry
from storage.errors import FpipeError
from storage.records import Status
from storage.store import Store
from storage.views import ViewsStore

CALIBRATION_OBJECTS = 8
"""Stored bytes of real cars vary by a third of their mean: the mean of 8 is off by an eighth of it."""
FIRST_OBJECTS = 4
RENDER_BUDGET_S = 30.0
"""The others are rendered only when the first have not taken longer than this."""


@dataclass(frozen=True)
class RenderBytes:
    """Stored bytes per object, and of how many objects they are the mean."""

    views: int
    passes: Mapping[str, int]
    n_objects: int


@dataclass(frozen=True)
class Tried:
    """One task that was done: its shard, what it returned, what it took."""

    shard: int
    result: Mapping[str, Any]
    usage: TaskUsage


def try_tasks(
    executor: Executor,
    function: TaskFunction,
    arguments: Mapping[str, Any],
    shards: Sequence[int],
    cpus: float,
) -> tuple[list[Tried], float]:
    """Runs tasks; returns them with the seconds that it took until the first could begin.

    Raises:
        FpipeError: One could not be done.
    """
    tasks = [Task(shard, {"shard": shard, "attempt": "calibration", **arguments}) for shard in shards]
    needs, began = TaskResources(cpus=min(cpus, usable_cores())), time.monotonic()
    found: list[Tried] = []
    waited_s = 0.0
    for outcome in executor.run(function, tasks, needs):
        found.append(_done(outcome))
        if len(found) == 1:
            waited_s = max(0.0, time.monotonic() - began - found[0].usage.seconds)
    return sorted(found, key=lambda one: one.shard), waited_s


def _done(outcome: TaskOutcome) -> Tried:
    if outcome.result is None or outcome.usage is None:
        failure = outcome.failure
        error = FpipeError(f"a few objects were tried: {failure.message if failure else 'no result'}")
        error.exit_code = failure.exit_code if failure else 1
        raise error
    return Tried(outcome.shard, outcome.result, outcome.usage)


def spread(entries: Sequence[ObjectEntry], n: int) -> list[ObjectEntry]:
    """Returns at most n objects at equal distances in the list; so are, roughly, the first few of them."""
    n = min(n, len(entries))
    chosen = [entries[i * len(entries) // n] for i in range(n)]
    return [*chosen[::3], *chosen[1::3], *chosen[2::3]]


def render_timed(**arguments: Any) -> dict[str, Any]:
    """Renders a shard; adds the processor seconds of its own process, which are not Blender's."""
    from render_jobs.job import render_shard

    began = time.process_time()
    result = render_shard(**arguments)
    return {**result, "own_cpu_s": time.process_time() - began}


def measure_render(
    store: Store, config: PipelineConfig, entries: Sequence[ObjectEntry], executor: Executor
) -> tuple[Cost, RenderBytes]:
    """Makes a dataset of a few objects, each in a shard of its own; returns its cost and size."""
    from render_jobs.outputs import pass_stores

    few = spread(entries, CALIBRATION_OBJECTS)
    views = ViewsStore.create_or_open(store, write_new_plan(store, config, few, workers=len(few)))
    groups = pass_stores(views)
    compute, began = config.compute, time.monotonic()
    arguments = {
        "root_url": store.url,
        "limits": compute.limits.model_dump(mode="json"),
        "mesh_cache": compute.mesh_cache(),
    }
    shards = range(views.n_shards)
    tried, waited_s = try_tasks(
        executor, render_timed, arguments, shards[:FIRST_OBJECTS], compute.render_cpus
    )
    if shards[FIRST_OBJECTS:] and time.monotonic() - began < RENDER_BUDGET_S:
        tried += try_tasks(executor, render_timed, arguments, shards[FIRST_OBJECTS:], compute.render_cpus)[0]
    cost, good = _render_cost(views, tried, waited_s, config.compute.executor == "local")
    n_ok = max(1, len(good))
    passes = {
        group.spec.kind: sum(store.size(group.spec.shard_key(one.shard)) for one in good) // n_ok
        for group in groups
    }
    n_bytes = sum(int(one.result["n_bytes"]) for one in good) // n_ok
    return cost, RenderBytes(n_bytes, passes, len(good))


def _render_cost(
    views: ViewsStore, tried: Sequence[Tried], waited_s: float, every_task: bool
) -> tuple[Cost, list[Tried]]:
    """Returns the cost, and the tasks whose object was rendered."""
    records = {one.shard: views.sidecar(one.shard).objects[0] for one in tried}
    good = [one for one in tried if records[one.shard].status == Status.OK]
    in_blender = {shard: float(record.info.get("cpu_s", 0.0)) for shard, record in records.items()}
    # Compressing and writing; the first task of a process also imports.
    own = min(float(one.result["own_cpu_s"]) for one in tried)
    start_cpu_s = [
        max(0.0, one.usage.cpu_seconds - float(one.result["own_cpu_s"]) - in_blender[one.shard])
        for one in tried
    ]
    start_s = [max(0.0, one.usage.seconds - float(one.result["render_s"])) for one in tried]
    cost = Cost(
        object_cpu_s=Range.of([in_blender[one.shard] + own for one in good]),
        object_s=Range.of([float(one.result["render_s"]) for one in good]),
        task_cpu_s=statistics.median(start_cpu_s),
        task_s=statistics.median(start_s) + (waited_s if every_task else 0.0),
        start_s=0.0 if every_task else waited_s,
    )
    return cost, good
