"""Reading many pieces of few files: what is asked for, and which pieces are read together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple


class Part(NamedTuple):
    """Consecutive bytes of one object, and the memory that they go to. A tuple: many are made per second.

    Attributes:
        key: The object.
        start: Offset of the first byte.
        end: Offset after the last byte.
        buffers: Filled one after the other; as long together as the range.
    """

    key: str
    start: int
    end: int
    buffers: tuple[memoryview, ...]


def in_order(parts: Sequence[Part]) -> list[int]:
    """Return the positions of parts by object and offset."""
    if len(parts) == 1:
        return [0]
    return sorted(range(len(parts)), key=lambda position: parts[position][:2])


def neighbours(parts: Sequence[Part], max_gap: int, max_bytes: int) -> list[list[int]]:
    """Group the positions of parts that are worth one request.

    Args:
        parts: In any order.
        max_gap: Bytes between two parts that may be read in vain.
        max_bytes: Bytes of one request, unless one part alone has more.
    """
    runs: list[list[int]] = []
    first: Part | None = None
    end = 0
    for position in in_order(parts):
        part = parts[position]
        near = first is not None and part.key == first.key and 0 <= part.start - end <= max_gap
        if first is not None and near and part.end - first.start <= max_bytes:
            runs[-1].append(position)
        else:
            runs.append([position])
            first = part
        end = part.end
    return runs


def fill_from_memory(content: memoryview, part: Part) -> None:
    """Fill the buffers of a part from the content of its object; raises EOFError when that is shorter."""
    if part.end > len(content):
        raise EOFError(f"ends before byte {part.end}")
    start = part.start
    for buffer in part.buffers:
        buffer[:] = content[start : (start := start + buffer.nbytes)]


def fill_from_file(path: str, part: Part) -> None:
    """Fill the buffers of a part from a file; raises EOFError when that is shorter."""
    start, rest = part.start, list(part.buffers)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while rest:
            n = os.preadv(descriptor, rest, start)  # less: a signal, 2 GiB, or the end of the file
            if n == 0:
                raise EOFError(f"ends before byte {part.end}")
            start += n
            while rest and n >= rest[0].nbytes:
                n -= rest.pop(0).nbytes
            if n:
                rest[0] = rest[0][n:]
    finally:
        os.close(descriptor)
