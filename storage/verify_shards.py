"""Check the shards of one group: the end of each file, or all of it with the derived arrays."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from functools import partial

import numpy as np

from . import layout
from .arrays import chunk_checksum, decode_chunk
from .derived import read_chunks
from .documents import parse_document
from .errors import FpipeError, IntegrityError, SchemaError, StaleSnapshotError
from .layout import zarr_chunk
from .parallel import in_parallel
from .passes import PASSES
from .publication import sidecar_values
from .records import Mend, Problem, Status
from .sharded import ShardedStore
from .shards import ObjectRecord, ShardTail, unpack_tail
from .summary import Summary, read_summary

QUICK_REQUESTS = 16  # at a time, for stores where every read is a request
FULL_REQUESTS = 4  # each holds a shard file


def check_shards(group: ShardedStore, full: bool, with_rows: bool) -> Iterator[Problem]:
    """Check every done shard of a group.

    Args:
        group: The group; its metadata are sound.
        full: Read whole shard files and derived arrays.
        with_rows: Name objects, and compare them with the plan's, whose rows are sound.
    """
    inside = sorted(group.done())
    beyond = sorted(group.marked() - set(inside))
    for shard in beyond if group.plan.refreshed() is group.plan else ():  # else of objects appended meanwhile
        yield Problem(group.marker_key(shard), "marker of a shard that the plan does not have")
    summary = yield from _check_summary(group)
    checks = [_ShardCheck(group, shard, with_rows, summary) for shard in inside]
    if not full:
        yield from _check_listing(group, checks)
    requests = FULL_REQUESTS if full else QUICK_REQUESTS
    for found in in_parallel(lambda check: list(check.run(full)), checks, requests):
        yield from found


def _check_summary(group: ShardedStore) -> Generator[Problem, None, Summary | None]:
    """Check the summary of a group; returns it where it holds for the shards as they are now."""
    key = layout.summary(group.spec.group)
    try:
        found = read_summary(group)
    except (IntegrityError, SchemaError) as error:
        yield Problem(key, problem_of(error, key).message, mend="rebuild", group=group.spec.group)
        return None
    journal = group.journal()
    return (
        found if found is not None and found.generation == journal.generation and not journal.open else None
    )


def problem_of(error: FpipeError, key: str = "", more: str = "") -> Problem:
    """Turn an error about a file into a finding; `key` is the file of errors that name none."""
    key = getattr(error, "key", "") or key
    return Problem(key, str(error).removeprefix(f"{key}: ") + more)


def _check_listing(group: ShardedStore, checks: list[_ShardCheck]) -> Iterator[Problem]:
    """Look whether each derived array has the chunks of all done shards, by listing its folder."""
    for spec in group.spec.derived:
        names = set(group.store.list(f"{group.spec.group}/{spec.name}"))
        for check in checks:
            key = zarr_chunk(group.spec.group, spec.name, check.shard, len(spec.shape))
            if key.rpartition("/")[2] not in names:
                yield check.problem(key, f"missing although shard {check.shard} is done", "rebuild")


class _ShardCheck:
    """Checks one shard."""

    def __init__(
        self, group: ShardedStore, shard: int, with_rows: bool, summary: Summary | None = None
    ) -> None:
        self.group = group
        self._summary = summary
        self.shard = shard
        self.key = group.spec.shard_key(shard)
        self._with_rows = with_rows

    def problem(self, key: str, message: str, mend: Mend, objects: tuple[str, ...] | None = None) -> Problem:
        """Return a finding about some objects of the shard, or all."""
        if mend == "redo" and self.group.spec.kind in PASSES:
            mend = "restore"  # a pass is rendered together with its views only
        if objects is None:
            objects = tuple(object_id for _, object_id in self._planned())
        return Problem(key, message, objects, mend, self.group.spec.group, self.shard)

    def run(self, full: bool) -> Iterator[Problem]:
        """Check file and marker and, where asked for, chunks and derived arrays."""
        try:
            tail = self.group.tail(self.shard)
        except FileNotFoundError:
            yield self.problem(self.key, "missing although it is marked as done", "redo")
            return
        except (IntegrityError, SchemaError) as error:
            yield self.problem(self.key, problem_of(error, self.key).message, "redo")
            return
        except StaleSnapshotError:
            yield self.problem(self.key, "was replaced while it was checked", "wait")
            return
        yield from self._check_marker(tail)
        if not self._agrees(tail):
            key = layout.summary(self.group.spec.group)
            yield self.problem(key, f"says other than the sidecar of shard {self.shard}", "rebuild")
        found = [(record.row, record.object_id) for record in tail.sidecar.objects if record.object_id]
        if self._with_rows and found != self._planned():
            yield self.problem(self.key, "its objects are not those of the plan", "redo")
        if full:
            yield from self._check_chunks()
            yield from self._check_derived(tail)

    def _agrees(self, tail: ShardTail) -> bool:
        """Say whether the summary, where it covers this shard, has the states that the sidecar has."""
        if self._summary is None or not self._summary.covers(self.shard + 1)[self.shard]:
            return True
        start, status = self.group.shard_rows(self.shard).start, tail.sidecar.status
        return self._summary.status[start : start + len(status)].tobytes() == status.tobytes()

    def _planned(self) -> list[tuple[int, str]]:
        if not self._with_rows:
            return []
        rows = self.group.shard_rows(self.shard)
        return [(row.row, row.object_id) for row in self.group.plan.rows[rows.start : rows.stop]]

    def _check_marker(self, tail: ShardTail) -> Iterator[Problem]:
        key = self.group.marker_key(self.shard)
        try:
            marker = parse_document(self.group.store.read(key), key)
        except FileNotFoundError:  # taken away since the markers were listed
            return
        except (IntegrityError, SchemaError) as error:
            yield self.problem(key, problem_of(error, key).message, "rebuild")
            return
        if marker["attempt"] != tail.sidecar.attempt:
            found = f"attempt {tail.sidecar.attempt}, but its marker says {marker['attempt']}"
            hint = ": its replacement is under way, or fpipe retry must finish it"
            is_open = self.shard in self.group.journal().open
            yield self.problem(self.key, found + (hint if is_open else ""), "rebuild")

    def _check_chunks(self) -> Iterator[Problem]:
        """Read the shard file whole and check every chunk; the tail has its own checksums."""
        group, key, per_object = self.group, self.key, self.group.spec.chunks_per_object
        data = group.store.read(key)
        tail = unpack_tail(data, group.spec.chunks_per_shard, key)
        end = 0
        for position, record in enumerate(tail.sidecar.objects):
            places = tail.index[position * per_object : (position + 1) * per_object].astype(np.int64).tolist()
            damaged = partial(self.problem, key, mend="redo", objects=(record.object_id,))
            if record.status != Status.OK:
                if any(offset != -1 for offset, _ in places):
                    yield damaged("has data, although it is not ok")
                continue
            for number, (offset, size) in enumerate(places):
                if (message := self._chunk_damage(data[offset : offset + size], record, number)) is not None:
                    yield damaged(message)
                if offset != end:
                    yield damaged(f"chunk {number} is not where it should be")
                end = offset + size
        if (block := tail.sidecar.statistics) is not None:
            try:
                block.checked(data[block.offset : block.offset + block.n_bytes], key)
            except IntegrityError as error:
                yield self.problem(key, problem_of(error, key).message, mend="redo", objects=())
            if block.offset != end:
                yield self.problem(key, "channel statistics are not where they should be", "redo")
            end = block.offset + block.n_bytes
        if end != len(data) - tail.n_bytes:
            yield self.problem(key, "bytes between chunks and sidecar that nothing accounts for", "redo")

    def _chunk_damage(self, data: bytes, record: ObjectRecord, number: int) -> str | None:
        assert self.group.spec.payload is not None
        try:
            decode_chunk(data, self.group.spec.payload, self.key)
        except IntegrityError as error:
            return f"chunk {number}: {problem_of(error).message}"
        if chunk_checksum(data) != record.crc32c[number]:
            return f"chunk {number} is not the one that the sidecar lists"
        return None

    def _check_derived(self, tail: ShardTail) -> Iterator[Problem]:
        for spec in self.group.spec.derived:
            key = zarr_chunk(self.group.spec.group, spec.name, self.shard, len(spec.shape))
            truth = sidecar_values(tail.sidecar, spec)
            try:
                stored = read_chunks(self.group, spec, [self.shard])[self.shard][: len(truth)]
            except IntegrityError as error:
                yield self.problem(key, problem_of(error, key).message, "rebuild")
                continue
            if stored.tobytes() != truth.tobytes():
                yield self.problem(key, "differs from the sidecars", "rebuild")
