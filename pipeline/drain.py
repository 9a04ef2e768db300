"""Owns what happens between the signal that asks a command to stop and its end.

Schedulers send SIGTERM and kill some time later (Kubernetes after 30 s, AWS's spot nodes after 120 s, Slurm
when the script says so); a shard that is nearly done is worth part of that time.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Collection
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Drain:
    """Puts the first SIGTERM or SIGINT off while its block runs: what runs may end, nothing more begins.

    An executor looks at `asked` and `is_over`, and calls `begin`. A second signal acts at once, as it would
    have without the block. Signals without a handler of Python's, and threads that are not the main one, are
    left as they are.

    Args:
        grace_s: Seconds that what runs is given; 0 puts nothing off.
        told: Is called, by `begin`, when the executor has seen the signal.

    Attributes:
        grace_s: As given.
        number: The signal that arrived, None before.
        n_running: Shards that ran then.
        running: Those of them whose end nobody has seen yet.
    """

    def __init__(self, grace_s: float = 0.0, told: Callable[[Drain], None] = lambda _: None) -> None:
        self.grace_s = grace_s
        self.number: signal.Signals | None = None
        self.n_running = 0
        self.running: set[int] = set()
        self.has_begun = False
        self._told = told
        self._until = 0.0
        self._before: dict[int, Callable[[int, FrameType | None], object]] = {}

    def __enter__(self) -> Self:
        if self.grace_s and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._before[number] = handler
                    signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    @property
    def asked(self) -> bool:
        """Whether a signal has arrived."""
        return self.number is not None

    @property
    def is_over(self) -> bool:
        """Whether what still runs has had its time."""
        return self.asked and time.monotonic() >= self._until

    def begin(self, running: Collection[int]) -> None:
        """The executor, which begins nothing more, says which shards run; later calls do nothing."""
        if not self.has_begun:
            self.has_begun, self.running, self.n_running = True, set(running), len(running)
            self._told(self)

    def did_not_run(self, shard: int) -> None:
        """The executor had taken a shard for one that runs, and it had not begun."""
        if shard in self.running:
            self.running.remove(shard)
            self.n_running -= 1

    def act(self) -> None:
        """After the block: lets the signal do what was put off, which usually raises."""
        if self.number is not None:
            self._before[self.number](self.number, None)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            self._restore()
            self._before[number](number, frame)
        else:
            self._until = time.monotonic() + self.grace_s
            self.number = signal.Signals(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


NEVER = Drain()
"""A drain that nobody asks for."""
