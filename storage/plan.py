"""The plan: which object has which row, fixed for ever, and how rows are grouped into shards.

`plan/header.json` is the transaction: it names immutable segments of at most 65,536 rows (JSON lines,
zstd) by content, so that two plans that compete never mix. Segments are read only when rows are asked for.
Each append is one more transaction, `plan/appended/<number>.json` (see `append`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from . import layout
from .documents import SCHEMA_VERSION, content_hash, differences, dump_document, parse_document
from .errors import IntegrityError, StoreMismatchError, UsageError
from .plan_rows import Block, PlanRows, Segment, hash_rows, write_segments
from .records import PlanRow
from .store import Store

MAX_SHARD_BYTES = 32 * 2**20
SHARDS_PER_WORKER = 4
# What may differ between two runs of one dataset: the first plan's shard size stays, the date is talk.
_NOT_CONTENT = {"schema_version", "created", "objects_per_views_shard"}


class PlanHeader(BaseModel):
    """What the whole dataset has in common.

    Attributes:
        schema_version: "major.minor" of the stored form.
        n_objects: Objects of the first plan, in rows 0 to n_objects − 1.
        n_views: Views per object V.
        height: Image height in pixels.
        width: Image width in pixels.
        views_per_chunk: Views of one object that are compressed together.
        objects_per_views_shard: Objects per shard file of `views.zarr`.
        heldout_fraction: Part of the views kept for final metrics.
        seed: Seed of cameras, split and sampling.
        source: The first plan's source, by its own description.
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
class Addition:
    """What one plan document added: the first plan, or one append.

    Attributes:
        block: Its rows.
        source: The source's own description.
        created: ISO date, talk.
    """

    block: Block
    source: dict[str, Any]
    created: str = ""


class Plan:
    """A stored plan: the first one, and what was appended to it.

    Attributes:
        header: The header of the first plan; what it says holds for all objects, except `n_objects`,
            `source` and `created`.
        rows: All rows, loaded lazily.
        classes: Class names; their positions are the class numbers of the stored arrays. Those of the first
            plan are sorted, new ones of an append follow them, sorted among themselves.
        plan_hash: Hash of everything that the dataset's content depended on when it was first planned. It
            names the dataset, so it stays when objects are appended.
        state_hash: The same for all objects that there are now.
        additions: What was planned, in order.
    """

    def __init__(
        self, store: Store, document: dict[str, Any], appended: Sequence[dict[str, Any]] = ()
    ) -> None:
        self.header = PlanHeader(**document["header"])
        self.plan_hash: str = document["plan_hash"]
        self.rows_hash: str = document["rows_hash"]
        first = _addition(0, self.header.n_objects, document["segments"], self.header.source)
        self.additions = (replace(first, created=self.header.created), *map(_appended, appended))
        self.rows = PlanRows(store, [addition.block for addition in self.additions])
        last = (document, *appended)[-1]
        self.classes: tuple[str, ...] = tuple(last["classes"])
        self.state_hash: str = last["state_hash"] if appended else self.plan_hash
        self._documents = (document, *appended)
        self._store = store

    def states(self) -> list[str]:
        """Return `state_hash` as it is and as it was before each append; the last is `plan_hash`."""
        return [*(document["state_hash"] for document in reversed(self._documents[1:])), self.plan_hash]

    @property
    def n_rows(self) -> int:
        """Rows of all arrays of the dataset, with those between two blocks that hold no object."""
        return self.rows.end

    @property
    def n_objects(self) -> int:
        """Planned objects."""
        return len(self.rows)

    def row_of(self, object_id: str) -> int:
        """Return the row of an object; raises KeyError for an unknown one."""
        return self.rows.find(object_id)

    def source_of(self, row: int) -> dict[str, Any]:
        """Return the description of the source that an object comes from."""
        starts = [addition.block.start for addition in self.additions]
        return self.additions[bisect_right(starts, row) - 1].source

    @property
    def sources(self) -> list[dict[str, Any]]:
        """Descriptions of all sources, each once, in the order in which they were added."""
        found: list[dict[str, Any]] = []
        for addition in self.additions:
            if addition.source not in found:
                found.append(addition.source)
        return found

    @property
    def n_views_shards(self) -> int:
        """Number of shards of `views.zarr` that hold objects."""
        size = self.header.objects_per_views_shard
        return sum(map(len, shards_with_objects(self, size, self.n_rows)))

    def refreshed(self) -> Plan:
        """Return the plan as it is stored now: this one, when nothing was appended to it."""
        appended = _read_appended(self._store, known=self._documents[1:])
        if len(appended) == len(self.additions) - 1:
            return self
        return Plan(self._store, self._documents[0], _chained(self._documents[0], appended))


