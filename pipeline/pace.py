"""How fast a stage is and how long it will take, from the work of one run alone."""

from __future__ import annotations

import collections
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

SAMPLE_EVERY_S = 10.0
SAMPLES = 60
"""Samples kept: the rate is that of ten minutes, or of so many results where they come more rarely."""


class Pace:
    """Counts what is done, and tells rate and time left.

    Shards end in bursts, one per worker, often half a minute or more apart: a rate over seconds would jump
    between nothing and many times the truth. Where the next results take longer than usual, the rate falls
    from then on.

    Args:
        total: Units of work in all.
        done: Units that earlier runs did; they say nothing about the pace.
        clock: Seconds, monotonic.
    """

    def __init__(self, total: int, done: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done = total, done
        self._clock = clock
        self._began = clock()
        self._now = (0, 0.0)  # units and work of this run
        self._samples = collections.deque([(self._began, *self._now)], maxlen=SAMPLES + 1)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._began

    def advance(self, amount: int, work: float) -> None:
        """Counts `amount` units that took `work`; without work they were done before, by whomever."""
        self.done += amount
        now = self._clock()
        if work:
            self._now = (self._now[0] + amount, self._now[1] + work)
        elif not self._now[1]:
            self._samples[0] = (now, *self._now)  # the work begins only here
            return
        if len(self._samples) > 1 and self._samples[-1][0] - self._samples[-2][0] < SAMPLE_EVERY_S:
            self._samples.pop()
        self._samples.append((now, *self._now))

    def units_per_s(self) -> float | None:
        """Units per second; None before the first result."""
        return self._per_s(1)

    def work_per_s(self) -> float | None:
        """Work per second; None before the first result."""
        return self._per_s(2)

    def left_s(self) -> float | None:
        """Seconds until everything is done, 0 where it should be by now; None before the first result."""
        rate = self._per_s(1)
        if not rate:
            return None
        return max(0.0, (self.total - self.done) / rate - (self._clock() - self._samples[-1][0]))

    def _per_s(self, column: int) -> float | None:
        first, last = self._samples[0], self._samples[-1]
        seconds = max(last[0], self._clock() - self._usual_gap_s()) - first[0]
        return (last[column] - first[column]) / seconds if seconds > 0 and last is not first else None

    def _usual_gap_s(self) -> float:
        """Seconds between two bursts; the last sample may fall into the one before it."""
        gaps = [later[0] - earlier[0] for earlier, later in pairwise(self._samples)]
        return statistics.median(gaps[:-1] or gaps or [0.0])
