"""Calls that wait for a store, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

REQUESTS: Final = 16
_AT_A_TIME: Final = 256  # calls that are waiting or whose results are: there may be 100,000 in all

S = TypeVar("S")
T = TypeVar("T")


def in_parallel(call: Callable[[S], T], items: Sequence[S], requests: int = REQUESTS) -> Iterator[T]:
    """Yield what `call` returns for each item, in order."""
    with ThreadPoolExecutor(requests) as pool:
        for part in in_parts(items, _AT_A_TIME):
            yield from pool.map(call, part)


def in_parts(items: Sequence[S], size: int) -> Iterator[Sequence[S]]:
    """Yield consecutive parts of a sequence, the last of which may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
