"""Many range reads of a remote store at the same time, over the connections of its fsspec file system."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from .parts import Part, neighbours

MAX_GAP_BYTES = 256 * 1024  # what a stream moves while another request would wait for its first byte
MAX_READ_BYTES = 8 * 2**20  # longer ranges are faster as several requests at the same time
CONCURRENCY = 64  # requests at the same time; the connection pool must have as many
WINDOW = 4 * CONCURRENCY  # answers that wait in memory to be copied to where they belong


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes [start, end) of one object; with a negative start, the last bytes, and `end` is None.

    Attributes:
        key: The object.
        start: First byte.
        end: Byte after the last.
    """

    key: str
    start: int
    end: int | None = None


Outcomes = list[bytes | Exception]


async def gathered(read: Callable[[Span], Awaitable[bytes]], spans: Sequence[Span]) -> Outcomes:
    """Read every span once, several at the same time; returns its bytes, or what the file system raised.

    Args:
        read: Reads one span, on an event loop.
        spans: What to read; their keys are whatever `read` takes.
    """
    slots = asyncio.Semaphore(CONCURRENCY)

    async def one(span: Span) -> bytes:
        async with slots:
            return await read(span)

    outcomes = await asyncio.gather(*map(one, spans), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, (bytes, Exception))]


def fill_parts(
    parts: Sequence[Part], read: Callable[[Sequence[Span]], Outcomes]
) -> Iterator[tuple[int, Exception | None]]:
    """Fill the buffers of parts with as few requests as is sensible; yields position and what went wrong.

    Args:
        parts: What is wanted.
        read: Reads spans.
    """
    runs = neighbours(parts, MAX_GAP_BYTES, MAX_READ_BYTES)
    for first in range(0, len(runs), WINDOW):
        some = runs[first : first + WINDOW]
        spans = [Span(parts[run[0]].key, parts[run[0]].start, parts[run[-1]].end) for run in some]
        for run, span, outcome in zip(some, spans, read(spans), strict=True):
            for position in run:
                if isinstance(outcome, Exception):
                    yield position, outcome
                else:
                    yield position, _copy(memoryview(outcome), span.start, parts[position])


def _copy(data: memoryview, origin: int, part: Part) -> Exception | None:
    if origin + len(data) < part.end:
        return EOFError(f"{part.key}: ends before byte {part.end}")
    start = part.start - origin
    for buffer in part.buffers:
        buffer[:] = data[start : start + buffer.nbytes]
        start += buffer.nbytes
    return None
