"""Reading many pieces of few files: what is asked for, and which pieces are read together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

IOV_MAX = 1024  # buffers of one preadv on Linux


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive bytes of one object, and the memory that they go to.

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


def neighbours(parts: Sequence[Part], max_gap: int, max_bytes: int, max_buffers: int) -> list[list[int]]:
    """Group the positions of parts that are worth one read.

    Args:
        parts: In any order.
        max_gap: Bytes between two parts that may be read in vain.
        max_bytes: Bytes of one read, unless one part alone has more.
        max_buffers: Buffers of one read.
    """
    runs: list[list[int]] = []
    end = start = n_buffers = 0
    key = None
    for position in sorted(range(len(parts)), key=lambda i: (parts[i].key, parts[i].start)):
        part = parts[position]
        n_buffers += len(part.buffers)
        fits = part.end - start <= max_bytes and n_buffers <= max_buffers
        if part.key == key and fits and 0 <= part.start - end <= max_gap:
            runs[-1].append(position)
        else:
            runs.append([position])
            key, start, n_buffers = part.key, part.start, len(part.buffers)
        end = part.end
    return runs


def read_exactly(descriptor: int, start: int, buffers: list[memoryview]) -> None:
    """Fill buffers from an open file, one after the other; raises EOFError when it is shorter."""
    while buffers:
        n = os.preadv(descriptor, buffers, start)
        if n == 0:
            raise EOFError(f"ends before byte {start + 1}")
        start += n
        while buffers and n >= buffers[0].nbytes:
            n -= buffers.pop(0).nbytes
        if n:
            buffers[0] = buffers[0][n:]
