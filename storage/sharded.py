"""What views and planes share: a Zarr group whose first axis is cut into shards that are transactions.

A shard file is committed once, by one create-only write. Its sidecar is the truth. Derived arrays (one
chunk per shard) are caches of the sidecar, written after the commit; the marker `done/<shard>` comes last.
A shard with a file but without a marker only needs `publish`.

A store object reads one snapshot (see `snapshot`): it begins with the first read, and `refresh()` begins the
next one, with the objects that were appended since. Derived arrays of shards that are being replaced are
read from their sidecars.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .arrays import ArraySpec, chunk_checksum, decode_chunk
from .derived import fill_rows
from .errors import FpipeError, IntegrityError, ObjectUnavailableError, TransientError
from .group import STATUS, GroupSpec
from .journal import Journal
from .plan import Plan, planned_shard_rows, shard_count, shards_with_objects
from .publication import marker_key, published_files, published_keys
from .records import Failure, Status
from .shards import ObjectRecord, ShardTail, Sidecar
from .snapshot import Snapshot
from .store import Store
from .summary import Summary, known_status, usable_summary

if TYPE_CHECKING:  # it builds what is defined here
    from .builder import ShardBuilder

LOGGER = logging.getLogger(__name__)

PUBLISH_ATTEMPTS = 5


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
        self.snapshot = Snapshot(store, spec)

    @property
    def n_shards(self) -> int:
        """The number after that of the last shard; after an append not every shard holds objects."""
        return shard_count(self.spec.n_objects, self.spec.objects_per_shard)

    def shards(self) -> list[int]:
        """Return the numbers of all shards that hold objects: those that are done, or have to be."""
        size = self.spec.objects_per_shard
        return [shard for part in shards_with_objects(self.plan, size, self.spec.n_objects) for shard in part]

    def with_objects(self, shards: Sequence[int]) -> list[int]:
        """Return those of some shards that hold objects: after an append there may be others."""
        holding = frozenset(self.shards())
        return [shard for shard in shards if shard in holding]

    def shards_left(self, done: Collection[int] | None = None) -> list[int]:
        """Return the numbers of the shards that are not done; `done` is asked for where it is not given."""
        done = self.done() if done is None else done
        return [shard for shard in self.shards() if shard not in done]

    def shard_rows(self, shard: int) -> range:
        """Return the rows of one shard up to its last object; raises UsageError beyond the last shard."""
        return planned_shard_rows(self.plan, self.spec.objects_per_shard, self.spec.n_objects, shard)

    def object_rows(self, shard: int) -> list[int]:
        """Return the rows of one shard that hold objects."""
        return [row for part in self.object_ranges(shard) for row in part]

    def object_ranges(self, shard: int) -> list[range]:
        """Return the rows of one shard that hold objects, as ranges."""
        return self.plan.rows.planned(self.shard_rows(shard))

    def sizes(self, shards: Sequence[int]) -> dict[int, int]:
        """Return how many objects each of some shards holds."""
        return {shard: sum(map(len, self.object_ranges(shard))) for shard in shards}

    def shard_of(self, row: int) -> int:
        """Return the shard that holds a row."""
        if not 0 <= row < self.spec.n_objects:
            raise IndexError(f"row {row} of {self.spec.n_objects}")
        return row // self.spec.objects_per_shard

    def builder(self, shard: int, attempt: str) -> ShardBuilder:
        """Start building one shard under an attempt id that no other writer uses."""
        raise NotImplementedError

    def done(self) -> frozenset[int]:
        """Return the shards of this snapshot's plan that are committed and published."""
        n_shards = self.n_shards
        return frozenset(shard for shard in self.marked() if shard < n_shards)

    def marked(self) -> frozenset[int]:
        """Return the shards that have a done marker, also those that were appended after this snapshot."""
        return frozenset(int(name) for name in self.store.list(self.spec.done) if name.isdigit())

    def n_bytes(self) -> int:
        """Return the bytes of all committed shard files, from one listing."""
        folder = self.spec.shard_key(0).rpartition("/")[0]
        files = {self.spec.shard_key(shard).rpartition("/")[2] for shard in range(self.n_shards)}
        return sum(size for name, size in self.store.file_sizes(folder).items() if name in files)

    def sidecar(self, shard: int) -> Sidecar:
        """Return the sidecar of a committed shard; raises FileNotFoundError when there is none."""
        return self.tail(shard).sidecar

    def tail(self, shard: int) -> ShardTail:
        """Return sidecar and index of a committed shard, see `Snapshot.tail`."""
        return self.snapshot.tail(shard)

    def journal(self) -> Journal:
        """Return what this snapshot knows about replacements."""
        return self.snapshot.journal()

    def refresh(self) -> None:
        """Begin a new snapshot: forget sidecars and what is known about replacements, look for new rows."""
        plan = self.plan.refreshed()
        if plan is not self.plan:
            self.plan, self.spec = plan, self._spec_of(plan)
        self.snapshot = Snapshot(self.store, self.spec)

    def _spec_of(self, plan: Plan) -> GroupSpec:
        """Describe this group with the rows of another state of the plan."""
        raise NotImplementedError

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
            for key, data in published_files(self.spec, self.snapshot.current_tail(shard).sidecar).items():
                self.store.create(key, data)
            return
        for _ in range(PUBLISH_ATTEMPTS):
            versions = {key: self.store.known_version(key) for key in published_keys(self.spec, shard)}
            files = published_files(self.spec, self.snapshot.current_tail(shard).sidecar)
            if all(self.store.exchange(key, data, versions[key]) for key, data in files.items()):
                return
        raise TransientError(f"{self.marker_key(shard)}: could not be published, others changed it meanwhile")

    def publish_committed(self, shard: int) -> bool:
        """Publish a shard if its file exists, where only the marker is missing; says whether it did."""
        try:
            self.publish(shard)
        except FileNotFoundError:
            return False
        LOGGER.info("%s: shard %d was committed already; published again", self.spec.group, shard)
        return True

    def counts(self, shard: int) -> dict[str, int]:
        """Return n_ok and n_failed, the numbers of objects with data and without, of a committed shard."""
        status = self.sidecar(shard).status
        return {"n_ok": int((status == Status.OK).sum()), "n_failed": int((status == Status.FAILED).sum())}

    def n_failed(self, shards: Collection[int], done: frozenset[int]) -> int:
        """Return how many objects of some shards are recorded as failed, whoever recorded it.

        Args:
            shards: The shards; those that are not done count nothing.
            done: What `done` returned.

        Raises:
            IntegrityError, StaleSnapshotError: see `derived`.
        """
        return int((self.status(done.intersection(shards)) == Status.FAILED).sum())

    def is_done(self, shard: int) -> bool:
        """Say whether one shard is committed and published; one request, where `done` lists all markers."""
        return self.store.exists(self.marker_key(shard))

    def status(self, done: Collection[int] | None = None) -> NDArray[np.uint8]:
        """Return the `Status` of every row, u8 [N]; rows of shards that are not done are ABSENT.

        Args:
            done: What `done` returned, where it is known: markers are listed a thousand at a time.

        Raises:
            IntegrityError, StaleSnapshotError: see `derived`.
        """
        done = self.done() if done is None else done
        return self.read_status(done, usable_summary(self, done))

    def read_status(self, done: Collection[int], summary: Summary | None) -> NDArray[np.uint8]:
        """Return what `status` does, from a summary of this snapshot and the done shards that it lacks."""
        spec = self.spec.derived_spec(STATUS)
        values: NDArray[np.uint8] = spec.filled(self.spec.n_objects)
        shards = np.zeros(self.n_shards, np.bool_)
        shards[sorted(done)] = True
        if summary is not None:
            known = summary.covers(self.n_shards) & shards
            known[[shard for shard in self.journal().open if shard < len(known)]] = False  # appended since
            rows, states = known_status(self, summary, known)
            values[rows] = states
            shards &= ~known
        fill_rows(self, values, spec, np.flatnonzero(shards).tolist())
        return values

    def derived(self, name: str) -> NDArray[Any]:
        """Return one derived array in full, fill value where shards are not done.

        Raises:
            IntegrityError: a chunk is missing or damaged.
            StaleSnapshotError: shards are being replaced, and were not when this snapshot began.
        """
        spec = self.spec.derived_spec(name)
        values = spec.filled(self.spec.n_objects)
        fill_rows(self, values, spec, sorted(self.done()))
        return values

    def failures(self) -> list[tuple[int, str, Failure]]:
        """Return (row, object id, failure) of every failed object of the done shards, in row order."""
        return list(self.each_failure())

    def each_failure(self, status: NDArray[np.uint8] | None = None) -> Iterator[tuple[int, str, Failure]]:
        """Yield what `failures` returns, one by one: details of many failures need much memory.

        Args:
            status: What `status` returned, where it is known.
        """
        failed = np.flatnonzero((self.status() if status is None else status) == Status.FAILED)
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
            ObjectUnavailableError: its shard is not committed yet, or the row holds no object.
        """
        shard = self.shard_of(row)
        if not self.plan.rows.planned(range(row, row + 1)):
            raise ObjectUnavailableError(f"row {row} holds no object", reason="not in the dataset")
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
            self.snapshot.raise_if_replaced(shard, self.sidecar(shard).attempt)
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
            self.snapshot.raise_if_replaced(shard, self.sidecar(shard).attempt)
            raise

    def marker_key(self, shard: int) -> str:
        """Key of the done marker of one shard."""
        return marker_key(self.spec, shard)

    def _read_places(self, shard: int, start: int, end: int) -> bytes:
        try:
            return self.store.read_range(self.spec.shard_key(shard), start, end)
        except FpipeError:
            raise
        except OSError:  # a server may refuse a range beyond the end of a shorter replacement
            self.snapshot.raise_if_replaced(shard, self.sidecar(shard).attempt)
            raise


def _decode(data: bytes, spec: ArraySpec, key: str, record: ObjectRecord, number: int) -> NDArray[Any]:
    values = decode_chunk(data, spec, key, record.object_id)
    if chunk_checksum(data) != record.crc32c[number]:
        raise IntegrityError(
            f"{key}: chunk {number} of object {record.object_id} is not the one that the sidecar lists",
            key=key,
            object_id=record.object_id,
        )
    return values
