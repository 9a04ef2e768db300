"""What views and planes share: a Zarr group whose first axis is cut into shards that are transactions.

A shard file is committed once, by one create-only write. Its sidecar is the truth. Derived arrays (one
chunk per shard) are caches of the sidecar, written after the commit; the marker `done/<shard>` comes last.
A shard with a file but without a marker only needs `publish`.

A store object reads one snapshot: it begins with the first read, and `refresh()` begins the next one. Files
of replacements that began later (see `journal`) raise StaleSnapshotError; derived arrays of shards that are
being replaced are read from their sidecars.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import ArraySpec, chunk_checksum, decode_chunk, encode_chunk, encoded_bytes
from .documents import SCHEMA_VERSION, dump_document
from .errors import (
    FpipeError,
    IntegrityError,
    ObjectUnavailableError,
    StaleSnapshotError,
    TransientError,
)
from .group import STATUS, GroupSpec
from .journal import Journal, read_journal
from .layout import zarr_chunk
from .plan import Plan, shard_count, shard_rows
from .records import Failure, Status
from .shards import (
    TAIL_BYTES,
    ObjectRecord,
    ShardTail,
    Sidecar,
    TailTooShort,
    read_shard_tail,
    unpack_tail,
)
from .store import Store

CACHED_TAILS = 64
PUBLISH_ATTEMPTS = 5

_MEND = "refresh() and read again"


class ShardedStore:
    """Reads, publishes and reports on one sharded group; `ViewsStore` and `PlanesStore` add their content.

    Args:
        store: The dataset.
        plan: Its plan.
        spec: Definition of the group.
    """

    def __init__(self, store: Store, plan: Plan, spec: GroupSpec) -> None:
        self.store = store
        self.plan = plan
        self.spec = spec
        self._tails: OrderedDict[int, ShardTail] = OrderedDict()
        self._attempts: dict[int, str] = {}  # of all shards that this snapshot has read
        self._journal: Journal | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Another process gets the same snapshot, and reads sidecars itself."""
        return {**self.__dict__, "_tails": OrderedDict()}

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return shard_count(self.spec.n_objects, self.spec.objects_per_shard)

    def shard_rows(self, shard: int) -> range:
        """Return the rows of one shard; raises UsageError beyond the last."""
        return shard_rows(self.spec.n_objects, self.spec.objects_per_shard, shard)

    def shard_of(self, row: int) -> int:
        """Return the shard that holds a row."""
        if not 0 <= row < self.spec.n_objects:
            raise IndexError(f"row {row} of {self.spec.n_objects}")
        return row // self.spec.objects_per_shard

    def done(self) -> frozenset[int]:
        """Return the shards that are committed and published."""
        return frozenset(int(name) for name in self.store.list(self.spec.done) if name.isdigit())

    def sidecar(self, shard: int) -> Sidecar:
        """Return the sidecar of a committed shard; raises FileNotFoundError when there is none."""
        return self.tail(shard).sidecar

    def tail(self, shard: int) -> ShardTail:
        """Return sidecar and index of a committed shard, cached.

        Raises:
            FileNotFoundError: there is none.
            StaleSnapshotError: the shard was replaced since this snapshot began.
        """
        journal = self.journal()  # before the file, or a later one would pass
        tail = self._tails.get(shard)
        if tail is None:
            tail = self._read_tail(shard)
            self._require_same(journal, tail.sidecar)
            self._tails[shard] = tail
        with suppress(KeyError):  # another thread may have dropped it
            self._tails.move_to_end(shard)
            while len(self._tails) > CACHED_TAILS:
                self._tails.popitem(last=False)
        return tail

    def read_tails(self, shards: Sequence[int]) -> dict[int, ShardTail]:
        """Read the tails of committed shards at the same time; those that are not there are left out.

        Raises:
            StaleSnapshotError: a shard was replaced since this snapshot began.
            IntegrityError: a tail is damaged.
        """
        journal = self.journal()  # before the files, or a later one would pass
        found = {}
        keys = [self.spec.shard_key(shard) for shard in shards]
        for shard, data in zip(shards, self.store.read_tails(keys, TAIL_BYTES), strict=True):
            if isinstance(data, FileNotFoundError):
                continue
            if isinstance(data, Exception):
                raise data
            found[shard] = self._checked_tail(shard, data)
            self._require_same(journal, found[shard].sidecar)
        return found

    def journal(self) -> Journal:
        """Return what this snapshot knows about replacements."""
        if self._journal is None:
            self._journal = read_journal(self.store, self.spec.group)
        return self._journal

    def refresh(self) -> None:
        """Begin a new snapshot: forget sidecars and what is known about replacements."""
        self._journal = None
        self._attempts.clear()
        self._tails.clear()

    def publish(self, shard: int, overwrite: bool = False) -> None:
        """Write derived arrays and the done marker of a committed shard from its sidecar; repeatable.

        Unless told to overwrite, it only adds what is missing: the first commit has one content, and a
        publisher that stalled must not undo what a replacement has published since. One that overwrites
        replaces only what it knew before it read the sidecar: whoever publishes last has read the last
        sidecar, however long another one was stopped.

        Args:
            shard: The shard.
            overwrite: For the holder of the lease (see `lease`), after a replacement or for a repair.

        Raises:
            FileNotFoundError: the shard is not committed.
            TransientError: the store kept failing, or others publish the shard all the time.
        """
        if not overwrite:
            for key, data in self._published(shard).items():
                self.store.create(key, data)
            return
        keys = [*map(partial(self._derived_key, shard=shard), self.spec.derived), self.marker_key(shard)]
        for _ in range(PUBLISH_ATTEMPTS):
            versions = {key: self.store.known_version(key) for key in keys}
            files = self._published(shard)
            if all(self.store.exchange(key, data, versions[key]) for key, data in files.items()):
                return
        raise TransientError(f"{self.marker_key(shard)}: could not be published, others changed it meanwhile")

    def _published(self, shard: int) -> dict[str, bytes]:
        """Return key -> content of the derived arrays of a shard, then of its marker, by its sidecar."""
        sidecar = self._read_tail(shard).sidecar
        files = {}
        for spec in self.spec.derived:
            values = spec.filled(spec.chunk[0])
            known = sidecar_values(sidecar, spec)
            values[: len(known)] = known
            files[self._derived_key(spec, shard)] = encode_chunk(values, spec)
        counts = {status.name.lower(): int((sidecar.status == status).sum()) for status in Status}
        marker = {"shard": shard, "attempt": sidecar.attempt, "generation": sidecar.generation, **counts}
        marker["schema_version"] = SCHEMA_VERSION
        return {**files, self.marker_key(shard): dump_document(marker)}

    def _derived_key(self, spec: ArraySpec, shard: int) -> str:
        return zarr_chunk(self.spec.group, spec.name, shard, len(spec.shape))

    def publish_committed(self) -> list[int]:
        """Publish all shards whose file exists without a marker; returns them."""
        found = []
        for shard in sorted(set(range(self.n_shards)) - self.done()):
            if self.store.exists(self.spec.shard_key(shard)):
                self.publish(shard)
                found.append(shard)
        return found

    def status(self) -> NDArray[np.uint8]:
        """Return the `Status` of every row, u8 [N]; rows of shards that are not done are ABSENT."""
        return self.derived(STATUS)

    def derived(self, name: str) -> NDArray[Any]:
        """Return one derived array in full, fill value where shards are not done.

        Raises:
            IntegrityError: a chunk is missing or damaged.
            StaleSnapshotError: shards are being replaced, and were not when this snapshot began.
        """
        spec = self.spec.derived_spec(name)
        values = spec.filled(self.spec.n_objects)
        journal = self.journal()
        done = self.done()
        known = self._derived_chunks(spec, sorted(done - journal.open))
        known |= {shard: sidecar_values(self.sidecar(shard), spec) for shard in done & journal.open}
        for shard, chunk in known.items():
            rows = self.shard_rows(shard)
            values[rows.start : rows.stop] = chunk[: len(rows)]
        if read_journal(self.store, self.spec.group).generation != journal.generation:
            raise StaleSnapshotError(f"{self.spec.group}: shards are being replaced; {_MEND}")
        return values

    def derived_chunk(self, spec: ArraySpec, shard: int) -> NDArray[Any]:
        """Return one stored chunk of a derived array."""
        return self._derived_chunks(spec, [shard])[shard]

    def _derived_chunks(self, spec: ArraySpec, shards: Sequence[int]) -> dict[int, NDArray[Any]]:
        """Return stored chunks of a derived array, read at the same time."""
        keys = [self._derived_key(spec, shard) for shard in shards]
        n_bytes = encoded_bytes(spec) + 1  # one more, or bytes before the chunk would go unnoticed
        found = {}
        for shard, key, data in zip(shards, keys, self.store.read_tails(keys, n_bytes), strict=True):
            if isinstance(data, FileNotFoundError):
                raise IntegrityError(f"{key}: missing although shard {shard} is done", key=key) from data
            if isinstance(data, Exception):
                raise data
            found[shard] = decode_chunk(data, spec, key)
        return found

    def failures(self) -> list[tuple[int, str, Failure]]:
        """Return (row, object id, failure) of every failed object of the done shards, in row order."""
        return list(self.each_failure())

    def each_failure(self) -> Iterator[tuple[int, str, Failure]]:
        """Yield what `failures` returns, one by one: details of many failures need much memory."""
        failed = np.flatnonzero(self.status() == Status.FAILED)
        for shard in sorted({self.shard_of(int(row)) for row in failed}):
            for record in self.sidecar(shard).objects:
                if record.failure is not None:
                    yield record.row, record.object_id, record.failure

    def shard_info(self, shard: int) -> dict[str, dict[str, Any]]:
        """Return object id -> the info (timings and the like) that its builder was given."""
        return {record.object_id: record.info for record in self.sidecar(shard).objects}

    def record(self, row: int) -> ObjectRecord:
        """Return what the sidecar says about one row.

        Raises:
            ObjectUnavailableError: its shard is not committed yet.
        """
        shard = self.shard_of(row)
        try:
            return self.sidecar(shard).objects[row - self.shard_rows(shard).start]
        except FileNotFoundError as error:
            object_id = self.plan.rows[row].object_id
            raise ObjectUnavailableError(
                f"{object_id} (row {row}): shard {shard} of {self.spec.kind} is not done",
                object_id=object_id,
                reason="shard not done",
            ) from error

    def ok_record(self, row: int) -> ObjectRecord:
        """Return the record of one row that has data.

        Raises:
            ObjectUnavailableError: it failed, or is absent.
        """
        record = self.record(row)
        if record.status == Status.OK:
            return record
        reason = record.failure.reason if record.failure else "not in the dataset"
        raise ObjectUnavailableError(
            f"{record.object_id} (row {row}) has no {self.spec.kind}: {record.status.name.lower()}: {reason}",
            object_id=record.object_id,
            status=int(record.status),
            reason=reason,
        )

    def values(self, row: int) -> dict[str, NDArray[Any]]:
        """Return the sidecar's arrays for one row; read-only views."""
        shard = self.shard_of(row)
        position = row - self.shard_rows(shard).start
        return {name: array[position] for name, array in self.sidecar(shard).arrays.items()}

    def chunks(self, row: int, numbers: range | None = None) -> list[NDArray[Any]]:
        """Read, check and decode consecutive chunks of one object with one range request.

        Raises:
            ObjectUnavailableError: the object has no data.
            IntegrityError: a checksum is wrong.
            StaleSnapshotError: the shard was replaced since its sidecar was read.
        """
        assert self.spec.payload is not None
        record = self.ok_record(row)
        shard = self.shard_of(row)
        numbers = range(self.spec.chunks_per_object) if numbers is None else numbers
        first = (row - self.shard_rows(shard).start) * self.spec.chunks_per_object
        places = self.tail(shard).index[first + numbers.start : first + numbers.stop].astype(np.int64)
        key, start = self.spec.shard_key(shard), int(places[0, 0])
        data = self._read_places(shard, start, int(places[-1].sum()))
        parts = [data[offset - start : offset - start + size] for offset, size in places.tolist()]
        try:
            return [
                _decode(part, self.spec.payload, key, record, number)
                for part, number in zip(parts, numbers, strict=True)
            ]
        except IntegrityError:
            self.raise_if_replaced(shard, self.sidecar(shard).attempt)
            raise

    def statistics(self, shard: int) -> bytes | None:
        """Return the encoded channel statistics of a committed shard; None where its file has none.

        Raises:
            FileNotFoundError: the shard is not committed.
            IntegrityError: the checksum is wrong.
            StaleSnapshotError: the shard was replaced since its sidecar was read.
        """
        block = self.sidecar(shard).statistics
        if block is None:
            return None
        data = self._read_places(shard, block.offset, block.offset + block.n_bytes)
        try:
            return block.checked(data, self.spec.shard_key(shard))
        except IntegrityError:
            self.raise_if_replaced(shard, self.sidecar(shard).attempt)
            raise

    def marker_key(self, shard: int) -> str:
        """Key of the done marker of one shard."""
        return f"{self.spec.done}/{shard}"

    def _read_places(self, shard: int, start: int, end: int) -> bytes:
        try:
            return self.store.read_range(self.spec.shard_key(shard), start, end)
        except FpipeError:
            raise
        except OSError:  # a server may refuse a range beyond the end of a shorter replacement
            self.raise_if_replaced(shard, self.sidecar(shard).attempt)
            raise

    def _require_same(self, journal: Journal, sidecar: Sidecar) -> None:
        """Raise StaleSnapshotError unless a file belongs to the snapshot that began with this journal."""
        first = self._attempts.setdefault(sidecar.shard, sidecar.attempt)
        if sidecar.generation > journal.generation or sidecar.attempt != first:
            raise StaleSnapshotError(
                f"{self.spec.shard_key(sidecar.shard)}: replaced since this snapshot began; {_MEND}"
            )

    def _read_tail(self, shard: int) -> ShardTail:
        key = self.spec.shard_key(shard)
        return self._of_this_group(key, shard, read_shard_tail(self.store, key, self.spec.chunks_per_shard))

    def _checked_tail(self, shard: int, data: bytes) -> ShardTail:
        """Decode the end of a shard file that was read already; reads more where that is too little."""
        key = self.spec.shard_key(shard)
        try:
            tail = unpack_tail(data, self.spec.chunks_per_shard, key)
        except TailTooShort as short:
            tail = read_shard_tail(self.store, key, self.spec.chunks_per_shard, short.needed)
        return self._of_this_group(key, shard, tail)

    def _of_this_group(self, key: str, shard: int, tail: ShardTail) -> ShardTail:
        found = (tail.sidecar.kind, tail.sidecar.shard, tail.sidecar.config_hash)
        expected = (self.spec.kind, shard, self.spec.config_hash)
        if found != expected:
            raise IntegrityError(
                f"{key}: is {found}, but should be {expected}: from another dataset?", key=key
            )
        return tail

    def raise_if_replaced(self, shard: int, attempt: str) -> None:
        """Raise StaleSnapshotError if a shard is no longer what this attempt wrote."""
        if self._read_tail(shard).sidecar.attempt != attempt:
            key = self.spec.shard_key(shard)
            raise StaleSnapshotError(f"{key}: replaced while it was read; {_MEND}")


def sidecar_values(sidecar: Sidecar, spec: ArraySpec) -> NDArray[Any]:
    """Return what a derived array holds for the rows of one shard, by its sidecar."""
    return sidecar.status if spec.name == STATUS else sidecar.arrays[spec.name]


def _decode(data: bytes, spec: ArraySpec, key: str, record: ObjectRecord, number: int) -> NDArray[Any]:
    values = decode_chunk(data, spec, key, record.object_id)
    if chunk_checksum(data) != record.crc32c[number]:
        raise IntegrityError(
            f"{key}: chunk {number} of object {record.object_id} is not the one that the sidecar lists",
            key=key,
            object_id=record.object_id,
        )
    return values
