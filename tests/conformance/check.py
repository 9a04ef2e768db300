"""Looks at what a run left behind: the dataset, what was done twice, and how long recovery took."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.run import read_events
from storage.planes import PlanesStore
from storage.records import Status
from storage.store import Store
from storage.verify import verify
from tests.conformance.strikes import Struck
from tests.conformance.work import code_of


@dataclass(frozen=True)
class Cell:
    """One cell of the conformance table.

    Attributes:
        repeated: Attempts beyond one per shard.
        recovery_s: The longest time from the first begin of a shard that was begun again to its end. Where a
            driver was struck: until its successor began a shard. None where there was neither.
        commands: Commands that were needed.
        classes: Class of failure → attempts that were tried again by a driver.
    """

    repeated: int
    recovery_s: float | None
    commands: int
    classes: Counter[str]


def check(root: Path | str, folder: Path, commands: int, struck: Struck | None = None) -> Cell:
    """Compare the dataset with what every attempt comes to, and count attempts.

    Raises:
        AssertionError: something is missing, wrong, left over, or was done more often than it had to be.
    """
    store = Store(root)
    planes = PlanesStore.open(store, "made")
    assert planes.done() == frozenset(range(planes.n_shards))
    assert (planes.status() == Status.OK).all()
    for row in range(planes.spec.n_objects):
        expected = code_of(row, planes.header)
        assert expected.micro is not None
        assert np.array_equal(planes.chunks(row)[0][0], expected.micro)
        assert np.array_equal(planes.values(row)["coefficients"], expected.coefficients)
    assert not [problem for problem in verify(store, full=True) if problem.key.startswith("fits/made/")]
    assert isinstance(root, str) or not list((root / ".tmp").glob("*")), "temp files are left"
    notes = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    begun = Counter(note["shard"] for note in notes if note["what"] == "begun")
    recovery_s = _until_taken_up(notes, struck) if struck else _longest(notes, begun)
    return Cell(begun.total() - planes.n_shards, recovery_s, commands, _classes(store))


def _longest(notes: list[dict[str, Any]], begun: Counter[int]) -> float | None:
    times: dict[int, list[float]] = {}
    for note in notes:
        times.setdefault(note["shard"], []).append(note["at"])
    return max((max(times[shard]) - min(times[shard]) for shard in begun if begun[shard] > 1), default=None)


def _until_taken_up(notes: list[dict[str, Any]], struck: Struck) -> float | None:
    """Members of an array that go on meanwhile have begun a shard before the strike; successors have not."""
    earlier = {note["parent"] for note in notes if note["at"] <= struck.over}
    later = [
        note["at"]
        for note in notes
        if note["what"] == "begun" and note["at"] > struck.over and note["parent"] not in earlier
    ]
    return min(later) - struck.at if later else None


def _classes(store: Store) -> Counter[str]:
    found: Counter[str] = Counter()
    for run in store.list("runs/fit-objects"):
        for event in read_events(store, "fit-objects", run):
            found.update(event.get("retried", {}))
    return found
