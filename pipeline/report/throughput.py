"""Throughput of the render stage over time, from the events of its runs.

A shard's event says when its task ended and how long it took; its views are spread evenly over that time, so
that the integral of the curve is the number of views. Runs may follow each other (a resumed stage) or run
side by side (a job array): the time axis is the time in which at least one of them was working.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import numpy as np
from numpy.typing import NDArray

from pipeline.report.records import StageRun
from pipeline.report.render_records import RunRate, Throughput

Event = Mapping[str, Any]
_INTERVALS: Final = 72


@dataclass(frozen=True)
class _Task:
    """One shard done: seconds since the epoch, and what came of it."""

    start_s: float
    end_s: float
    n_ok: int
    n_failed: int
    node: str


@dataclass(frozen=True)
class _Run:
    started: str
    start_s: float
    end_s: float
    tasks: Sequence[_Task]
    n_failed_shards: int


def throughput(recorded: Sequence[tuple[StageRun, Sequence[Event]]], n_views: int) -> Throughput | None:
    """The rate of rendering over working time.

    Args:
        recorded: Runs of the render stage with their events; events that lack something are passed over.
        n_views: Views per object.

    Returns:
        The rate, or None where no run recorded a shard that it rendered.
    """
    runs = [run for record, events in recorded if (run := _read(record, events)) is not None]
    runs = sorted((run for run in runs if run.tasks), key=lambda run: run.start_s)
    if not runs:
        return None
    periods = _periods([(run.start_s, run.end_s) for run in runs])
    lengths = [end - start for start, end in periods]
    begins = np.concatenate([[0.0], np.cumsum(lengths)])
    edges = np.linspace(0.0, begins[-1], _INTERVALS + 1)
    tasks = [task for run in runs for task in run.tasks]
    rates = _rates(tasks, periods, begins, edges) * n_views
    starts = [(float(at), _date(start)) for at, (start, _) in zip(begins, periods, strict=False)]
    return Throughput(edges, rates, starts, [_run_rate(run, n_views) for run in runs])


def _read(record: StageRun, events: Sequence[Event]) -> _Run | None:
    try:
        start_s = datetime.datetime.fromisoformat(record.started).timestamp()
    except ValueError:
        return None
    tasks = [task for event in events if (task := _task(event, start_s)) is not None]
    # The record of a run that was killed still says how long it had run when it began.
    seconds = max([record.seconds or 0.0, *(task.end_s - start_s for task in tasks)])
    n_failed_shards = sum(event.get("event") == "shard_failed" for event in events)
    return _Run(record.started, start_s, start_s + seconds, tasks, n_failed_shards)


def _task(event: Event, run_start_s: float) -> _Task | None:
    at_s, seconds = event.get("at_s"), event.get("seconds")
    if event.get("event") != "shard_done" or not _positive(at_s) or not _positive(seconds):
        return None  # a shard that was only published again has no seconds
    end_s = run_start_s + float(at_s)
    return _Task(
        start_s=max(run_start_s, end_s - float(seconds)),
        end_s=end_s,
        n_ok=_count(event.get("n_ok")),
        n_failed=_count(event.get("n_failed")),
        node=str(event.get("node") or ""),
    )


def _positive(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _periods(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The union of time spans, in order."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _rates(
    tasks: Sequence[_Task],
    periods: Sequence[tuple[float, float]],
    begins: NDArray[np.float64],
    edges: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Objects with views per second in every interval between `edges`."""
    first = np.array([start for start, _ in periods])
    amount = np.zeros(len(edges) - 1)
    for task in tasks:
        period = int(np.searchsorted(first, task.start_s, side="right")) - 1
        start, end = (begins[period] + at - first[period] for at in (task.start_s, task.end_s))
        inside = np.clip(np.minimum(end, edges[1:]) - np.maximum(start, edges[:-1]), 0.0, None)
        amount += task.n_ok * inside / max(end - start, 1e-9)
    return np.asarray(amount / np.diff(edges), dtype=np.float64)


def _run_rate(run: _Run, n_views: int) -> RunRate:
    seconds = run.end_s - run.start_s
    n_ok = sum(task.n_ok for task in run.tasks)
    busy_s = sum(task.end_s - task.start_s for task in run.tasks)
    return RunRate(
        started=_date(run.start_s),
        seconds=seconds,
        n_ok=n_ok,
        n_failed=sum(task.n_failed for task in run.tasks),
        n_failed_shards=run.n_failed_shards,
        views_per_s=n_ok * n_views / seconds,
        mean_tasks=busy_s / seconds,
        nodes=sorted({task.node for task in run.tasks if task.node}),
    )


def _date(epoch_s: float) -> str:
    return f"{datetime.datetime.fromtimestamp(epoch_s, datetime.UTC):%d %b %H:%M}"
