"""What a run is doing at the moment, for `live.json` beside its record: any machine can look at it."""

from __future__ import annotations

import collections
import datetime
import heapq
import threading
from typing import Any

from pipeline.executor import TaskOutcome
from pipeline.pace import Pace
from pipeline.progress import Progress

MAX_RUNNING = 100
"""Running shards listed, the oldest first; their number is complete."""
MAX_SLOWEST = 5
MAX_NODES = 1000


class LiveState:
    """Counts and times of one run. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress: dict[str, Any] | None = None
        self._pace = Pace(0, 0)
        self._last_result: datetime.datetime | None = None
        self._running: dict[int, tuple[int, datetime.datetime]] = {}
        self._waiting: set[int] = set()
        self._counts: collections.Counter[str] = collections.Counter()
        self._nodes: collections.Counter[str] = collections.Counter()
        self._slowest: list[tuple[float, int, str]] = []
        self._drain_until: datetime.datetime | None = None

    def begin(self, name: str, total: int, unit: str, done: int, work_unit: str) -> None:
        """A part of the stage begins, see `pipeline.progress.Progress.start`."""
        with self._lock:
            self._pace, self._last_result = Pace(total, done), None
            self._progress = {"name": name, "unit": unit, "work_unit": work_unit or unit, "figures": {}}

    def advance(self, amount: int, work: float, figures: dict[str, Any]) -> None:
        """Units are done, see `pipeline.progress.Progress.advance`."""
        with self._lock:
            self._pace.advance(amount, work)
            self._last_result = _now() if work else self._last_result
            if self._progress is not None:
                self._progress["figures"].update(figures)

    def started(self, shard: int, attempt: int) -> None:
        """An attempt of a shard has begun."""
        with self._lock:
            self._counts["retries"] += attempt > 1
            self._waiting.discard(shard)
            self._running[shard] = (attempt, _now())

    def waits(self, shard: int) -> None:
        """An attempt has failed, and the shard waits for another one."""
        with self._lock:
            self._running.pop(shard, None)
            self._waiting.add(shard)

    def ended(self, outcome: TaskOutcome) -> None:
        """The last attempt of a shard has ended."""
        with self._lock:
            self._running.pop(outcome.shard, None)
            self._waiting.discard(outcome.shard)
            self._counts["done" if outcome.failure is None else "failed"] += 1
            if outcome.node and (outcome.node in self._nodes or len(self._nodes) < MAX_NODES):
                self._nodes[outcome.node] += 1
            if outcome.result is not None and outcome.usage is not None and not outcome.result.get("skipped"):
                heapq.heappush(self._slowest, (outcome.usage.seconds, outcome.shard, outcome.node))
                while len(self._slowest) > MAX_SLOWEST:
                    heapq.heappop(self._slowest)

    def draining(self, grace_s: float) -> None:
        """The run was asked to stop: what runs may end within that time, nothing more begins."""
        with self._lock:
            self._drain_until = _now() + datetime.timedelta(seconds=grace_s)

    def as_json(self) -> dict[str, Any]:
        """Returns everything as JSON values; times are ISO 8601 in UTC."""
        with self._lock:
            oldest = sorted(self._running.items(), key=lambda item: item[1][1])
            rates = {"per_s": self._pace.units_per_s(), "work_per_s": self._pace.work_per_s()}
            amounts = {"total": self._pace.total, "done": self._pace.done}
            last = self._last_result and self._last_result.isoformat(timespec="milliseconds")
            return {
                "progress": self._progress
                and {
                    **self._progress,
                    "figures": dict(self._progress["figures"]),
                    **amounts,
                    **rates,
                    "at": last,
                },
                "n_running": len(oldest),
                "n_waiting": len(self._waiting),
                "running": [
                    {"shard": shard, "attempt": attempt, "since": since.isoformat(timespec="seconds")}
                    for shard, (attempt, since) in oldest[:MAX_RUNNING]
                ],
                **{name: self._counts[name] for name in ("done", "failed", "retries")},
                "drain_until": self._drain_until and self._drain_until.isoformat(timespec="seconds"),
                "nodes": dict(self._nodes),
                "slowest": [
                    {"shard": shard, "seconds": round(seconds, 1), "node": node}
                    for seconds, shard, node in sorted(self._slowest, reverse=True)
                ],
            }


class WatchedProgress:
    """Tells another progress everything, and a run's live state too."""

    def __init__(self, progress: Progress, live: LiveState) -> None:
        self._progress, self._live = progress, live

    def start(self, stage: str, total: int, unit: str, done: int = 0, work_unit: str = "") -> None:
        """See Progress."""
        self._live.begin(stage, total, unit, done, work_unit)
        self._progress.start(stage, total, unit, done, work_unit)

    def advance(self, amount: int = 1, work: float | None = None, **figures: Any) -> None:
        """See Progress."""
        self._live.advance(amount, amount if work is None else work, figures)
        self._progress.advance(amount, work, **figures)

    def finish(self) -> None:
        """See Progress."""
        self._progress.finish()

    def say(self, message: str) -> None:
        """See Progress."""
        self._progress.say(message)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
