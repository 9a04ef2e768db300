"""Does a little of every stage for real on a few objects of the source, in a scratch folder, and times it.

A step of the joint training costs the same for 3 objects as for 500, because it always sees a batch of the
same size. Limits: seconds are of this machine with this load, processor seconds of this machine; learning is
measured on its processor; how many steps fits leave out (`fit.stop_gain`) is known only after a training.
"""

from __future__ import annotations

import functools
import itertools
import resource
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.compute import usable_cores
from pipeline.config import PipelineConfig
from pipeline.forecast_costs import Cost, Range
from pipeline.render_stage import make_plan
from pipeline.scratch import scratch_folder
from render_jobs.sources.base import ObjectEntry
from storage.records import Status
from storage.shared import rendering_files
from storage.store import Store
from storage.views import ViewsStore

CALIBRATION_OBJECTS = 3
CALIBRATION_STEPS = 4
TRAIN_START_S = 15.0
"""Seconds for Ray Train's worker group to start and import torch; seen on 2 cores: 10 to 28."""

Times = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Measured:
    """What was measured, or what earlier runs say.

    Attributes:
        basis: what the figures come from, and what their range is.
        views_bytes: stored bytes per object.
        pass_bytes: name of a pass → stored bytes per object.
        shared_bytes: stored bytes of the shared components, as far as renderings need them.
        render: of the render stage.
        train: of the whole training, as of one object.
        fit: of the fit stage with the evaluation of its objects.
        knows_gpus: learning was measured on the GPUs that the configuration asks for.
    """

    basis: str
    views_bytes: int
    pass_bytes: dict[str, int]
    shared_bytes: int
    render: Cost | None
    train: Cost | None
    fit: Cost | None
    knows_gpus: bool = False


BASIS = (
    "measured here on a few objects: low and high as if every object, or step, cost as the cheapest and the"
    " dearest of them; low also as if every fit stopped as early as it may"
)


def calibrated(config: PipelineConfig, entries: list[ObjectEntry], fits_at_a_time: int) -> Measured:
    """Renders a few objects into a scratch dataset, then times a few steps of learning on them.

    Args:
        config: resolved configuration, with what the input decides.
        entries: objects of the source.
        fits_at_a_time: objects that are fitted together.
    """
    with scratch_folder() as scratch:
        store = Store(scratch.folder / "calibration")
        render, views_bytes, pass_bytes = _measure_render(store, config, entries)
        train, fit, shared_bytes = _measure_learning(store, config, len(entries), fits_at_a_time)
    return Measured(BASIS, views_bytes, pass_bytes, shared_bytes, render, train, fit)


def _sample(entries: list[ObjectEntry]) -> dict[str, int]:
    """Returns how many objects of which class to try: the first classes get one more."""
    names = list(dict.fromkeys(entry.class_name for entry in entries))
    available = Counter(entry.class_name for entry in entries)
    wanted: Counter[str] = Counter(names[position % len(names)] for position in range(CALIBRATION_OBJECTS))
    return {name: min(count, available[name]) for name, count in wanted.items()}


