from __future__ import annotations

import random
import threading
import time

import pytest

from storage import retries
from storage.errors import EnvironmentProblem, TransientError
from storage.retries import POLICY, RetryPolicy, retried


class Script:
    """Raises the errors of a list, one per call, then returns how often it was called."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


QUICK = RetryPolicy(attempts=4, base_s=0.0)


def test_only_what_may_pass_is_tried_again() -> None:
    assert retried(Script(TransientError("x"), TransientError("y")), QUICK) == 3
    broken = Script(EnvironmentProblem("x"))
    with pytest.raises(EnvironmentProblem):
        retried(broken, QUICK)
    assert broken.calls == 1
    dead = Script(*[TransientError(str(number)) for number in range(9)])
    with pytest.raises(TransientError, match="3"):
        retried(dead, QUICK)
    assert dead.calls == 4


def test_nested_calls_do_not_multiply() -> None:
    inner = Script(*[TransientError("x")] * 99)
    with pytest.raises(TransientError):
        retried(lambda: retried(inner, QUICK), QUICK)
    assert inner.calls == 4
    assert retried(Script(TransientError("x")), QUICK) == 2, "afterwards it tries again as before"


def test_another_thread_is_not_inside() -> None:
    found: list[int] = []

    def outer() -> None:
        thread = threading.Thread(target=lambda: found.append(retried(Script(TransientError("x")), QUICK)))
        thread.start()
        thread.join()

    retried(outer, QUICK)
    assert found == [2]


def test_pauses_are_spread_between_nothing_and_a_bound_that_doubles() -> None:
    for attempt, bound in ((1, 0.25), (2, 0.5), (5, 4.0), (9, 15.0)):
        pauses = [POLICY.pause_s(attempt) for _ in range(200)]
        assert 0.0 <= min(pauses) < 0.1 * bound
        assert 0.9 * bound < max(pauses) <= bound
    assert sum(min(POLICY.cap_s, POLICY.base_s * 2**n) for n in range(POLICY.attempts - 1)) < 16.0


def test_no_try_begins_after_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    slow = RetryPolicy(attempts=100, base_s=0.05, cap_s=0.05, total_s=0.3)
    script, began = Script(*[TransientError("x")] * 100), time.monotonic()
    with pytest.raises(TransientError):
        retried(script, slow)
    assert time.monotonic() - began < 0.6
    assert 2 <= script.calls <= 7


def test_trouble_that_lasts_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "POLICY", RetryPolicy(attempts=7, base_s=0.0))
    caplog.set_level("WARNING")
    retried(Script(*[TransientError("s3://b/k: SlowDown")] * 6))
    assert [record.getMessage() for record in caplog.records] == ["s3://b/k: SlowDown; trying again"]
