"""What the joint training costs, from its first steps."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.config import PipelineConfig
from pipeline.forecast_costs import Cost, Range
from storage.records import Status
from storage.shared import rendering_files
from storage.store import Store
from storage.views import ViewsStore

if TYPE_CHECKING:
    from pipeline.train.training_views import TrainingViews

CALIBRATION_STEPS = 4
"""Of every phase. Fits stop after as many steps with components that have learned for 4 as with those that
have learned for 30, and nearly as with whole ones (177, 148, 177 and 188 latent steps of 400)."""
TRAIN_START_S = 15.0
"""Seconds for Ray Train's worker group to start and import torch; seen on 2 cores: 10 to 28."""

Times = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Learned:
    """What a short training showed: the cost of a whole one, its shared components, and what it saw."""

    cost: Cost
    shared_version: str
    shared_bytes: int
    objects: Sequence[TrainingViews]


def measure_training(store: Store, config: PipelineConfig, n: int) -> Learned:
    """Trains for a few steps on the rendered objects of a dataset, and stores the shared components.

    Args:
        store: the dataset.
        config: resolved configuration.
        n: objects of the dataset that is forecast.
    """
    from pipeline.train.job import build_trainer, read_training_views
    from storage.plan import read_plan

    rows = [row for row, status in enumerate(ViewsStore.open(store).status()) if status == Status.OK]
    objects = read_training_views(store, read_plan(store), rows)
    settings = config.train.settings()
    wanted = max(settings.joint_objects, settings.warmup_objects)
    copies = [
        replace(objects[i % len(objects)], object_id=f"{objects[i % len(objects)].object_id}-{i}")
        for i in range(wanted)
    ]
    began = now()
    trainer = build_trainer(copies, config.train.shortened(CALIBRATION_STEPS), "cpu")
    prepare = since(began)
    times: tuple[dict[str, list[float]], dict[str, list[float]]] = (defaultdict(list), defaultdict(list))
    while trainer.phase != "done":
        began = now()
        point = trainer.step()
        for own, value in zip(times, since(began), strict=True):
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
    version = trainer.shared_components().save(store, trainer.codes(), {})
    shared_bytes = sum(rendering_files(store, version).values())
    return Learned(Cost(cpu, wall, task_s=TRAIN_START_S), version, shared_bytes, copies)


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


def now() -> tuple[float, float]:
    """Returns seconds and processor seconds of this process."""
    return time.monotonic(), time.process_time()


def since(began: tuple[float, float]) -> tuple[float, float]:
    """Returns seconds and processor seconds since then."""
    wall, cpu = (later - then for later, then in zip(now(), began, strict=True))
    return wall, cpu
