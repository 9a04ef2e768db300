"""What a reader needs to know of a shard to read its objects, parsed once per shard and process.

A sidecar holds texts, timings and failures as well; keeping thousands of them would fill the memory, and
reading one again for every object would double the requests. Tables are small: some tens of bytes per object,
and its coefficients.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .shards import ShardTail

CACHED_BYTES = 64 * 2**20
OBJECT_OVERHEAD_BYTES = 64  # of a table beyond its arrays, per array: headers of numpy and of the dictionary


@dataclass(frozen=True)
class ShardTable:
    """Where the objects of one shard lie, and their values in the sidecar.

    Attributes:
        start: First row of the shard.
        attempt: Id of the attempt that wrote the shard.
        status: u8 [rows], `Status` of each row.
        places: i64 [rows, chunks per object, 2], offset and size of every chunk; -1 where there is none.
        checksums: u32 [rows, chunks per object], crc32c of every chunk, 0 where there is none.
        values: The sidecar's arrays, first axis = rows of the shard, read-only.
    """

    start: int
    attempt: str
    status: NDArray[np.uint8]
    places: NDArray[np.int64]
    checksums: NDArray[np.uint32]
    values: dict[str, NDArray[Any]]

    @property
    def n_bytes(self) -> int:
        """Memory that it takes, about."""
        arrays: list[NDArray[Any]] = [self.status, self.places, self.checksums, *self.values.values()]
        return sum(array.nbytes + OBJECT_OVERHEAD_BYTES for array in arrays)


def make_table(tail: ShardTail, start: int, chunks_per_object: int) -> ShardTable:
    """Keep of a shard's tail what reading needs.

    Args:
        tail: Sidecar and index.
        start: First row of the shard.
        chunks_per_object: Chunks of one object, 0 where shards are sidecars alone.
    """
    objects = tail.sidecar.objects
    checksums = np.zeros((len(objects), chunks_per_object), np.uint32)
    for position, record in enumerate(objects):
        if record.crc32c:
            checksums[position] = record.crc32c
    places = tail.index[: len(objects) * chunks_per_object].astype(np.int64)
    return ShardTable(
        start=start,
        attempt=tail.sidecar.attempt,
        status=tail.sidecar.status,
        places=places.reshape(len(objects), chunks_per_object, 2),
        checksums=checksums,
        values=tail.sidecar.arrays,
    )


class TableCache:
    """The tables used last, up to about a number of bytes. Threads may share it."""

    def __init__(self, max_bytes: int = CACHED_BYTES) -> None:
        self._max_bytes = max_bytes
        self._tables: OrderedDict[int, ShardTable] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tables)

    def get(self, shard: int) -> ShardTable | None:
        """Return the table of a shard, which then counts as used last."""
        table = self._tables.get(shard)
        if table is not None:
            try:
                self._tables.move_to_end(shard)
            except KeyError:  # another thread has dropped it
                return table
        return table

    def add(self, shard: int, table: ShardTable) -> None:
        """Keep a table, drop those unused for longest; tables of one group have about the same size."""
        self._tables[shard] = table
        with suppress(KeyError):
            while len(self._tables) > max(1, self._max_bytes // table.n_bytes):
                self._tables.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        self._tables.clear()