def _measure_render(
    store: Store, config: PipelineConfig, entries: list[ObjectEntry]
) -> tuple[Cost, int, dict[str, int]]:
    """Returns what an object costs, and its stored bytes: views, each pass. Every shard holds one object."""
    from render_jobs.job import render_shard
    from render_jobs.outputs import pass_stores

    few = config.model_copy(update={"source": config.source.model_copy(update={"classes": _sample(entries)})})
    views = ViewsStore.create_or_open(store, make_plan(store, few, workers=1))
    limits, cache = config.compute.limits.model_dump(mode="json"), config.compute.mesh_cache()
    walls, own, started, summaries = [], [], [], []
    for shard in range(views.n_shards):
        began, cpu, child_cpu = time.monotonic(), time.process_time(), _children_cpu_s()
        summaries.append(render_shard(store.url, shard, "calibration", limits, cache))
        walls.append(time.monotonic() - began)
        own.append(time.process_time() - cpu)
        started.append(_children_cpu_s() - child_cpu)
    rendered = [views.sidecar(shard).objects[0] for shard in range(views.n_shards)]
    in_blender = [float(record.info.get("cpu_s", 0.0)) for record in rendered]
    # Compressing and writing; the first one also imports.
    more = min(own)
    good = [i for i, record in enumerate(rendered) if record.status == Status.OK]
    n_ok = max(1, len(good))
    n_bytes = sum(int(summary["n_bytes"]) for summary in summaries) // n_ok
    pass_bytes = {
        group.spec.kind: sum(store.size(group.spec.shard_key(i)) for i in range(group.n_shards)) // n_ok
        for group in pass_stores(views)
    }
    seconds = [float(summary["render_s"]) for summary in summaries]
    cost = Cost(
        object_cpu_s=Range.of([in_blender[i] + more for i in good]),
        object_s=Range.of([seconds[i] for i in good]),
        task_cpu_s=statistics.mean(max(0.0, a - b) for a, b in zip(started, in_blender, strict=True)),
        task_s=statistics.mean(max(0.0, a - b) for a, b in zip(walls, seconds, strict=True)),
    )
    return cost, n_bytes, pass_bytes


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _measure_learning(
    store: Store, config: PipelineConfig, n: int, fits_at_a_time: int
) -> tuple[Cost | None, Cost | None, int]:
    """Returns what the whole training and a fit cost, and the bytes of the shared components."""
    import torch

    from pipeline.train.job import build_trainer, read_training_views
    from storage.plan import read_plan

    plan, views = read_plan(store), ViewsStore.open(store)
    rows = [row for row, status in enumerate(views.status()) if status == Status.OK]
    if not rows:
        return None, None, 0
    objects = read_training_views(store, plan, rows)
    settings = config.train.settings()
    wanted = max(settings.joint_objects, settings.warmup_objects)
    copies = [
        replace(objects[i % len(objects)], object_id=f"{objects[i % len(objects)].object_id}-{i}")
        for i in range(wanted)
    ]
    began = _now()
    trainer = build_trainer(copies, config.train.shortened(CALIBRATION_STEPS), "cpu")
    prepare = _since(began)
    times: tuple[dict[str, list[float]], dict[str, list[float]]] = (defaultdict(list), defaultdict(list))
    while trainer.phase != "done":
        began = _now()
        point = trainer.step()
        for own, value in zip(times, _since(began), strict=True):
            own[point.phase].append(value)
    counts = {
        "autoencoder": settings.autoencoder.steps,
        "warmup": settings.warmup_steps,
        "joint": settings.joint_steps,
    }
    # Every object is prepared once: its rays on construction, its latents by the first step of a phase.
    prepared = min(config.train.objects, n) / len(copies)
    wall, cpu = (
        _training_range(own, counts, prepared).scaled(1.0, once * prepared)
        for own, once in zip(times, prepare, strict=True)
    )
    train = Cost(cpu, wall, task_s=TRAIN_START_S)
    version = trainer.shared_components().save(store, trainer.codes(), {})
    shared_bytes = sum(rendering_files(store, version).values())
    torch.set_num_threads(max(1, int(config.compute.fit_cpus)))
    fit = _measure_fit(config, store, version, copies[:fits_at_a_time], rows)
    torch.set_num_threads(usable_cores())
    return train, fit, shared_bytes


def _training_range(seconds: Times, counts: Mapping[str, int], prepared: float) -> Range:
    """Returns what all steps take if each took as the quickest, the middle and the slowest of a few."""
    low, likely, high = (
        _training_seconds(seconds, counts, prepared, pick) for pick in (min, statistics.median, max)
    )
    return Range(low, likely, high)


def _training_seconds(
    seconds: Times,
    counts: Mapping[str, int],
    prepared: float,
    pick: Callable[[Sequence[float]], float] = min,
) -> float:
    """Seconds of all steps, from those of a few.

    Args:
        seconds: phase → seconds of its first steps; phases that a representation does not have are absent.
        counts: phase → its steps.
        prepared: objects of the training, as a multiple of the measured ones.
        pick: chooses the step that stands for all.
    """
    step_s = {phase: pick(times[1:] or times) for phase, times in seconds.items()}
    # The first step of a phase prepares every object (rays, latents), which the others do not.
    prepare_s = sum(max(0.0, times[0] - step_s[phase]) for phase, times in seconds.items())
    return sum(step_s[phase] * counts[phase] for phase in seconds) + prepare_s * prepared


