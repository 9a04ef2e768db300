"""Collects the failures of all stages by class: exact counts, and the first objects of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.report.images import safe_picture
from pipeline.report.records import FailedObject, FailureKind
from pipeline.sidecars import each_sidecar
from storage.plan import Plan
from storage.planes import PlanesStore
from storage.records import Failure, Status
from storage.sharded import ShardedStore
from storage.shards import Sidecar
from storage.views import ViewsStore

LISTED: Final = 240  # of all kinds together, but at least _LISTED_PER_KIND of each
_LISTED_PER_KIND: Final = 6

Row = tuple[int, str, Failure]


def collect_failures(
    views: ViewsStore, status: NDArray[np.uint8], planes: PlanesStore | None = None
) -> list[FailureKind]:
    """Every failure of the dataset, most frequent class first, stage by stage.

    An object without views fails in every later stage, too: it is counted once, with the reason of the render
    stage.

    Args:
        views: The views.
        status: `Status` of every row of the views [N].
        planes: The fit, where there is one.

    Raises:
        IntegrityError: Stored bytes are damaged.
    """
    kinds = _kinds("render", _failures(views, status))
    if planes is not None:
        own = (failed for failed in _failures(planes, planes.status()) if status[failed[0]] == Status.OK)
        kinds += _kinds("fit-objects", own)
    share = max(_LISTED_PER_KIND, LISTED // max(len(kinds), 1))
    return [
        FailureKind(stage, kind, count, [_listed(views.plan, row) for row in rows[:share]])
        for stage, kind, count, rows in kinds
    ]


def _failures(group: ShardedStore, status: NDArray[np.uint8]) -> Iterator[Row]:
    shards = sorted({group.shard_of(row) for row in np.flatnonzero(status == Status.FAILED).tolist()})
    for rows in each_sidecar(group, shards, _of_sidecar):
        yield from rows


def _of_sidecar(sidecar: Sidecar) -> list[Row]:
    return [(r.row, r.object_id, r.failure) for r in sidecar.objects if r.failure is not None]


def _kinds(stage: str, failures: Iterator[Row]) -> list[tuple[str, str, int, list[Row]]]:
    """(stage, kind, count, first failures) of every kind, most frequent first."""
    counts: dict[str, int] = {}
    first: dict[str, list[Row]] = {}
    for row in failures:
        kind = row[2].kind
        counts[kind] = counts.get(kind, 0) + 1
        kept = first.setdefault(kind, [])
        if len(kept) < LISTED:
            kept.append(row)
    ordered = sorted(counts, key=lambda kind: (-counts[kind], kind))
    return [(stage, kind, counts[kind], first[kind]) for kind in ordered]


def _listed(plan: Plan, failed: Row) -> FailedObject:
    row, object_id, failure = failed
    class_name = plan.rows[row].class_name
    return FailedObject(object_id, class_name, failure.reason, failure.repro, safe_picture(failure.picture))
