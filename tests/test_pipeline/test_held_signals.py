"""Signals that are held back: delivered later, the second one at once, and never to a handler of Ray's."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import ray
from ray._private import utils

from pipeline.held_signals import held_signals
from pipeline.ray_session import ray_session


class Arrived(BaseException):
    pass


def arrive(number: int, frame: FrameType | None) -> None:
    raise Arrived(number)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.signal(number, arrive) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_arrives_when_the_block_is_over(number: signal.Signals) -> None:
    done = []
    with pytest.raises(Arrived) as error, held_signals():
        signal.raise_signal(number)
        done.append("the rest of the block")
    assert error.value.args == (number,)
    assert done
    assert signal.getsignal(number) is arrive


def test_the_second_signal_arrives_at_once() -> None:
    with pytest.raises(Arrived) as error, held_signals():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one was held, too")
    assert signal.SIGTERM in (error.value.args[0], *getattr(error.value.__context__, "args", ()))


def test_other_threads_hold_nothing() -> None:
    seen: list[Any] = []

    def look() -> None:
        with held_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [arrive]


def test_ray_does_not_handle_a_signal_while_it_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ray's handlers would end the process: that in Python with code 15 or 1, the compiled one by SIGABRT."""
    said = []

    def init(**options: Any) -> None:
        utils.set_sigterm_handler(lambda number, frame: sys.exit(number))
        ctypes.CDLL(None).signal(int(signal.SIGTERM), ctypes.c_void_p(1))  # SIG_IGN stands in for Ray's
        time.sleep(0.2)
        signal.raise_signal(signal.SIGTERM)
        said.append("started")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: said.append("ended"))
    with pytest.raises(Arrived), ray_session(None, tmp_path):
        pytest.fail("a stopped command goes on")
    assert said == ["started", "ended"]
