"""The checker finds what is planted: a test that counts zeros must be able to count."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.local_files import TEMP_FOLDER, process_tag
from storage.plan import shard_rows
from storage.planes import PlanesStore
from storage.store import Store
from tests.chaos.checker import Findings, check
from tests.chaos.content import FIT, OBJECTS_PER_SHARD, first_fails, object_id, outcome, plan_header
from tests.chaos.logbook import Logbook, read_logs
from tests.chaos.naive import NaiveStore
from tests.chaos.ours import OurStore
from tests.chaos.subject import BadReadError, Fate, Subject

N_SHARDS = 3
FATE = Fate(random.Random(0), probability=0.0, within_s=0.0)


class Case:
    """A finished dataset and the logbooks of those who made it."""

    def __init__(self, folder: Path, kind: type[Any]) -> None:
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.root = folder / "data"
        arguments = (5.0,) if kind is OurStore else ()
        self.subject: Subject = kind(str(self.root), N_SHARDS, *arguments)
        self.subject.create()
        self.log = Logbook(self.logs, "w0")
        self.accepted: dict[str, dict[str, int]] = {}
        for shard in range(N_SHARDS):
            self.subject.commit(shard, f"w{shard}", self.log, FATE, is_late=False)
        for number in range(3):
            self.subject.replace(f"m{number}", self.log, FATE, random.Random(number))

    def check(self) -> Findings:
        n_objects = plan_header(N_SHARDS).n_objects
        return check(
            N_SHARDS,
            lambda shard: shard_rows(n_objects, OBJECTS_PER_SHARD, shard),
            self.subject.final,
            self.subject.leftovers(),
            list(read_logs(self.logs)),
            self.accepted,
        )

    def counts(self) -> dict[str, int]:
        findings = self.check()
        names = ("inconsistent_shards", "lost_objects", "doubly_committed", "bad_reads", "wrong_configs")
        found = {name: getattr(findings, name) for name in names}
        assert len(findings.messages) >= sum(count > 0 for count in found.values())
        return {name: count for name, count in found.items() if count}


@pytest.fixture(params=[OurStore, NaiveStore], ids=["ours", "naive"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return Case(tmp_path, request.param)


@pytest.fixture
def ours(tmp_path: Path) -> Case:
    return Case(tmp_path, OurStore)


def planes_file(case: Case, shard: int) -> Path:
    if isinstance(case.subject, NaiveStore):
        return case.root / f"planes/{shard}"
    planes = PlanesStore.open(Store(case.root), FIT)
    return case.root / planes.spec.shard_key(shard)


def test_what_one_writer_made_alone_is_sound(case: Case) -> None:
    assert any(e.event == "claimed" and ".0" in e.values["attempt"] for e in read_logs(case.logs))
    assert case.check().total == 0
    reader = case.subject.reader()
    reader.refresh()
    for row in reader.rows():
        assert reader.read(row).row == row


def test_a_lost_file_and_a_lost_marker(case: Case) -> None:
    planes_file(case, 1).unlink()
    assert case.counts()["inconsistent_shards"] == 1
    assert case.counts()["lost_objects"] >= OBJECTS_PER_SHARD
    folder = "done" if isinstance(case.subject, NaiveStore) else f"fits/{FIT}/done"
    (case.root / folder / "2").unlink()
    assert case.counts()["inconsistent_shards"] == 2


def test_a_torn_file(case: Case) -> None:
    path = planes_file(case, 0)
    path.write_bytes(path.read_bytes()[:-100])
    assert case.counts()["inconsistent_shards"] == 1


def _mix(case: Case, shard: int = 1) -> None:
    """Put a file into a shard whose checksums are right, but whose last object another attempt made."""
    planes = PlanesStore.open(Store(case.root), FIT)
    rows = planes.shard_rows(shard)
    builder = planes.builder(shard, "mixed")
    for row in rows:
        maker = "other" if row == rows[-1] else "mixed"
        builder.add(row, outcome(object_id(row), maker, False), {"label": "mixed", "first": False})
    case.log("built", shard=shard, attempt="mixed", parent=None, labels=dict.fromkeys(rows, "mixed"))
    planes_file(case, shard).write_bytes(builder.pack())
    planes.publish(shard, overwrite=True)


def test_a_shard_of_two_attempts(ours: Case) -> None:
    _mix(ours)
    found = ours.counts()
    assert found["inconsistent_shards"] == 1
    assert found["lost_objects"] > 0, "what the writers before were told is stored is gone"
    reader = ours.subject.reader()
    with pytest.raises(BadReadError, match="columns are not what mixed made"):
        reader.refresh()
    row = shard_rows(plan_header(N_SHARDS).n_objects, OBJECTS_PER_SHARD, 1)[-1]
    with pytest.raises(BadReadError, match=f"{object_id(row)}: not what mixed made"):
        reader.read(row)


def test_a_naive_shard_of_two_attempts(tmp_path: Path) -> None:
    case = Case(tmp_path, NaiveStore)
    coefficients = case.root / "coefficients/1"
    old = coefficients.read_bytes()
    case.subject.commit(1, "late", case.log, FATE, is_late=True)
    coefficients.write_bytes(old)  # the other writer's came last
    assert case.counts()["inconsistent_shards"] == 1
    reader = case.subject.reader()
    reader.refresh()
    rows = range(OBJECTS_PER_SHARD, 2 * OBJECTS_PER_SHARD)
    row = next(row for row in rows if not first_fails(object_id(row)))
    with pytest.raises(BadReadError, match="not what one attempt made"):
        reader.read(row)


def test_a_file_that_nobody_built_or_built_otherwise(ours: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ours.subject.final
    other = lambda shard: replace(real(shard), attempt="stranger")  # noqa: E731
    monkeypatch.setattr(ours.subject, "final", other)
    assert ours.counts()["inconsistent_shards"] == N_SHARDS
    labels = lambda shard: replace(real(shard), labels=dict.fromkeys(real(shard).labels, "w9"))  # noqa: E731
    monkeypatch.setattr(ours.subject, "final", labels)
    assert ours.counts() == {"inconsistent_shards": N_SHARDS}


def test_stale_columns(ours: Case) -> None:
    planes = PlanesStore.open(Store(ours.root), FIT)
    key = f"{planes.spec.group}/coefficients/c.0.0"
    (ours.root / key).write_bytes((ours.root / f"{planes.spec.group}/coefficients/c.1.0").read_bytes())
    with pytest.raises(BadReadError, match="columns are not what"):
        ours.subject.reader().refresh()
    assert ours.check().leftovers == 1
    planes.publish(0, overwrite=True)
    assert ours.check().total == 0


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (lambda log: _claim(log, "second", None), {"doubly_committed": 1, "lost_objects": 4}),
        (lambda log: _claim(log, "m9", "m8"), {"lost_objects": 4}),  # written over by who had not read it
        (lambda log: log("bad_read", message="zeros"), {"bad_reads": 1}),
        (lambda log: log("seen", shard=0, attempt="w0", row=0, label="w7"), {"bad_reads": 1}),
        (lambda log: log("seen", shard=0, attempt="nobody", row=0, label="w0"), {"bad_reads": 1}),
        (lambda log: log("accepted", fit=FIT, steps=1), {"wrong_configs": 1}),
        (lambda log: [log("accepted", fit="raced", steps=n) for n in (1, 2)], {"wrong_configs": 1}),
        (lambda log: [log("accepted", fit="raced", steps=1) for n in (1, 2)], {}),
    ],
)
def test_what_the_logbooks_say(
    tmp_path: Path, plant: Callable[[Logbook], Any], expected: dict[str, int]
) -> None:
    case = Case(tmp_path, OurStore)
    plant(Logbook(case.logs, "x0"))
    assert case.counts() == expected


def _claim(log: Logbook, attempt: str, parent: str | None) -> None:
    labels = dict.fromkeys(range(OBJECTS_PER_SHARD), attempt)
    log("built", shard=0, attempt=attempt, parent=parent, labels=labels)
    log("claimed", shard=0, attempt=attempt)


def test_two_first_writes_that_the_server_accepted(ours: Case) -> None:
    ours.accepted = {"/b/a": {"create": 1, "swap": 5}, "/b/c": {"create": 3}}
    assert ours.counts() == {"doubly_committed": 2}


def test_temporary_files_and_a_lease_that_is_held(ours: Case) -> None:
    folder = ours.root / TEMP_FOLDER
    folder.mkdir(exist_ok=True)
    (folder / f"{process_tag()}.0").touch()  # its process lives: no sweep may take it
    assert ours.check().leftovers == 1
    dead = folder / (process_tag().rpartition("~")[0] + "~1.1")
    dead.touch()
    ours.subject.settle()
    assert not dead.exists()


def test_the_fate_of_an_actor_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, number: killed.append(number))
    Fate(random.Random(0), probability=0.0, within_s=0.0).tempt()
    Fate(random.Random(0), probability=1.0, within_s=0.0).tempt()
    time.sleep(0.2)
    assert killed == [9]
