"""Holds SIGTERM and Ctrl-C back while code runs that must not be interrupted by an exception.

Compiled code may install handlers of its own, below Python's: Ray's aborts the process on SIGTERM. Python's
own are put back every few milliseconds as long as the block lasts, by a thread, with sigaction itself:
`signal.signal` is for the main thread, which is in the block.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from pipeline.drain import SIGNALS

PUT_BACK_S = 0.005
SIGACTION_BYTES = 256
"""Room for libc's struct sigaction, which takes 152 bytes on Linux."""


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """Delivers a signal of the block when the block is over, the second one at once.

    The handlers are those from before the block afterwards, whatever the block has put in their place. Does
    nothing outside the main thread, where Python handles no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    pending: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if pending:
            _restore(before)
            signal.raise_signal(number)
        pending.append(number)

    for number in SIGNALS:
        signal.signal(number, hold)
    try:
        with _kept_installed():
            yield
    finally:
        _restore(before)
        if pending:
            signal.raise_signal(pending[0])


def _restore(handlers: dict[signal.Signals, signal._HANDLER]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def _kept_installed() -> Iterator[None]:
    """Puts the handlers that libc has now back, again and again, until the block is over."""
    sigaction, over = ctypes.CDLL(None).sigaction, threading.Event()
    kept = {number: ctypes.create_string_buffer(SIGACTION_BYTES) for number in SIGNALS}
    for number, room in kept.items():
        sigaction(int(number), None, room)

    def keep() -> None:
        while not over.wait(PUT_BACK_S):
            for number, room in kept.items():
                sigaction(int(number), room, None)

    thread = threading.Thread(target=keep, daemon=True, name="fpipe-held-signals")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
