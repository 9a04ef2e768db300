"""What is put to the test: a way to commit, to replace and to read shards: ours, or a naive one."""

from __future__ import annotations

import os
import random
import signal
import threading
from dataclasses import dataclass, field
from typing import Protocol

from storage.errors import ObjectUnavailableError, StaleSnapshotError, TransientError
from tests.chaos.logbook import LABELS, Logbook

ALLOWED = (StaleSnapshotError, ObjectUnavailableError, TransientError)
"""What a reader may be told instead of an object."""


class BadReadError(Exception):
    """A reader was given something that no attempt had made."""


@dataclass
class Fate:
    """When an actor dies by its own hand: at a random moment of some of its writes.

    Attributes:
        rng: Of this actor.
        probability: Per write.
        within_s: The longest a doomed write lives.
    """

    rng: random.Random
    probability: float
    within_s: float

    def tempt(self) -> None:
        """Say that a write begins now."""
        if self.rng.random() < self.probability:
            # Mostly soon: on a quick disk a write is over in milliseconds, on a busy one it takes far longer.
            delay = self.rng.random() ** 3 * self.within_s
            timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()


@dataclass(frozen=True)
class Seen:
    """What a reader was given with an object: file and label are of the same snapshot."""

    shard: int
    attempt: str
    row: int
    label: str


@dataclass(frozen=True)
class FinalShard:
    """What a shard is in the end.

    Attributes:
        attempt: Whose file it is; "" when there is none.
        labels: Of its objects; rows that are not there are missing.
        problems: What is wrong with it.
    """

    attempt: str
    labels: LABELS
    problems: list[str] = field(default_factory=list)


class Reader(Protocol):
    """Reads one snapshot."""

    def refresh(self) -> None:
        """Take a new snapshot, and look whether its columns and its objects say the same."""

    def rows(self) -> list[int]:
        """Return the rows that have data in this snapshot."""

    def read(self, row: int) -> Seen:
        """Read an object and compare it with the truth; raises BadReadError, or one of `ALLOWED`."""


class Subject(Protocol):
    """One dataset in one place, handled in one way."""

    def create(self) -> None:
        """Make an empty dataset."""

    def intrude(self, log: Logbook, rng: random.Random) -> None:
        """Come with a configuration that is not the dataset's, and log whether it was let in."""

    def commit(self, shard: int, attempt: str, log: Logbook, fate: Fate, is_late: bool) -> None:
        """Compute a shard and commit it; skip it when it is done, unless `is_late` (it began long ago)."""

    def replace(self, name: str, log: Logbook, fate: Fate, rng: random.Random) -> None:
        """Replace some shards that are done."""

    def settle(self) -> None:
        """After the storm: finish what an interrupted replacement left behind."""

    def reader(self) -> Reader:
        """Open the dataset for reading."""

    def final(self, shard: int) -> FinalShard:
        """Look at a shard after everybody has ended."""

    def leftovers(self) -> list[str]:
        """What is wrong with the dataset as a whole: damage, files that nobody owns, locks that are held."""
