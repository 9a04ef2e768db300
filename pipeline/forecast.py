"""Says before anything runs what a dataset will hold and cost: objects, views, bytes, time.

Times come from doing a little of every stage for real on a few objects of the source, in a scratch folder; a
step of the joint training costs the same for 3 objects as for 500, because it always sees a batch of the
same size. Limits: times are of this machine with this load, and objects vary; forecasts are not kept.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.compute import usable_cores
from pipeline.config import PipelineConfig
from pipeline.forecast_memory import worker_memory
from pipeline.planned import planned
from pipeline.render_stage import (
    make_plan,
    pass_bytes_per_object,
    shard_bytes_per_object,
    views_bytes_per_object,
)
from pipeline.scratch import scratch_folder
from render_jobs.sources.base import ObjectEntry
from storage.plan import choose_objects_per_shard, shard_count
from storage.planes import code_bytes
from storage.records import Status
from storage.shared import rendering_files
from storage.store import Store
from storage.views import ViewsStore

CALIBRATION_OBJECTS = 3
CALIBRATION_STEPS = 4
RAY_START_S = 15.0
"""Seconds for Ray and its worker processes to start, once per command; seen on 2 cores: 6 to 20."""
TRAIN_START_S = 15.0
"""Seconds for Ray Train's worker group to start and import torch; seen on 2 cores: 10 to 28."""


@dataclass(frozen=True)
class Calibration:
    """What a few objects cost on this machine.

    Attributes:
        render_s: core-seconds per object, the share of Blender's start left out.
        start_s: seconds until a Blender process is ready.
        views_bytes: stored bytes per object.
        pass_bytes: name of a pass → stored bytes per object.
        train_s: seconds of the joint training with this machine's cores.
        fit_s: core-seconds per object.
        shared_bytes: stored bytes of the shared components, as far as renderings need them.
    """

    render_s: float
    start_s: float
    views_bytes: int
    pass_bytes: dict[str, int]
    train_s: float
    fit_s: float
    shared_bytes: int


def forecast(config: PipelineConfig, calibrate: bool = True) -> dict[str, Any]:
    """Returns counts, bytes and, when calibrated, seconds per stage.

    Args:
        config: resolved configuration.
        calibrate: measure on a few objects (about a minute on 2 cores); without it no times are given.

    Raises:
        UsageError: the source's folder is missing, or it has too few objects.
    """
    config, entries = planned(config)
    workers = config.compute.workers or usable_cores()
    measured = _measure(config, entries) if calibrate else None
    n, views = len(entries), config.render.views
    object_bytes = measured.views_bytes if measured else views_bytes_per_object(config)
    pass_bytes = measured.pass_bytes if measured else pass_bytes_per_object(config)
    train = config.train
    planes_bytes = sum(code_bytes(train.f_mic, train.resolution, train.n_base, config.fit.dtype))
    per_shard = choose_objects_per_shard(n, shard_bytes_per_object(config), workers)
    found: dict[str, Any] = {
        "objects": n,
        "classes": dict(Counter(entry.class_name for entry in entries)),
        "views": n * views,
        "views_per_object": views,
        "size_px": [config.render.height, config.render.width],
        "regime1_objects": min(config.train.objects, n),
        "view_shards": shard_count(n, per_shard),
        "bytes": {
            "views": n * object_bytes,
            "passes": {name: n * n_bytes for name, n_bytes in pass_bytes.items()},
            "planes": n * planes_bytes,
            "views_per_object": object_bytes,
            "passes_per_object": pass_bytes,
            "planes_per_object": planes_bytes,
            "shared": measured.shared_bytes if measured else None,
        },
        "memory": worker_memory(config, n),
        "workers": workers,
        "seconds": None,
    }
    if measured:
        found["seconds"] = _seconds(measured, n, workers)
    return found


def _seconds(measured: Calibration, n: int, workers: int) -> dict[str, float]:
    """Returns wall seconds per stage, with everything that starts once."""
    parallel = min(workers, n)
    stages = {
        "start": RAY_START_S,
        "render": measured.start_s + measured.render_s * n / parallel,
        "train_shared": measured.train_s,
        "fit_objects": measured.fit_s * n / parallel,
    }
    stages["total"] = sum(stages.values())
    return {name: round(value, 1) for name, value in stages.items()}


def _measure(config: PipelineConfig, entries: list[ObjectEntry]) -> Calibration:
    """Renders a few objects into a scratch dataset, then times a few steps of learning on them."""
    with scratch_folder() as folder:
        store = Store(folder / "calibration")
        render_s, start_s, views_bytes, pass_bytes = _measure_render(store, config, entries)
        train_s, fit_s, shared_bytes = _measure_learning(store, config, len(entries))
    return Calibration(render_s, start_s, views_bytes, pass_bytes, train_s, fit_s, shared_bytes)


def _sample(entries: list[ObjectEntry]) -> dict[str, int]:
    """Returns how many objects of which class to try: the first classes get one more."""
    names = list(dict.fromkeys(entry.class_name for entry in entries))
    available = Counter(entry.class_name for entry in entries)
    wanted: Counter[str] = Counter(names[position % len(names)] for position in range(CALIBRATION_OBJECTS))
    return {name: min(count, available[name]) for name, count in wanted.items()}


