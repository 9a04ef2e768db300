"""Reads the data of many objects at once: payload chunks and per-object values of one sharded group.

A warm reader makes one request per object, or fewer where objects lie side by side: what it must know of a
shard (`ShardTable`) it reads once. Chunks go straight into the result and are checked there.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .arrays import CRC_BYTES
from .documents import crc32c
from .errors import IntegrityError
from .parts import Part
from .records import Status
from .shard_tables import ShardTable, TableCache, make_table
from .sharded import ShardedStore
from .shards import ShardTail

Rows = NDArray[np.int64]
_OK = int(Status.OK)


class ObjectReader:
    """Reads one snapshot of a group, like the `ShardedStore` that it belongs to.

    Args:
        group: The group; its payload array, if any, is uncompressed with one chunk per object.
    """

    def __init__(self, group: ShardedStore) -> None:
        self._group = group
        self._per_shard = group.spec.objects_per_shard
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
        wanted = rows.tolist()
        tables = self._tables_of(wanted)
        if len(wanted) == 1:  # what is read most often
            at = wanted[0] - tables[0].start
            return tables[0].values[name][at : at + 1].copy()
        spec = self._group.spec.derived_spec(name)
        out = np.empty((len(rows), *spec.shape[1:]), spec.dtype)
        for position, (row, table) in enumerate(zip(wanted, tables, strict=True)):
            out[position] = table.values[name][row - table.start]
        return out

    def payload(self, rows: Rows) -> NDArray[Any]:
        """Return the payload [B, …] of some rows, as it is stored, each checked against its checksums.

        Raises:
            ObjectUnavailableError: an object failed, is absent, or its shard is not done.
            StaleSnapshotError: a shard was replaced since this snapshot began.
            IntegrityError: stored bytes are damaged; names the object, its file and what to do.
        """
        spec = self._group.spec.payload
        assert spec is not None and spec.zstd_level is None
        wanted = rows.tolist()
        out = np.empty((len(wanted), *spec.shape[1:]), spec.dtype)
        stored = np.empty(len(wanted), "<u4")  # checksums, from the ends of the chunks
        tables = self._tables_of(wanted)
        parts = self._parts(wanted, tables, out, stored)
        for position, failure in self._group.store.read_into(parts):
            row, table = wanted[position], tables[position]
            if failure is None:
                expected = table.checksums[row - table.start, 0]
                if stored[position] == expected == crc32c(parts[position].buffers[0]):
                    continue
                failure = self._damaged(row, "checksum mismatch")
            self._raise(row, table, failure)
        return out

    def _parts(
        self, rows: list[int], tables: list[ShardTable], out: NDArray[Any], stored: NDArray[np.uint32]
    ) -> list[Part]:
        """Say where the chunk of each row lies, and that it goes to `out` and `stored`."""
        size = out.nbytes // max(1, len(rows))
        body, check = out.reshape(-1).view(np.uint8).data, stored.view(np.uint8).data
        parts = []
        for position, (row, table) in enumerate(zip(rows, tables, strict=True)):
            start, n_bytes = table.places[row - table.start, 0].tolist()
            if n_bytes != size + CRC_BYTES:
                raise self._damaged(row, f"the index gives it {n_bytes} bytes, not {size + CRC_BYTES}")
            buffers = (
                body[position * size : (position + 1) * size],
                check[position * CRC_BYTES : (position + 1) * CRC_BYTES],
            )
            key = self._group.spec.shard_key(row // self._per_shard)
            parts.append(Part(key, start, start + n_bytes, buffers))
        return parts

    def _raise(self, row: int, table: ShardTable, failure: Exception) -> NoReturn:
        """Raise why a row could not be read: StaleSnapshotError where a replacement explains it."""
        if isinstance(failure, FileNotFoundError):
            raise self._damaged(row, "the file is missing") from failure
        self._group.snapshot.raise_if_replaced(row // self._per_shard, table.attempt)
        if isinstance(failure, EOFError):
            raise self._damaged(row, "the file is shorter than its index says") from failure
        raise failure

    def _damaged(self, row: int, what: str) -> IntegrityError:
        spec, key = self._group.spec, self._group.spec.shard_key(row // self._per_shard)
        object_id = self._group.plan.rows[row].object_id
        name = spec.payload.name if spec.payload else spec.kind
        return IntegrityError(
            f"{key}: {name} of object {object_id}: {what}; run fpipe verify {self._group.store.url} --full",
            key=key,
            object_id=object_id,
        )

    def _tables_of(self, rows: list[int]) -> list[ShardTable]:
        """Return the table of each row's shard; raises unless the row has data."""
        tables = []
        for row in rows:
            table = self._tables.get(row // self._per_shard)
            if table is None or table.status.item(row - table.start) != _OK:
                return self._loaded_tables_of(rows)
            tables.append(table)
        return tables

    def _loaded_tables_of(self, rows: list[int]) -> list[ShardTable]:
        """Return the table of each row's shard, after reading those that are missing at the same time."""
        found = {shard: self._tables.get(shard) for shard in {row // self._per_shard for row in rows}}
        for shard, tail in self._group.snapshot.read_tails(
            [s for s, table in found.items() if table is None]
        ).items():
            found[shard] = loaded = self._table(tail)
            self._tables.add(shard, loaded)
        tables = []
        for row in rows:
            table = found[row // self._per_shard]
            if table is None or table.status[row - table.start] != _OK:
                self._group.ok_record(row)  # says why, unless the shard was committed this very moment
                table = self._table(self._group.tail(row // self._per_shard))
            tables.append(table)
        return tables

    def _table(self, tail: ShardTail) -> ShardTable:
        start = self._group.shard_rows(tail.sidecar.shard).start
        return make_table(tail, start, self._group.spec.chunks_per_object)
