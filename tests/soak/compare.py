"""Holds a dataset that was disturbed against one that was not: views by bits, fits by DESIGN section 5."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.plan import Plan, read_plan
from storage.planes import PlanesStore
from storage.records import Status
from storage.sharded import ShardedStore
from storage.store import Store
from storage.verify import verify
from storage.views import ViewsStore

FIT = "default"
TOLERANCE_DB = 0.05
VIEW_ARRAYS = ("images", "cam2world", "intrinsics", "heldout", "mesh_to_world")


@dataclass
class Comparison:
    """What a comparison found.

    Attributes:
        objects: That were compared.
        views_differ: Objects whose views are not bit-equal.
        fits_differ: Objects whose codes are not bit-equal.
        most_db: Largest difference in PSNR of one object's fit.
        problems: What is wrong: missing shards, failed objects, differences beyond the rules, findings of
            a full verify.
    """

    objects: int = 0
    views_differ: int = 0
    fits_differ: int = 0
    most_db: float = 0.0
    problems: list[str] = field(default_factory=list)


def compare(ours: Path, theirs: Path, with_fits: bool) -> Comparison:
    """Compares two datasets object by object, whatever their shards are."""
    stores = Store(ours), Store(theirs)
    plans = [read_plan(store) for store in stores]
    found = Comparison(plans[0].n_objects)
    if [row.object_id for row in plans[0].rows] != [row.object_id for row in plans[1].rows]:
        found.problems.append("the plans hold other objects")
        return found
    _compare_views(found, plans[0], *stores)
    if with_fits:
        _compare_fits(found, plans[0], *stores)
    found.problems += [
        f"verify: {problem.key}: {problem.message}" for problem in verify(stores[0], full=True)
    ]
    return found


def _compare_views(found: Comparison, plan: Plan, ours: Store, theirs: Store) -> None:
    mine, other = ViewsStore.open(ours), ViewsStore.open(theirs)
    if not _is_whole(found, "render", mine):
        return
    for row in range(plan.n_objects):
        here, there = mine.read(row), other.read(row)
        if not all(np.array_equal(getattr(here, name), getattr(there, name)) for name in VIEW_ARRAYS):
            found.views_differ += 1
            found.problems.append(f"{plan.rows[row].object_id}: its views are others")


def _compare_fits(found: Comparison, plan: Plan, ours: Store, theirs: Store) -> None:
    mine, other = PlanesStore.open(ours, FIT), PlanesStore.open(theirs, FIT)
    if mine.header.shared_version != other.header.shared_version:
        found.problems.append("the shared components are others")
        return
    if not _is_whole(found, "fit-objects", mine):
        return
    for row in range(plan.n_objects):
        here, there = mine.read(row), other.read(row)
        if np.array_equal(here.coefficients, there.coefficients) and _equal(here.micro, there.micro):
            continue
        found.fits_differ += 1
        db = abs(here.metrics["psnr_db"] - there.metrics["psnr_db"])
        found.most_db = max(found.most_db, db)
        if not db <= TOLERANCE_DB:
            found.problems.append(f"{plan.rows[row].object_id}: its fit differs by {db:.3f} dB")


def _equal(here: NDArray[Any] | None, there: NDArray[Any] | None) -> bool:
    return here is there if here is None or there is None else np.array_equal(here, there)


def _is_whole(found: Comparison, stage: str, store: ShardedStore) -> bool:
    """Every shard is done, and every object has a result."""
    left, failed = store.shards_left(), int((store.status() != Status.OK).sum())
    if left:
        found.problems.append(f"{stage}: shards {left} are not done")
    if failed:
        found.problems.append(f"{stage}: {failed} objects have no result")
    return not left and not failed
