from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from render_jobs.messages import ChannelClosedError, receive, send


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    fds = list(os.pipe())
    yield fds
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def _close(pipe: list[int], side: int) -> None:
    os.close(pipe[side])
    pipe[side] = -1


@pytest.mark.parametrize("n_bytes", [0, 1, 5 << 20])
def test_round_trip(pipe: list[int], n_bytes: int) -> None:
    body = os.urandom(n_bytes)
    sender = threading.Thread(target=send, args=(pipe[1], {"name": "à", "n": [1, 2.5]}, body))
    sender.start()
    head, got = receive(pipe[0], n_bytes)
    sender.join()
    assert head == {"name": "à", "n": [1, 2.5]}
    assert got == body


def test_messages_follow_each_other(pipe: list[int]) -> None:
    for i in range(3):
        send(pipe[1], {"i": i}, bytes([i]))
    assert [receive(pipe[0], 1) for _ in range(3)] == [({"i": i}, bytes([i])) for i in range(3)]


def test_bytes_on_the_wire_by_hand(pipe: list[int]) -> None:
    send(pipe[1], {}, b"xyz")
    assert os.read(pipe[0], 99) == b"\x02\0\0\0" + b"\x03\0\0\0\0\0\0\0" + b"{}" + b"xyz"


def test_a_writer_that_dies_in_a_message_is_noticed(pipe: list[int]) -> None:
    os.write(pipe[1], b"\x02\0\0\0" + b"\x03\0\0\0\0\0\0\0" + b"{}x")
    _close(pipe, 1)
    with pytest.raises(ChannelClosedError):
        receive(pipe[0], 10)


def test_a_reader_that_died_is_noticed(pipe: list[int]) -> None:
    _close(pipe, 0)
    with pytest.raises(ChannelClosedError):
        send(pipe[1], {})


def test_too_long_bodies_are_refused_before_they_are_allocated(pipe: list[int]) -> None:
    os.write(pipe[1], b"\x02\0\0\0" + b"\xff\xff\xff\xff\xff\xff\0\0" + b"{}")
    with pytest.raises(ValueError, match="refused"):
        receive(pipe[0], 1 << 20)


def test_waiting_may_give_up(pipe: list[int]) -> None:
    def late(fd: int) -> None:
        raise TimeoutError(fd)

    with pytest.raises(TimeoutError):
        receive(pipe[0], 0, late)
