"""Looks at what a run left behind: the dataset, what was done twice, and how long recovery took."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from storage.planes import PlanesStore
from storage.records import Status
from storage.store import Store
from storage.verify import verify
from tests.conformance.work import code_of


@dataclass(frozen=True)
class Cell:
    """One cell of the conformance table.

    Attributes:
        repeated: Attempts beyond one per shard, of shards that had no committed file.
        recovery_s: From the first sign of the struck shard's attempt to its end; None without a fault.
        commands: Commands that were needed.
    """

    repeated: int
    recovery_s: float | None
    commands: int


def check(root: Path, folder: Path, shard: int, commands: int) -> Cell:
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
    assert not list((root / ".tmp").glob("*")), "temp files are left"
    notes = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    begun = [note for note in notes if note["what"] == "begun"]
    return Cell(len(begun) - planes.n_shards, _recovery_s(notes, shard), commands)


def _recovery_s(notes: list[dict[str, Any]], shard: int) -> float | None:
    own = sorted((note for note in notes if note["shard"] == shard), key=lambda note: note["at"])
    return own[-1]["at"] - own[0]["at"] if len(own) > 2 else None
