"""The processes of a chaos run: writers, maintainers, readers. Any of them may be killed at any time."""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from storage.errors import FpipeError, ObjectUnavailableError
from tests.chaos.content import plan_header
from tests.chaos.logbook import Logbook, read_logs
from tests.chaos.subject import ALLOWED, BadReadError, Fate, Reader, Subject

READS_PER_SNAPSHOT = 12


@dataclass(frozen=True)
class Task:
    """One writer's attempt at one shard.

    Attributes:
        number: Of the task in the run.
        shard: The shard.
        begin: When it begins at the earliest, seconds since 1970: so the writers of a shard collide.
        is_late: It began before the shard was done, and commits all the same.
    """

    number: int
    shard: int
    begin: float
    is_late: bool


@dataclass(frozen=True)
class Setting:
    """What every actor of a run is given.

    Attributes:
        kind: "ours" or "naive".
        url: Of the dataset.
        n_shards: Its shards.
        folder: Of logbooks, of stacks of stuck actors, and of `stop`, which ends maintainers and readers.
        seed: Of the run.
        lease_s: How long a lease lasts.
        doom: Probability that a write is the last of its process.
        doom_within_s: How long a doomed write lives at most.
        idle_s: How long maintainers and readers rest at most between two goes.
        options: Of the file system.
        environment: For the S3 client.
    """

    kind: str
    url: str
    n_shards: int
    folder: Path
    seed: int
    lease_s: float
    doom: float
    doom_within_s: float
    idle_s: float = 0.1
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def subject(self) -> Subject:
        os.environ.update(self.environment)
        if self.kind == "naive":
            from tests.chaos.naive import NaiveStore

            return NaiveStore(self.url, self.n_shards, **self.options)
        from tests.chaos.ours import OurStore

        return OurStore(self.url, self.n_shards, self.lease_s, **self.options)

    def rng(self, actor: str) -> random.Random:
        return random.Random(f"{self.seed} {actor}")

    def is_over(self) -> bool:
        return (self.folder / "stop").exists()


def write_shards(setting: Setting, actor: str, tasks: list[Task]) -> None:
    """Do tasks, each until it has an outcome."""

    def run(subject: Subject, log: Logbook, rng: random.Random) -> None:
        fate = Fate(rng, setting.doom, setting.doom_within_s)
        for task in tasks:
            time.sleep(max(0.0, task.begin - time.time()))
            _persist(
                lambda name, task=task: subject.commit(task.shard, name, log, fate, task.is_late),
                f"{actor}.{task.number}",
                log,
            )
            log("ended", task=task.number, shard=task.shard)
            if rng.random() < 0.1:
                _persist(lambda _: subject.intrude(log, rng), actor, log)

    _act(setting, actor, run)


def replace_shards(setting: Setting, actor: str) -> None:
    """Replace shards until the run is over."""

    def run(subject: Subject, log: Logbook, rng: random.Random) -> None:
        fate = Fate(rng, setting.doom, 4 * setting.doom_within_s)
        number = 0
        while not setting.is_over():
            number += 1
            try:
                subject.replace(f"{actor}.{number}", log, fate, rng)
            except FpipeError as error:
                log("gave_up", message=f"{type(error).__name__}: {error}")
            time.sleep(rng.random() * setting.idle_s)

    _act(setting, actor, run)


def read_objects(setting: Setting, actor: str) -> None:
    """Read random objects of one snapshot after another until the run is over."""

    def run(subject: Subject, log: Logbook, rng: random.Random) -> None:
        known: set[int] = set()
        reader = None
        while not setting.is_over():
            try:
                reader = reader or subject.reader()
                reader.refresh()
                rows = set(reader.rows())
                if not known <= rows:
                    raise BadReadError(f"rows {sorted(known - rows)[:8]} had data, and have none now")
                known |= rows
                for _ in range(READS_PER_SNAPSHOT):
                    row = rng.randrange(plan_header(setting.n_shards).n_objects)
                    _read(reader, row, row in rows, log)
            except ALLOWED as error:
                log("told", error=type(error).__name__)
            except Exception as error:  # noqa: BLE001 a reader must never be told anything else
                log("bad_read", message=f"{type(error).__name__}: {error}", trace=traceback.format_exc())
            time.sleep(rng.random() * setting.idle_s)

    _act(setting, actor, run)


def _read(reader: Reader, row: int, has_data: bool, log: Logbook) -> None:
    try:
        log("seen", **asdict(reader.read(row)))
    except ObjectUnavailableError as error:
        if has_data:
            raise BadReadError(f"row {row} has data in this snapshot, but: {error}") from error
        log("told", error=type(error).__name__)


def ended_tasks(folder: Path, actor_prefix: str) -> set[int]:
    """Tasks that have an outcome, by all lives of a writer."""
    return {
        int(entry.values["task"])
        for entry in read_logs(folder)
        if entry.event == "ended" and entry.actor.startswith(actor_prefix)
    }


def _act(setting: Setting, actor: str, run: Callable[[Subject, Logbook, random.Random], None]) -> None:
    stacks = (setting.folder / f"{actor}.stacks").open("w")
    faulthandler.register(signal.SIGUSR1, file=stacks)  # sent to whoever is stuck
    log = Logbook(setting.folder, actor)
    try:
        run(setting.subject(), log, setting.rng(actor))
    except BaseException as error:
        log("crashed", message=f"{type(error).__name__}: {error}", trace=traceback.format_exc())
        raise
    log("left")


def _persist(work: Callable[[str], None], name: str, log: Logbook) -> None:
    """Like the executor: what failed because of the store is tried again, as another attempt."""
    for number in range(20):
        try:
            return work(f"{name}t{number}")
        except ALLOWED as error:
            log("transient", message=f"{type(error).__name__}: {error}")
            time.sleep(0.1)
    raise RuntimeError(f"{name}: the store kept failing")
