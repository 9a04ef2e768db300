"""Messages between a render worker and its Blender child: a JSON head and raw bytes, over a pair of pipes.

On the wire: u32 length of the head, u64 length of the body (both little-endian), the head in UTF-8, the body.
No pickle: a child that was overrun by a hostile file cannot make its parent run code.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from typing import Any

_LENGTHS = struct.Struct("<IQ")
_MAX_HEAD_BYTES = 1 << 24
_READ_BYTES = 1 << 20


class ChannelClosedError(EOFError):
    """The other side is gone."""


def send(
    fd: int,
    head: dict[str, Any],
    *body: bytes | memoryview,
    wait: Callable[[int], None] = lambda fd: None,
) -> None:
    """Writes one message; returns when it is written.

    Args:
        fd: The pipe.
        head: JSON values.
        *body: Raw bytes, in parts.
        wait: Called before every write; returns when there is room in the pipe, or raises. With it, the pipe
            may be a non-blocking one.

    Raises:
        ChannelClosedError: The reader is gone.
    """
    text = json.dumps(head).encode()
    try:
        for part in (_LENGTHS.pack(len(text), sum(map(len, body))), text, *body):
            view = memoryview(part)
            while view:
                wait(fd)
                view = view[os.write(fd, view[:_READ_BYTES]) :]
    except BrokenPipeError as error:
        raise ChannelClosedError("the reader of the pipe is gone") from error


def receive(
    fd: int, max_body_bytes: int, wait: Callable[[int], None] = lambda fd: None
) -> tuple[dict[str, Any], bytearray]:
    """Reads one message.

    Args:
        fd: The pipe.
        max_body_bytes: A longer body is refused before anything is allocated for it.
        wait: Called before every read; returns when there is something to read, or raises.

    Raises:
        ChannelClosedError: The writer is gone, maybe in the middle of a message.
        ValueError: The message is not one of ours, or too long.
    """
    n_head, n_body = _LENGTHS.unpack(_read_exactly(fd, _LENGTHS.size, wait))
    if n_head > _MAX_HEAD_BYTES or n_body > max_body_bytes:
        raise ValueError(f"message of {n_head} + {n_body} bytes refused")
    head = json.loads(bytes(_read_exactly(fd, n_head, wait)))
    if not isinstance(head, dict):
        raise ValueError("the head of a message must be an object")
    return head, _read_exactly(fd, n_body, wait)


def _read_exactly(fd: int, n: int, wait: Callable[[int], None]) -> bytearray:
    data = bytearray(n)
    view, done = memoryview(data), 0
    while done < n:
        wait(fd)
        got = os.readv(fd, [view[done : done + _READ_BYTES]])
        if got == 0:
            raise ChannelClosedError("the writer of the pipe is gone")
        done += got
    return data
