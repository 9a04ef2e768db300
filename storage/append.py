"""Adding objects to a dataset: rows that are given never move, and no file of a shard changes.

`plan/appended/<number>.json` is the transaction, one create-only write: it names its rows' segments and where
they start. That is beyond the last shard of the views and of every fit, so that no shard holds old and new
objects, and a shard that is there is whole for ever. The rows in between hold no object (`Status.ABSENT`);
there are fewer of them than the largest shard has places. Segments are written before that document, the
shapes in Zarr's metadata after it: those are for readers of plain Zarr, and follow from the plan.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from . import layout
from .documents import SCHEMA_VERSION, dump_document, parse_document
from .errors import StoreMismatchError, UsageError
from .group import grow_group, rebuild_metadata
from .passes import pass_spec, stored_passes
from .plan import Plan, read_plan, shard_count, state_after
from .plan_rows import hash_rows, write_segments
from .planes import PlanesStore, list_fits, read_fit_header
from .records import PlanRow
from .store import Store
from .views import views_spec

MAX_NAMED = 5


@dataclass(frozen=True)
class Appended:
    """What an append did.

    Attributes:
        plan: The plan with the new objects.
        rows: Rows of the new objects, empty when all were there.
        n_known: Objects that were there before.
    """

    plan: Plan
    rows: range
    n_known: int


def append_objects(
    store: Store, objects: Sequence[PlanRow], source: dict[str, Any], plan: Plan | None = None
) -> Appended:
    """Add objects to the plan, and rows for them to all arrays; those that are there are left out.

    Killed at any moment, it leaves a dataset that is sound, and the same call completes it.

    Args:
        store: The dataset.
        objects: Their `row` is ignored.
        source: The description of where they come from.
        plan: The plan that it is appended to, when it is known; an append by others since then is an error.

    Raises:
        UsageError: There is no dataset, or an id is given twice.
        StoreMismatchError: An object of the dataset has the same id and another content, or somebody else
            appended objects at the same time.
    """
    plan = plan or read_plan(store)
    new = _new_objects(plan, objects)
    n_known = len(objects) - len(new)
    rows = range(plan.n_rows, plan.n_rows)
    if new:
        start = first_free_row(plan, _shard_sizes(store, plan))
        rows = range(start, start + len(new))
        _write(store, plan, [replace(each, row=row) for row, each in zip(rows, new, strict=True)], source)
        plan = plan.refreshed()
    grow_arrays(store, plan)
    return Appended(plan, rows, n_known)


def first_free_row(plan: Plan, shard_sizes: Sequence[int]) -> int:
    """Return the first row that is in no shard with a row of the plan, for shards of any of these sizes."""
    return max(plan.n_rows, *(shard_count(plan.n_rows, size) * size for size in shard_sizes))


def grow_arrays(store: Store, plan: Plan) -> None:
    """Give all arrays as many rows as the plan has, in the metadata that plain Zarr reads."""
    while True:
        _grow_arrays(store, plan)
        newer = plan.refreshed()
        if newer is plan:
            return
        plan = newer  # somebody appended at this moment: what was written last may be too short


def _grow_arrays(store: Store, plan: Plan) -> None:
    specs = [views_spec(plan), *(pass_spec(plan, name) for name in stored_passes(store))]
    specs += [PlanesStore.open(store, name).spec for name in _begun_fits(store)]
    for spec in specs:
        if store.exists(layout.zarr_metadata(spec.group)) and not grow_group(store, spec):
            rebuild_metadata(store, spec)  # of an append that was killed


def _shard_sizes(store: Store, plan: Plan) -> list[int]:
    fits = [read_fit_header(store, name).objects_per_shard for name in _begun_fits(store, metadata=False)]
    return [plan.header.objects_per_views_shard, *fits]


def _begun_fits(store: Store, metadata: bool = True) -> list[str]:
    """Return the fits that have a header and, where it matters, arrays."""
    return [
        name
        for name in list_fits(store)
        if store.exists(layout.fit_header(name))
        and (not metadata or store.exists(layout.zarr_metadata(layout.fit_group(name))))
    ]


def _new_objects(plan: Plan, objects: Sequence[PlanRow]) -> list[PlanRow]:
    """Return the objects that the plan does not have; refuses those that it has otherwise."""
    seen: set[str] = set()
    new, other = [], []
    for each in objects:
        if each.object_id in seen:
            raise UsageError(f"object {each.object_id} appears twice: ids must be unique over all classes")
        seen.add(each.object_id)
        try:
            known = plan.rows[plan.row_of(each.object_id)]
        except KeyError:
            new.append(each)
            continue
        if (known.class_name, known.fingerprint) != (each.class_name, each.fingerprint):
            other.append(each.object_id)
    if other:
        more = f" and {len(other) - MAX_NAMED} more" if len(other) > MAX_NAMED else ""
        raise StoreMismatchError(
            f"the dataset has other objects of the same name: {', '.join(other[:MAX_NAMED])}{more}: their "
            "class or their files differ. Nothing was appended; rename them, or make another dataset"
        )
    return new


def _write(store: Store, plan: Plan, rows: Sequence[PlanRow], source: dict[str, Any]) -> None:
    """Write the segments, then the document that makes them part of the plan."""
    n_segments = sum(len(addition.block.segments) for addition in plan.additions)
    segments = write_segments(store, rows, n_segments)
    new_classes = sorted({row.class_name for row in rows} - set(plan.classes))
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "before": plan.state_hash,
        "start": rows[0].row,
        "n_objects": len(rows),
        "classes": [*plan.classes, *new_classes],
        "source": source,
        "rows_hash": hash_rows(rows),
        "segments": [asdict(segment) for segment in segments],
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    document["state_hash"] = state_after(plan.state_hash, document)
    key = layout.plan_appended(len(plan.additions))
    if store.create(key, dump_document(document)):
        return
    if parse_document(store.read(key), key)["state_hash"] != document["state_hash"]:  # else it was this one
        raise StoreMismatchError(
            f"{store.url}: somebody else appended objects at the same time, and was faster ({key}). "
            "Nothing of yours was appended; run the same command again"
        )