def _measure_render(
    store: Store, config: PipelineConfig, entries: list[ObjectEntry]
) -> tuple[float, float, int, dict[str, int]]:
    """Returns core-seconds per object, seconds of start, and stored bytes per object: views, each pass."""
    from render_jobs.job import render_shard
    from render_jobs.outputs import pass_stores

    few = config.model_copy(update={"source": config.source.model_copy(update={"classes": _sample(entries)})})
    plan = make_plan(store, few, workers=1)
    views = ViewsStore.create_or_open(store, plan)
    began = time.monotonic()
    limits, cache = config.compute.limits.model_dump(mode="json"), config.compute.mesh_cache()
    summaries = [
        render_shard(store.url, shard, "calibration", limits, cache) for shard in range(views.n_shards)
    ]
    wall = time.monotonic() - began
    rendered = sum(float(summary["render_s"]) for summary in summaries)
    n_ok = max(1, sum(int(summary["n_ok"]) for summary in summaries))
    start_s = max(0.0, wall - rendered) / views.n_shards
    views_bytes = sum(int(summary["n_bytes"]) for summary in summaries) // n_ok
    pass_bytes = {
        group.spec.kind: sum(store.size(group.spec.shard_key(i)) for i in range(group.n_shards)) // n_ok
        for group in pass_stores(views)
    }
    return rendered / n_ok, start_s, views_bytes, pass_bytes


def _measure_learning(store: Store, config: PipelineConfig, n: int) -> tuple[float, float, int]:
    """Returns seconds of the whole training, core-seconds per fit, and bytes of the shared components."""
    import torch

    from pipeline.train.job import build_trainer, read_training_views
    from storage.plan import read_plan

    plan = read_plan(store)
    rows = [row for row, status in enumerate(ViewsStore.open(store).status()) if status == Status.OK]
    if not rows:
        return 0.0, 0.0, 0
    objects = read_training_views(store, plan, rows)
    settings = config.train.settings()
    wanted = max(settings.joint_objects, settings.warmup_objects)
    copies = [
        replace(objects[i % len(objects)], object_id=f"{objects[i % len(objects)].object_id}-{i}")
        for i in range(wanted)
    ]
    started = time.perf_counter()
    trainer = build_trainer(copies, config.train.shortened(CALIBRATION_STEPS), "cpu")
    prepare_s = time.perf_counter() - started
    seconds: dict[str, list[float]] = defaultdict(list)
    while trainer.phase != "done":
        point = trainer.step()
        seconds[point.phase].append(point.seconds)
    counts = {
        "autoencoder": settings.autoencoder.steps,
        "warmup": settings.warmup_steps,
        "joint": settings.joint_steps,
    }
    # Every object is prepared once: its rays on construction, its latents by the first step of a phase.
    prepared = min(config.train.objects, n) / len(copies)
    train_s = TRAIN_START_S + prepare_s * prepared + _training_seconds(seconds, counts, prepared)
    shared = trainer.shared_components()
    version = shared.save(store, trainer.codes(), {})
    shared_bytes = sum(rendering_files(store, version).values())
    torch.set_num_threads(1)
    fit_s = _measure_fit(config, shared.freeze(), copies)
    torch.set_num_threads(usable_cores())
    return train_s, fit_s, shared_bytes


def _training_seconds(
    seconds: Mapping[str, Sequence[float]], counts: Mapping[str, int], prepared: float
) -> float:
    """Seconds of all steps, from those of a few.

    Args:
        seconds: phase → seconds of its first steps; phases that a representation does not have are absent.
        counts: phase → its steps.
        prepared: objects of the training, as a multiple of the measured ones.
    """
    step_s = {phase: min(times) for phase, times in seconds.items()}
    # The first step of a phase prepares every object (rays, latents), which the others do not.
    prepare_s = sum(times[0] - step_s[phase] for phase, times in seconds.items())
    return sum(step_s[phase] * counts[phase] for phase in seconds) + prepare_s * prepared


def _measure_fit(config: PipelineConfig, shared: Any, objects: Any) -> float:
    """Returns core-seconds per object: a short fit's seconds per step, times the steps of a whole one."""
    settings = config.fit.settings()
    total = 0.0
    for name in ("latent_steps", "rgb_steps"):
        steps = getattr(settings, name)
        if not steps:
            continue
        counts = {"latent_steps": 0, "rgb_steps": 0, name: CALIBRATION_STEPS}
        short = replace(settings, latent_steps=counts["latent_steps"], rgb_steps=counts["rgb_steps"])
        prepare_s, step_s = _fit_seconds(shared, objects, short)
        total += step_s * steps + (prepare_s if name == "latent_steps" else 0.0)
    return total / len(objects)


def _fit_seconds(shared: Any, objects: Any, settings: Any) -> tuple[float, float]:
    """Returns the seconds before a fit's first step, and of its quickest step: others were disturbed."""
    from pipeline.fit.batch import FitBatch

    times = [time.monotonic()]
    batch = FitBatch(shared, settings, 0, len(objects))
    for views in objects:
        batch.admit(views, None)
    times.append(time.monotonic())
    while batch.busy:
        batch.step()
        times.append(time.monotonic())
        batch.finished()
    step_s = min(later - earlier for earlier, later in itertools.pairwise(times[1:]))
    return times[1] - times[0], step_s
