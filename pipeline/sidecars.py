"""Reads the sidecars of many shards: several at a time, keeping only what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from storage.sharded import ShardedStore
from storage.shards import Sidecar, read_shard_tail

REQUESTS: Final = 16  # at a time, for stores where every read is a request

T = TypeVar("T")


def each_sidecar(group: ShardedStore, shards: Sequence[int], take: Callable[[Sidecar], T]) -> Iterator[T]:
    """What `take` makes of each sidecar, in the order of `shards`.

    The sidecars themselves are not kept: those of 10⁵ objects hold gigabytes of cameras.

    Raises:
        IntegrityError: A shard is missing or damaged.
    """
    spec = group.spec

    def read(shard: int) -> T:
        return take(read_shard_tail(group.store, spec.shard_key(shard), spec.chunks_per_shard).sidecar)

    with ThreadPoolExecutor(REQUESTS) as pool:
        yield from pool.map(read, shards)
