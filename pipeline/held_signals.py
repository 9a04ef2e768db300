"""Holds SIGTERM and Ctrl-C back while code runs that must not be interrupted by an exception."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

STOPS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """Delivers a signal of the block when the block is over, the second one at once.

    The handlers are those from before the block afterwards, whatever the block has put in their place. Does
    nothing outside the main thread, where Python handles no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPS}
    pending: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if pending:
            _restore(before)
            signal.raise_signal(number)
        pending.append(number)

    for number in STOPS:
        signal.signal(number, hold)
    try:
        yield
    finally:
        _restore(before)
        if pending:
            signal.raise_signal(pending[0])


def _restore(handlers: dict[signal.Signals, signal._HANDLER]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
