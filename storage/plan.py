"""The plan: which object has which row, fixed for ever, and how rows are grouped into shards.

`plan/header.json` is the transaction: it names immutable segments of at most 65,536 rows (JSON lines,
zstd) by content, so that two plans that compete never mix. Segments are read only when rows are asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, overload

from pydantic import BaseModel, ConfigDict, Field

from . import layout
from .documents import (
    SCHEMA_VERSION,
    canonical_json,
    content_hash,
    differences,
    dump_document,
    parse_document,
)
from .errors import IntegrityError, StoreMismatchError, UsageError
from .records import PlanRow
from .store import Store

SEGMENT_ROWS = 65_536
MAX_SHARD_BYTES = 32 * 2**20
SHARDS_PER_WORKER = 4
# What may differ between two runs of one dataset: the first plan's shard size stays, the date is talk.
_NOT_CONTENT = {"schema_version", "created", "objects_per_views_shard"}


class PlanHeader(BaseModel):
    """What the whole dataset has in common.

    Attributes:
        schema_version: "major.minor" of the stored form.
        n_objects: Number of rows N.
        n_views: Views per object V.
        height: Image height in pixels.
        width: Image width in pixels.
        views_per_chunk: Views of one object that are compressed together.
        objects_per_views_shard: Objects per shard file of `views.zarr`.
        heldout_fraction: Part of the views kept for final metrics.
        seed: Seed of cameras, split and sampling.
        source: The source's own description.
        render_config: Resolved render configuration, content-changing fields only.
        render_config_hash: Hash of `render_config`.
        created: ISO date, not part of the content.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: str = SCHEMA_VERSION
    n_objects: int = Field(ge=1)
    n_views: int = Field(ge=1)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    views_per_chunk: int = Field(default=16, ge=1)
    objects_per_views_shard: int = Field(ge=1)
    heldout_fraction: float = 0.1
    seed: int = 0
    source: dict[str, Any] = {}
    render_config: dict[str, Any] = {}
    render_config_hash: str = ""
    created: str = ""

    def content(self) -> dict[str, Any]:
        """Return the fields that two runs of one dataset must agree on."""
        return self.model_dump(mode="json", exclude=_NOT_CONTENT)


@dataclass(frozen=True)
class Segment:
    """One stored run of rows.

    Attributes:
        key: Its key.
        n_rows: Its rows.
        sha256: Of its text.
        stored_sha256: Of the stored, compressed bytes: some of their bits do not change the text. Empty in
            plans that are older than this field.
    """

    key: str
    n_rows: int
    sha256: str
    stored_sha256: str = ""