def _measure_fit(config: PipelineConfig, store: Store, version: str, objects: Any, rows: list[int]) -> Cost:
    """Returns what a fit costs with its evaluation: a short fit's steps, times the steps of a whole one."""
    from pipeline.model.shared import load_shared

    began = _now()
    shared = load_shared(store, version)
    task_s, task_cpu_s = _since(began)
    settings = config.fit.settings()
    parts: list[list[Range]] = [[], []]
    code: Any = None
    for name in ("latent_steps", "rgb_steps"):
        steps = getattr(settings, name)
        if not steps:
            continue
        counts = {"latent_steps": 0, "rgb_steps": 0, name: CALIBRATION_STEPS}
        short = replace(settings, latent_steps=counts["latent_steps"], rgb_steps=counts["rgb_steps"])
        code, *measured = _fit_times(shared, objects, short)
        for own, (prepare_s, step_s) in zip(parts, measured, strict=True):
            once = prepare_s if name == "latent_steps" else 0.0
            fewest = _fewest_steps(settings, steps)
            likely, high = (pick(step_s) * steps for pick in (statistics.median, max))
            own.append(
                Range(min(step_s) * fewest, likely, high).scaled(1 / len(objects), once / len(objects))
            )
    judged = _evaluation_times(shared, store, code, rows)
    wall, cpu = (
        functools.reduce(Range.plus, own, Range.of(once)) for own, once in zip(parts, judged, strict=True)
    )
    return Cost(cpu, wall, task_cpu_s, task_s)


def _fewest_steps(settings: Any, steps: int) -> int:
    """Returns after how many steps a phase may end: each interval but the first can lower the rate."""
    rule = settings.stopping
    return min(steps, (rule.lowered + 2) * settings.curve_every) if rule.gain > 0 else steps


def _fit_times(
    shared: Any, objects: Any, settings: Any
) -> tuple[Any, tuple[float, list[float]], tuple[float, list[float]]]:
    """Returns a code, then seconds and processor seconds: those before the first step, and of each step."""
    from pipeline.fit.batch import FitBatch

    times = [_now()]
    batch, codes = FitBatch(shared, settings, 0, len(objects)), []
    for views in objects:
        batch.admit(views, None)
    times.append(_now())
    while batch.busy:
        batch.step()
        times.append(_now())
        codes += batch.finished()
    wall, cpu = ([later[i] - earlier[i] for earlier, later in itertools.pairwise(times)] for i in range(2))
    return codes[0], (wall[0], wall[1:]), (cpu[0], cpu[1:])


def _evaluation_times(
    shared: Any, store: Store, code: Any, rows: list[int]
) -> tuple[list[float], list[float]]:
    """Returns seconds and processor seconds of evaluating a code on the held-out views of every object."""
    from pipeline import metrics
    from pipeline.evaluate import evaluate_object
    from pipeline.fit_views import FitRenderer

    renderer, data = FitRenderer(shared), ViewsStore.open(store)
    walls, cpus = [], []
    for row in rows:
        views, began = data.read(row), _now()
        heldout, train = views.heldout, ~views.heldout
        if heldout.any():
            cameras, truth = views.cam2world[heldout], views.images[heldout]
            rendered = renderer.render(code.micro, code.coefficients, cameras, views.intrinsics[heldout])
            ceiling = renderer.ceiling(metrics.composite(truth))
            evaluate_object(rendered, ceiling, truth, cameras, views.images[train], views.cam2world[train])
        wall, cpu = _since(began)
        walls.append(wall)
        cpus.append(cpu)
    return walls, cpus


def _now() -> tuple[float, float]:
    return time.monotonic(), time.process_time()


def _since(began: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = (now - then for now, then in zip(_now(), began, strict=True))
    return wall, cpu
