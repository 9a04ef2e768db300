"""What work costs: figures of a few objects, and what follows for a whole stage with its range and price."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Range:
    """A figure: from the cheapest of what was measured, its usual value, from the dearest."""

    low: float
    likely: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Range:
        """Returns least, mean and most of what was measured; zeros where nothing was."""
        return Range(min(values), sum(values) / len(values), max(values)) if values else Range(0.0, 0.0, 0.0)

    def scaled(self, factor: float, more: float = 0.0) -> Range:
        """Returns factor · figure + more."""
        return Range(*(factor * value + more for value in (self.low, self.likely, self.high)))

    def plus(self, other: Range) -> Range:
        """Returns the sum, as if both were cheap, usual or dear together."""
        return Range(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def as_json(self, digits: int = 4) -> dict[str, float]:
        """Returns the three figures, rounded to significant digits."""
        return {name: float(f"{value:.{digits}g}") for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Cost:
    """What a stage takes per object, once more per task, and once more per command.

    Attributes:
        object_cpu_s: processor seconds per object.
        object_s: seconds per object of a task that has its cores to itself, or as loaded as the machine was.
        task_cpu_s: processor seconds to start a task.
        task_s: seconds of the same.
        start_s: seconds until the first task of a command begins.
    """

    object_cpu_s: Range
    object_s: Range
    task_cpu_s: float = 0.0
    task_s: float = 0.0
    start_s: float = 0.0

    def cpu_s(self, n_objects: int, n_tasks: int) -> Range:
        """Returns processor seconds of all tasks."""
        return self.object_cpu_s.scaled(n_objects, n_tasks * self.task_cpu_s)

    def seconds(self, n_objects: int, n_tasks: int) -> Range:
        """Returns seconds of all tasks one after the other."""
        return self.object_s.scaled(n_objects, n_tasks * self.task_s)


@dataclass(frozen=True)
class Load:
    """What a stage does, whatever it costs.

    Attributes:
        n_objects: objects that it works on; 1 for a training, whose cost is given whole.
        n_tasks: shards, or ranks.
        puts: requests that write or list, which S3 prices alike.
        gets: requests that read.
        stored_bytes: that stay.
        moved_bytes: written and read.
        gpus: GPUs per task.
    """

    n_objects: int
    n_tasks: int
    puts: int
    gets: int
    stored_bytes: int
    moved_bytes: int
    gpus: float


def stage_figures(load: Load, cost: Cost | None, workers: int, prices: dict[str, float]) -> dict[str, Any]:
    """Returns what a stage takes, as JSON values; hours, seconds and money that nobody measured are None.

    Args:
        load: what is to be done.
        cost: what was measured, None where nothing was.
        workers: tasks at a time.
        prices: see `pipeline.prices.read_prices`; empty for no money.
    """
    cpu_h = gpu_h = wall_s = None
    if cost is not None:
        at_a_time = max(1, min(workers, load.n_tasks))
        seconds = cost.seconds(load.n_objects, load.n_tasks)
        cpu_h = cost.cpu_s(load.n_objects, load.n_tasks).scaled(1 / SECONDS_PER_HOUR)
        gpu_h = seconds.scaled(load.gpus / SECONDS_PER_HOUR)
        # The last round of tasks leaves workers idle: 5 tasks on 2 workers take 3 rounds.
        rounds = math.ceil(load.n_tasks / at_a_time)
        wall_s = seconds.scaled(rounds / max(1, load.n_tasks), cost.start_s)
    return {
        "shards": load.n_tasks,
        "requests": {"puts": load.puts, "gets": load.gets},
        "bytes": {"stored": load.stored_bytes, "moved": load.moved_bytes},
        "cpu_hours": cpu_h and cpu_h.as_json(),
        "gpu_hours": gpu_h and gpu_h.as_json(),
        "wall_s": wall_s and wall_s.as_json(),
        "money": _money(load, cpu_h, gpu_h, prices),
    }


def _money(
    load: Load, cpu_h: Range | None, gpu_h: Range | None, prices: dict[str, float]
) -> dict[str, float] | None:
    """What computing and requests cost; None where something that has a price was not measured."""
    if not prices or cpu_h is None or gpu_h is None:
        return None
    fixed = (load.puts * prices.get("million-puts", 0.0) + load.gets * prices.get("million-gets", 0.0)) / 1e6
    computing = cpu_h.scaled(prices.get("cpu-hour", 0.0)).plus(gpu_h.scaled(prices.get("gpu-hour", 0.0)))
    return computing.scaled(1.0, fixed).as_json()
