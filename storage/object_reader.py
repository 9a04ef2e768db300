"""Reads the data of many objects at once: payload chunks and per-object values of one sharded group.

A warm reader makes one request per object, or fewer where objects lie side by side: what it must know of a
shard (`ShardTable`) it reads once. Chunks go straight into the result and are checked there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import CRC_BYTES
from .documents import crc32c
from .errors import IntegrityError
from .parts import Part
from .records import Status
from .shard_tables import ShardTable, TableCache, make_table
from .sharded import ShardedStore

Rows = NDArray[np.int64]


class ObjectReader:
    """Reads one snapshot of a group, like the `ShardedStore` that it belongs to.

    Args:
        group: The group; its payload array, if any, is uncompressed with one chunk per object.
    """

    def __init__(self, group: ShardedStore) -> None:
        self._group = group
        self._tables = TableCache()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": TableCache()}

    def clear(self) -> None:
        """Forget all shards: the group begins a new snapshot."""
        self._tables.clear()

    def values(self, name: str, rows: Rows) -> NDArray[Any]:
        """Return the values [B, …] of a derived array for some rows, from their sidecars.

        Raises:
            ObjectUnavailableError: an object failed, is absent, or its shard is not done.
            StaleSnapshotError: a shard was replaced since this snapshot began.
        """
        spec = self._group.spec.derived_spec(name)
        out = np.empty((len(rows), *spec.shape[1:]), spec.dtype)
        tables = self._tables_of(rows)
        for shard, positions in self._by_shard(rows):
            table = tables[shard]
            out[positions] = table.values[name][rows[positions] - table.start]
        return out

    def payload(self, rows: Rows) -> NDArray[Any]:
        """Return the payload [B, …] of some rows, as it is stored, each checked against its checksums.

        Raises:
            ObjectUnavailableError: an object failed, is absent, or its shard is not done.
            StaleSnapshotError: a shard was replaced since this snapshot began.
            IntegrityError: stored bytes are damaged; names the object, its file and what to do.
        """
        spec = self._group.spec.payload
        assert spec is not None and spec.zstd_level is None and spec.chunks_per_row() == 1
        out = np.empty((len(rows), *spec.shape[1:]), spec.dtype)
        n_values = int(np.prod(spec.shape[1:])) * out.itemsize
        size = n_values + CRC_BYTES
        body = out.view(np.uint8).reshape(len(rows), n_values)
        checks = np.empty((len(rows), CRC_BYTES), np.uint8)
        tables, parts, expected = self._tables_of(rows), [], []
        for row, values, check in zip(rows.tolist(), body, checks, strict=True):
            shard = self._group.shard_of(row)
            table = tables[shard]
            start, n_bytes = table.places[row - table.start, 0].tolist()
            if n_bytes != size:
                raise self._damaged(row, f"the index gives it {n_bytes} bytes, not {size}")
            buffers = (memoryview(values), memoryview(check))
            parts.append(Part(self._group.spec.shard_key(shard), start, start + size, buffers))
            expected.append(int(table.checksums[row - table.start, 0]))
        failures = self._group.store.read_into(parts)
        stored = checks.view("<u4")[:, 0].tolist()
        for position, row in enumerate(rows.tolist()):
            self._check(row, tables, failures[position])
            if not stored[position] == expected[position] == crc32c(body[position]):
                self._check(row, tables, self._damaged(row, "checksum mismatch"))
        return out

    def _check(self, row: int, tables: dict[int, ShardTable], failure: Exception | None) -> None:
        """Raise a failure of reading one row, as StaleSnapshotError where a replacement explains it."""
        if failure is None:
            return
        if isinstance(failure, (EOFError, IntegrityError, OSError)):
            shard = self._group.shard_of(row)
            self._group.raise_if_replaced(shard, tables[shard].attempt)
        if isinstance(failure, EOFError):
            raise self._damaged(row, "the file is shorter than its index says") from failure
        raise failure

    def _damaged(self, row: int, what: str) -> IntegrityError:
        spec, shard = self._group.spec, self._group.shard_of(row)
        key, object_id = spec.shard_key(shard), self._group.plan.rows[row].object_id
        name = spec.payload.name if spec.payload else spec.kind
        return IntegrityError(
            f"{key}: {name} of object {object_id}: {what}; run fpipe verify {self._group.store.url} --full",
            key=key,
            object_id=object_id,
        )

    def _by_shard(self, rows: Rows) -> Iterable[tuple[int, Rows]]:
        """Return each shard with the positions of its rows in `rows`."""
        shards = rows // self._group.spec.objects_per_shard
        return [(int(shard), np.flatnonzero(shards == shard)) for shard in np.unique(shards)]

    def _tables_of(self, rows: Rows) -> dict[int, ShardTable]:
        """Return the tables of the shards of some rows, all of which have data."""
        needed = np.unique(rows // self._group.spec.objects_per_shard).tolist()
        known = {shard: self._tables.get(shard) for shard in needed}
        found = {shard: table for shard, table in known.items() if table is not None}
        per_object = self._group.spec.chunks_per_object
        for shard, tail in self._group.read_tails([shard for shard in needed if shard not in found]).items():
            found[shard] = make_table(tail, self._group.shard_rows(shard).start, per_object)
            self._tables.add(shard, found[shard])
        for row in rows.tolist():
            table = found.get(self._group.shard_of(row))
            if table is None or table.status[row - table.start] != Status.OK:
                self._group.ok_record(row)  # says why, unless the shard has come this very moment
                tail = self._group.tail(self._group.shard_of(row))
                found[tail.sidecar.shard] = make_table(tail, tail.sidecar.objects[0].row, per_object)
        return found
