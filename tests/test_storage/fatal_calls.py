"""Death at a chosen system call, for tests that kill a writer everywhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import Any


def die_at(fatal_call: int, names: Iterable[str]) -> Callable[[], int]:
    """Wraps functions of `os`: call number `fatal_call` of them all ends this process with SIGKILL.

    A fatal write writes half of its bytes first. Returns a function that says how many calls there were.
    """
    count = 0

    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == fatal_call:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in names:
        setattr(os, name, wrapped(name, getattr(os, name)))
    return lambda: count
