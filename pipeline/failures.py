"""Lists what went wrong with the objects of a dataset, read from the store alone: counts, then objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any, Literal

from pipeline.warning_kinds import WarningCounter
from storage.errors import UsageError
from storage.plan import Plan, read_plan
from storage.planes import PlanesStore, list_fits
from storage.sharded import ShardedStore
from storage.store import Store
from storage.views import ViewsStore

StageName = Literal["render", "fit"]


def dataset_failures(
    store: Store,
    stage: StageName | None = None,
    fit: str | None = None,
    kinds: Collection[str] | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """Returns the failures of a dataset's stages.

    Args:
        store: The dataset.
        stage: Only this stage; None for both.
        fit: Only this fit; None for all.
        kinds: Only these failure classes.
        limit: Objects that are listed at most per stage; counts are complete.

    Returns:
        stages: name → failed (number of objects), kinds (class → number), other_kinds (those not asked for),
        objects (the listed ones, in row order: row, object_id, class_name, kind, reason, detail, repro).

    Raises:
        UsageError: There is no dataset, no such fit, or nothing is rendered yet.
    """
    plan = read_plan(store)
    stages = {
        name: _failures(group, plan, kinds, limit) for name, group in _groups(store, stage, fit).items()
    }
    return {"root": store.url, "stages": stages}


def dataset_warnings(store: Store, limit: int | None = None) -> dict[str, Any]:
    """Returns the warnings that were recorded with rendered objects, such as missing textures.

    Args:
        store: The dataset.
        limit: Objects that are listed at most; counts are complete.

    Returns:
        warned (number of objects), kinds (what warnings of one wording share → number of objects), objects
        (row, object_id, class_name, warnings).
    """
    views = ViewsStore.open(store)
    counter = WarningCounter()
    listed: list[dict[str, Any]] = []
    n_warned = 0
    for shard in sorted(views.done()):
        for record in views.sidecar(shard).objects:
            warnings = record.info.get("warnings") or []
            if not warnings:
                continue
            n_warned += 1
            counter.add(record.object_id, warnings)
            if limit is None or len(listed) < limit:
                listed.append(
                    {
                        "row": record.row,
                        "object_id": record.object_id,
                        "class_name": views.plan.rows[record.row].class_name,
                        "warnings": warnings,
                    }
                )
    kinds = {kind.text: kind.n_objects for kind in counter.kinds()}
    return {"root": store.url, "warned": n_warned, "kinds": kinds, "objects": listed}


def _groups(store: Store, stage: StageName | None, fit: str | None) -> dict[str, ShardedStore]:
    groups: dict[str, ShardedStore] = {}
    if stage != "fit" and fit is None:
        groups["render"] = ViewsStore.open(store)
    if stage != "render":
        names = list_fits(store) if fit is None else [fit]
        groups |= {f"fit {name}": PlanesStore.open(store, name) for name in names}
    elif fit is not None:
        raise UsageError("--name belongs to --stage fit")
    return groups


def _failures(
    group: ShardedStore, plan: Plan, kinds: Collection[str] | None, limit: int | None
) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    others: Counter[str] = Counter()
    listed: list[dict[str, Any]] = []
    for row, object_id, failure in group.each_failure():
        if kinds is not None and failure.kind not in kinds:
            others[failure.kind] += 1
            continue
        counts[failure.kind] += 1
        if limit is None or len(listed) < limit:
            listed.append(
                {
                    "row": row,
                    "object_id": object_id,
                    "class_name": plan.rows[row].class_name,
                    "kind": failure.kind,
                    "reason": failure.reason,
                    "detail": failure.detail,
                    "repro": failure.repro,
                }
            )
    return {
        "failed": counts.total(),
        "kinds": dict(counts.most_common()),
        "other_kinds": dict(others.most_common()),
        "objects": listed,
    }