def shards_with_objects(plan: Plan, objects_per_shard: int, n_rows: int) -> list[range]:
    """Return the numbers of the shards of the first `n_rows` that hold objects, as ascending ranges."""
    found: list[range] = []
    after = 0
    for part in plan.rows.planned(range(n_rows)):
        shards = range(max(after, part.start // objects_per_shard), shard_count(part.stop, objects_per_shard))
        found.append(shards)
        after = max(after, shards.stop)
    return [shards for shards in found if shards]


def planned_shard_rows(plan: Plan, objects_per_shard: int, n_rows: int, shard: int) -> range:
    """Return the rows of one shard up to the last that holds an object; raises UsageError beyond the last.

    An append starts beyond the shards that are there (see `append`), so that the rows of a shard stay the
    same for ever, whether it is written before or after.
    """
    rows = shard_rows(n_rows, objects_per_shard, shard)
    planned = plan.rows.planned(rows)
    return range(rows.start, planned[-1].stop if planned else rows.start)


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
    n_objects: int,
    bytes_per_object: int,
    workers: int,
    max_bytes: int = MAX_SHARD_BYTES,
    at_least: int = 1,
) -> int:
    """Choose S so that a shard stays below `max_bytes` and every worker gets at least four shards.

    Args:
        n_objects: Objects in all.
        bytes_per_object: Expected stored (compressed) size of one object.
        workers: Processes that will work at the same time.
        max_bytes: Largest shard file; one object may exceed it.
        at_least: Objects that a worker does at once, so that fewer in a shard would leave it half idle.
    """
    by_size = max_bytes // max(1, bytes_per_object)
    by_workers = n_objects // (SHARDS_PER_WORKER * max(1, workers))
    return max(1, min(by_size, max(by_workers, at_least), n_objects))


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
        segments = write_segments(store, rows)
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
        found += _row_differences(rows, existing.rows[: existing.header.n_objects])
    if found:
        raise StoreMismatchError(
            f"{store.url} holds another dataset: {'; '.join(found[:8])}. "
            "Use the same configuration, or another root"
        )
    return existing


def read_plan(store: Store) -> Plan:
    """Read the plan of a dataset, with what was appended to it.

    Raises:
        UsageError: there is no dataset.
        SchemaError: written by another major version.
        IntegrityError: damaged.
    """
    try:
        data = store.read(layout.PLAN_HEADER)
    except FileNotFoundError as error:
        raise UsageError(f"no dataset at {store.url}; start with fpipe render") from error
    document = parse_document(data, layout.PLAN_HEADER)
    return Plan(store, document, _chained(document, _read_appended(store)))


def state_after(before: str, appended: dict[str, Any]) -> str:
    """Return the hash of what a dataset's content depends on after an append."""
    names = ("start", "classes", "source", "rows_hash")
    return content_hash({"before": before, **{name: appended[name] for name in names}})


def _read_appended(store: Store, known: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """Read the documents of all appends in order; those that are known are immutable and not read again."""
    names = store.list(layout.PLAN_APPENDED)
    keys = [layout.plan_appended(number) for number in range(1, len(names) + 1)]
    try:
        return [*known, *(parse_document(store.read(key), key) for key in keys[len(known) :])]
    except FileNotFoundError as error:
        raise IntegrityError(
            f"{layout.PLAN_APPENDED}: holds {names}: an append between two others is missing"
        ) from error


def _chained(document: dict[str, Any], appended: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Return the documents of the appends; raises IntegrityError unless each belongs after the one before."""
    state = document["plan_hash"]
    for number, found in enumerate(appended, start=1):
        if found["before"] != state or found["state_hash"] != state_after(state, found):
            key = layout.plan_appended(number)
            raise IntegrityError(f"{key}: was not appended to the plan that is here", key=key)
        state = found["state_hash"]
    return appended


def _appended(document: dict[str, Any]) -> Addition:
    made = _addition(document["start"], document["n_objects"], document["segments"], document["source"])
    return replace(made, created=document["created"])


def _addition(start: int, n_objects: int, segments: list[dict[str, Any]], source: dict[str, Any]) -> Addition:
    return Addition(Block(start, n_objects, tuple(Segment(**segment) for segment in segments)), source)


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