class PlanRows(Sequence[PlanRow]):
    """The rows in order; a segment is fetched when one of its rows is first asked for."""

    def __init__(self, store: Store, segments: Sequence[Segment]) -> None:
        self._store = store
        self._segments = tuple(segments)
        self._loaded: dict[int, list[PlanRow]] = {}
        self._n_rows = sum(segment.n_rows for segment in self._segments)

    def __len__(self) -> int:
        return self._n_rows

    @overload
    def __getitem__(self, index: int) -> PlanRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[PlanRow]: ...
    def __getitem__(self, index: int | slice) -> PlanRow | list[PlanRow]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = index + len(self) if index < 0 else index
        if not 0 <= row < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._segment(row // SEGMENT_ROWS)[row % SEGMENT_ROWS]

    def __iter__(self) -> Iterator[PlanRow]:
        for index in range(len(self._segments)):
            yield from self._segment(index)

    def damage(self) -> list[IntegrityError]:
        """Read every segment; returns what is wrong with those that are missing or damaged."""
        found = []
        for index in range(len(self._segments)):
            try:
                self._segment(index)
            except IntegrityError as error:
                found.append(error)
        return found

    def _segment(self, index: int) -> list[PlanRow]:
        if index not in self._loaded:
            self._loaded[index] = _read_segment(self._store, self._segments[index])
        return self._loaded[index]


class Plan:
    """A stored plan.

    Attributes:
        header: The header.
        rows: All rows, loaded lazily.
        classes: Class names, sorted; their positions are the class numbers of the stored arrays.
        rows_hash: Hash of all rows without their locations.
        plan_hash: Hash of everything that the dataset's content depends on, as first stored.
    """

    def __init__(self, store: Store, document: dict[str, Any]) -> None:
        self.header = PlanHeader(**document["header"])
        self.rows = PlanRows(store, [Segment(**segment) for segment in document["segments"]])
        self.classes: tuple[str, ...] = tuple(document["classes"])
        self.rows_hash: str = document["rows_hash"]
        self.plan_hash: str = document["plan_hash"]

    @cached_property
    def _row_by_id(self) -> dict[str, int]:
        return {row.object_id: row.row for row in self.rows}

    def row_of(self, object_id: str) -> int:
        """Return the row of an object; raises KeyError for an unknown one."""
        return self._row_by_id[object_id]

    @property
    def n_views_shards(self) -> int:
        """Number of shards of `views.zarr`."""
        return shard_count(self.header.n_objects, self.header.objects_per_views_shard)

    def views_shard_rows(self, shard: int) -> range:
        """Return the rows of one shard of `views.zarr`; raises UsageError beyond the last."""
        return shard_rows(self.header.n_objects, self.header.objects_per_views_shard, shard)


def shard_count(n_objects: int, objects_per_shard: int) -> int:
    """Number of shards that hold `n_objects`."""
    return -(-n_objects // objects_per_shard)


def shard_rows(n_objects: int, objects_per_shard: int, shard: int) -> range:
    """Return the rows of one shard; the last may be short. Raises UsageError beyond the last."""
    last = shard_count(n_objects, objects_per_shard) - 1
    if not 0 <= shard <= last:
        raise UsageError(f"shard {shard} does not exist: shards are 0..{last}")
    return range(shard * objects_per_shard, min(n_objects, (shard + 1) * objects_per_shard))


def choose_objects_per_shard(
    n_objects: int, bytes_per_object: int, workers: int, max_bytes: int = MAX_SHARD_BYTES
) -> int:
    """Choose S so that a shard stays below `max_bytes` and every worker gets at least four shards.

    Args:
        n_objects: Objects in all.
        bytes_per_object: Expected stored (compressed) size of one object.
        workers: Processes that will work at the same time.
        max_bytes: Largest shard file; one object may exceed it.
    """
    by_size = max_bytes // max(1, bytes_per_object)
    by_workers = n_objects // (SHARDS_PER_WORKER * max(1, workers))
    return max(1, min(by_size, by_workers))


def write_plan(store: Store, header: PlanHeader, rows: Iterable[PlanRow]) -> Plan:
    """Store a plan, or return the existing one when its content is the same.

    Args:
        store: The dataset.
        header: What the rows have in common.
        rows: All rows.

    Raises:
        UsageError: rows are not numbered 0..N-1, or an id appears twice.
        StoreMismatchError: another plan is there; the message names what differs.
    """
    store.sweep()
    rows = list(rows)
    _check_rows(header, rows)
    rows_hash = hash_rows(rows)
    if not store.exists(layout.PLAN_HEADER):
        segments = [_write_segment(store, start, rows) for start in range(0, len(rows), SEGMENT_ROWS)]
        document = {
            "schema_version": SCHEMA_VERSION,
            "header": header.model_dump(mode="json"),
            "classes": sorted({row.class_name for row in rows}),
            "rows_hash": rows_hash,
            "plan_hash": content_hash({"header": header.content(), "rows": rows_hash}),
            "segments": [asdict(segment) for segment in segments],
        }
        store.create(layout.PLAN_HEADER, dump_document(document))
    existing = read_plan(store)
    found = differences(header.content(), existing.header.content())
    if existing.rows_hash != rows_hash:
        found += _row_differences(rows, existing.rows)
    if found:
        raise StoreMismatchError(
            f"{store.url} holds another dataset: {'; '.join(found[:8])}. "
            "Use the same configuration, or another root"
        )
    return existing


def read_plan(store: Store) -> Plan:
    """Read the plan of a dataset.

    Raises:
        UsageError: there is no dataset.
        SchemaError: written by another major version.
        IntegrityError: damaged.
    """
    try:
        data = store.read(layout.PLAN_HEADER)
    except FileNotFoundError as error:
        raise UsageError(f"no dataset at {store.url}; start with fpipe render") from error
    return Plan(store, parse_document(data, layout.PLAN_HEADER))


def hash_rows(rows: Iterable[PlanRow]) -> str:
    """Hash what the dataset's content depends on in all rows: everything but locations."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_json(asdict(replace(row, location=""))) + b"\n")
    return digest.hexdigest()


def _check_rows(header: PlanHeader, rows: Sequence[PlanRow]) -> None:
    if len(rows) != header.n_objects:
        raise UsageError(f"{len(rows)} rows for a plan of {header.n_objects} objects")
    seen: set[str] = set()
    for position, row in enumerate(rows):
        if row.row != position:
            raise UsageError(f"object {row.object_id} has row {row.row} at position {position}")
        if row.object_id in seen:
            raise UsageError(f"object {row.object_id} appears twice: ids must be unique over all classes")
        seen.add(row.object_id)


def _row_differences(ours: Sequence[PlanRow], theirs: Sequence[PlanRow]) -> list[str]:
    if len(ours) != len(theirs):
        return []  # the header's n_objects says it
    for mine, other in zip(ours, theirs, strict=True):
        if mine != (there := replace(other, location=mine.location)):
            return differences(asdict(mine), asdict(there), f"rows[{mine.row}]")
    return []


def _write_segment(store: Store, start: int, rows: Sequence[PlanRow]) -> Segment:
    from numcodecs.zstd import Zstd

    part = rows[start : start + SEGMENT_ROWS]
    text = b"".join(canonical_json(asdict(row)) + b"\n" for row in part)
    digest = hashlib.sha256(text).hexdigest()
    segment = Segment(layout.plan_segment(start // SEGMENT_ROWS, digest), len(part), digest)
    data = bytes(Zstd(level=5).encode(text))
    if not store.create(segment.key, data):  # of a plan that was not finished, perhaps by another zstd
        data = store.read(segment.key)
    segment = replace(segment, stored_sha256=hashlib.sha256(data).hexdigest())
    _segment_text(segment, data)
    return segment


def _read_segment(store: Store, segment: Segment) -> list[PlanRow]:
    try:
        data = store.read(segment.key)
    except FileNotFoundError as error:
        raise IntegrityError(f"{segment.key}: plan segment is missing", key=segment.key) from error
    return [PlanRow(**json.loads(line)) for line in _segment_text(segment, data).splitlines()]


def _segment_text(segment: Segment, data: bytes) -> bytes:
    """Decompress a segment and check it."""
    from numcodecs.zstd import Zstd

    if segment.stored_sha256 not in ("", hashlib.sha256(data).hexdigest()):
        raise IntegrityError(f"{segment.key}: checksum mismatch", key=segment.key)
    try:
        text = bytes(Zstd().decode(data))
    except (RuntimeError, ValueError) as error:
        raise IntegrityError(f"{segment.key}: cannot be decompressed: {error}", key=segment.key) from error
    if hashlib.sha256(text).hexdigest() != segment.sha256:
        raise IntegrityError(f"{segment.key}: checksum mismatch", key=segment.key)
    return text
