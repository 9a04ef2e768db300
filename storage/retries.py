"""The one policy by which requests to a store are tried again.

Every other layer (botocore, s3fs) is told not to try again, or their numbers would multiply: 2 × 5 × 4 tries
of 60 s were possible before. Pauses grow exponentially with full jitter, so that thousands of workers that
were refused together do not come back together. A call inside another one is left to the outer one.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from .errors import TransientError

LOGGER = logging.getLogger(__name__)

T = TypeVar("T")

_THREAD = threading.local()


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and for how long, something is tried.

    Attributes:
        attempts: Tries in all. Refused at once, the seven take 8 s on average and 16 s at most.
        base_s: Longest pause after the first try; it doubles each time.
        cap_s: Longest pause.
        total_s: No try begins later than this after the first one. What takes longer is slow tries: stalls.
    """

    attempts: int = 7
    base_s: float = 0.25
    cap_s: float = 15.0
    total_s: float = 180.0

    def pause_s(self, attempt: int) -> float:
        """Return a random pause after try number `attempt`, counted from 1."""
        return random.uniform(0.0, min(self.cap_s, self.base_s * 2 ** (attempt - 1)))


POLICY = RetryPolicy()


def retried(call: Callable[[], T], policy: RetryPolicy | None = None) -> T:
    """Call until something else than a TransientError comes of it.

    Args:
        call: What is tried; safe to repeat.
        policy: None for the one of this module.

    Raises:
        TransientError: The last one, when the tries or the time are used up.
    """
    if getattr(_THREAD, "is_trying", False):
        return call()
    policy = policy or POLICY
    _THREAD.is_trying = True
    try:
        return _try(call, policy)
    finally:
        _THREAD.is_trying = False


def _try(call: Callable[[], T], policy: RetryPolicy) -> T:
    began = time.monotonic()
    for attempt in range(1, policy.attempts + 1):
        try:
            return call()
        except TransientError as error:
            pause_s = policy.pause_s(attempt)
            if attempt == policy.attempts or time.monotonic() - began + pause_s > policy.total_s:
                raise
            level = logging.WARNING if attempt == 4 else logging.DEBUG  # one line per trouble that lasts
            LOGGER.log(level, "%s; trying again", error)
            time.sleep(pause_s)
    raise AssertionError("unreachable")
