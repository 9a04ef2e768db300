"""What a fit costs and stores, from shards of a few objects that are fitted for real.

Where fits may end early (`fit.stop_gain`) they run to their own end, unless that takes too long here. Where
all take the same steps, a few steps say what the others cost.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.calibration_render import Tried, try_tasks
from pipeline.calibration_training import CALIBRATION_STEPS, Learned, now
from pipeline.config import PipelineConfig
from pipeline.executor import Executor
from pipeline.fit_stage import fit_header
from pipeline.forecast_costs import Cost, Range
from storage.plan import read_plan
from storage.planes import PlanesStore
from storage.records import Status
from storage.shards import ObjectRecord
from storage.store import Store
from storage.views import ViewsStore

if TYPE_CHECKING:
    from pipeline.fit.settings import FitSettings

FITS_PER_TASK = 4
FIT_BUDGET_S = 60.0
"""Most seconds that fits to their own end may take; what does not fit in is assumed to take all steps."""
NAME = "calibration"


@dataclass(frozen=True)
class FitBytes:
    """Stored bytes of fits: of each object with its record, and of each shard with its statistics."""

    per_object: int
    per_shard: int

    @staticmethod
    def of(n_bytes: Sequence[int], n_ok: Sequence[int], statistics_bytes: Sequence[int]) -> FitBytes:
        """Returns the mean over shards, given their file sizes, objects and bytes of channel statistics."""
        objects = sum(n_bytes) - sum(statistics_bytes)
        return FitBytes(objects // max(1, sum(n_ok)), sum(statistics_bytes) // max(1, len(n_bytes)))


def measure_fit(
    store: Store, config: PipelineConfig, learned: Learned, executor: Executor, at_a_time: int, per_shard: int
) -> tuple[Cost, FitBytes | None, str]:
    """Fits some of the rendered objects, as many tasks at a time as a run has.

    Args:
        store: the dataset; its first shards of one object each are rendered.
        config: resolved configuration.
        learned: shared components, and objects in memory.
        executor: where the tasks run.
        at_a_time: tasks that this machine does at a time.
        per_shard: objects of one task of the run that is forecast.

    Returns:
        The cost, the bytes (None where no object could be fitted), and what to say about the steps.
    """
    n_rendered = len(ViewsStore.open(store).done())
    per_task = max(1, min(per_shard, FITS_PER_TASK, n_rendered))
    n_tasks = max(1, min(at_a_time, n_rendered // per_task))
    settings = config.fit.settings()
    few_steps = _few_steps(store, config, learned, per_task)
    whole = settings.stopping.gain > 0 and few_steps.all_steps.likely * per_task < FIT_BUDGET_S
    steps = {} if whole else {"stop_gain": 0.0}
    for name in () if whole else ("latent_steps", "rgb_steps"):
        steps[name] = min(CALIBRATION_STEPS, getattr(settings, name))
    chosen = config.model_copy(update={"fit": config.fit.model_copy(update=steps)})
    header = fit_header(store, read_plan(store), chosen, NAME, learned.shared_version, 1)
    header = header.model_copy(update={"objects_per_shard": per_task})
    planes = PlanesStore.create_or_open(store, read_plan(store), header)
    tried, waited_s = _fit(store, config, executor, range(n_tasks))
    records = {one.shard: _fitted(planes, one.shard) for one in tried}
    tried = [one for one in tried if records[one.shard]]
    every_task = config.compute.executor == "local"
    parts = {"task_s": waited_s} if every_task else {"start_s": waited_s}
    if not tried:
        return Cost(few_steps.all_steps_cpu, few_steps.all_steps, **parts), None, ""
    seconds = _per_object([(one.usage.seconds, records[one.shard], "seconds") for one in tried], whole)
    cpu = _per_object([(one.usage.cpu_seconds, records[one.shard], "cpu_seconds") for one in tried], whole)
    if not whole:
        seconds, cpu = few_steps.all_steps.plus(seconds), few_steps.all_steps_cpu.plus(cpu)
    said = _said_steps(settings, [r for own in records.values() for r in own], whole)
    return Cost(cpu, seconds, **parts), _bytes(planes, tried, records), said


def _fit(
    store: Store, config: PipelineConfig, executor: Executor, shards: Sequence[int]
) -> tuple[list[Tried], float]:
    from pipeline.fit.job import fit_shard
    from pipeline.fit.resources import FitResources

    resources = FitResources.of(config.compute.fit_cpus, 0.0, config.compute.kernel)
    arguments: dict[str, Any] = {"root_url": store.url, "fit_name": NAME, "resources": resources}
    return try_tasks(executor, fit_shard, arguments, shards, config.compute.fit_cpus)


def _fitted(planes: PlanesStore, shard: int) -> list[ObjectRecord]:
    return [record for record in planes.sidecar(shard).objects if record.status == Status.OK]


def _per_object(tasks: Sequence[tuple[float, Sequence[ObjectRecord], str]], whole: bool) -> Range:
    """Returns what an object takes: its share of the steps (or without it), and of all else in its task."""
    found = []
    for total, records, name in tasks:
        stepping = [float(record.info[name]) for record in records]
        rest = max(0.0, total - sum(stepping)) / len(records)
        found += [rest + (own if whole else 0.0) for own in stepping]
    return Range.of(found)


def _bytes(planes: PlanesStore, tried: Sequence[Tried], records: dict[int, list[ObjectRecord]]) -> FitBytes:
    blocks = [planes.sidecar(one.shard).statistics for one in tried]
    return FitBytes.of(
        [int(one.result["n_bytes"]) for one in tried],
        [len(records[one.shard]) for one in tried],
        [block.n_bytes if block else 0 for block in blocks],
    )


def _said_steps(settings: FitSettings, records: Sequence[ObjectRecord], whole: bool) -> str:
    most = settings.latent_steps + settings.rgb_steps
    if whole:
        taken = [sum(record.info["steps"]) for record in records]
        return f"; {len(taken)} fits ended by themselves after {min(taken)} to {max(taken)} of {most} steps"
    if settings.stopping.gain > 0:
        return (
            f"; assumed, as fits to their end take too long here: all {most} steps, low: an end as early as"
            " there may be"
        )
    return ""


@dataclass(frozen=True)
class _FewSteps:
    """What all steps of an object and its preparation take, from a few steps: seconds, processor seconds."""

    all_steps: Range
    all_steps_cpu: Range


def _few_steps(store: Store, config: PipelineConfig, learned: Learned, n_objects: int) -> _FewSteps:
    import torch

    from pipeline.compute import usable_cores
    from pipeline.model.shared import load_shared

    torch.set_num_threads(max(1, int(config.compute.fit_cpus)))
    shared, objects = load_shared(store, learned.shared_version), learned.objects[:n_objects]
    settings = config.fit.settings()
    ranges = [Range.of([]), Range.of([])]
    for name in ("latent_steps", "rgb_steps"):
        steps = getattr(settings, name)
        if not steps:
            continue
        counts = {"latent_steps": 0, "rgb_steps": 0, name: min(steps, CALIBRATION_STEPS)}
        measured = _fit_times(shared, objects, replace(settings, **counts))
        for i, (prepare_s, step_s) in enumerate(measured):
            # Both phases prepare the objects; a whole fit does that once.
            once = prepare_s if name == "latent_steps" or not settings.latent_steps else 0.0
            low = min(step_s) * _fewest_steps(settings, steps)
            own = Range(low, statistics.median(step_s) * steps, max(step_s) * steps)
            ranges[i] = ranges[i].plus(own.scaled(1 / len(objects), once / len(objects)))
    torch.set_num_threads(usable_cores())
    return _FewSteps(*ranges)


def _fewest_steps(settings: Any, steps: int) -> int:
    """Returns after how many steps a phase may end: each interval but the first can lower the rate."""
    rule = settings.stopping
    return min(steps, (rule.lowered + 2) * settings.curve_every) if rule.gain > 0 else steps


def _fit_times(shared: Any, objects: Any, settings: Any) -> list[tuple[float, list[float]]]:
    """Returns seconds, then processor seconds: those before the first step, and of each step."""
    from pipeline.fit.batch import FitBatch

    times = [now()]
    batch = FitBatch(shared, settings, 0, len(objects))
    for views in objects:
        batch.admit(views, None)
    times.append(now())
    while batch.busy:
        batch.step()
        times.append(now())
        batch.finished()
    spans = [[later[i] - earlier[i] for earlier, later in itertools.pairwise(times)] for i in range(2)]
    return [(own[0], own[1:]) for own in spans]
