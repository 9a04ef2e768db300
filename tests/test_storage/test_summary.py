"""The summary of done shards: one read instead of one per shard, and never another answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from storage import summary as summary_module
from storage.append import append_objects
from storage.errors import StaleSnapshotError
from storage.journal import Journal, write_journal
from storage.layout import summary as summary_key
from storage.lease import Lease
from storage.plan import Plan
from storage.planes import PlanesStore
from storage.records import Failure, Status
from storage.replacement import Round, finish_round, open_round, read_shard, replace_shard
from storage.sharded import ShardedStore
from storage.store import Store
from storage.summary import failure_rows, read_summary, update_summary
from storage.verify import verify
from storage.views import ViewsStore

from .builders import FAILED_ROW, fit_header, full_dataset, make_plan, object_fit, write_shared
from .test_append import BOATS, SOURCE, finish

KEY = summary_key("fits/main/planes.zarr")


@pytest.fixture(autouse=True)
def worth_it_for_three_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary_module, "MIN_SHARDS", 2)


@pytest.fixture
def planes(tmp_path: Path) -> PlanesStore:
    return PlanesStore.open(full_dataset(tmp_path))


class Reads:
    """Counts what is asked of a store."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: list[str] = []
        for name in ("read", "read_tail", "read_range", "size", "list"):
            self._count(monkeypatch, name)
        tails = Store.read_tails

        def read_tails(store: Store, keys: list[str], n: int) -> list[bytes | Exception]:
            self.keys += keys
            return tails(store, keys, n)

        monkeypatch.setattr(Store, "read_tails", read_tails)

    def _count(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        real = getattr(Store, name)

        def counted(store: Store, key: str, *more: int) -> object:
            self.keys.append(key)
            return real(store, key, *more)

        monkeypatch.setattr(Store, name, counted)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    yield Reads(monkeypatch)


def same_as_without(group: ShardedStore, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether status and failures are those that the shards themselves give."""
    group.refresh()
    status, rows = group.status(), failure_rows(group)
    with monkeypatch.context() as patched:
        patched.setattr(summary_module, "MIN_SHARDS", 10**9)
        expected = failure_rows(group)
        return np.array_equal(status, group.status()) and all(
            np.array_equal(rows[kind], found) for kind, found in expected.items()
        )


def test_a_snapshot_reads_the_summary_alone(planes: PlanesStore, reads: Reads) -> None:
    expected = planes.status()
    assert update_summary(planes) and not update_summary(planes), "nothing new the second time"
    planes.refresh()
    reads.keys.clear()
    assert np.array_equal(planes.status(), expected)
    assert [key for key in reads.keys if "status" in key or "micro" in key] == []
    assert {kind: rows.tolist() for kind, rows in failure_rows(planes).items()} == {"no_views": [FAILED_ROW]}
    assert [key for key in reads.keys if "status" in key or "micro" in key] == []


def test_newer_shards_are_read_and_an_update_reads_only_them(
    tmp_path: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    plan = make_plan(store, n_objects=12)
    write_shared(store)
    planes = PlanesStore.create_or_open(store, plan, fit_header(n_objects=12, objects_per_shard=2))
    fill(planes, [0, 1, 4], failed=(1,))
    assert update_summary(planes)
    fill(planes, [2, 5], failed=(5, 11))
    reads.keys.clear()
    assert planes.status().tolist() == [1, 2, 1, 1, 1, 2, 0, 0, 1, 1, 1, 2]
    chunks = [key for key in reads.keys if "/status/c." in key]
    assert [key[-1] for key in chunks] == ["2", "5"]
    reads.keys.clear()
    assert update_summary(planes)
    assert {key for key in reads.keys if "micro" in key} == {planes.spec.shard_key(shard) for shard in (2, 5)}
    assert same_as_without(planes, monkeypatch)
    assert verify(store, full=False)[1:] == []  # besides the views, which are not there


def fill(planes: PlanesStore, shards: list[int], failed: tuple[int, ...] = ()) -> None:
    for shard in shards:
        with planes.builder(shard, f"a{shard}") as builder:
            for row in planes.object_rows(shard):
                if row in failed:
                    builder.fail(row, Failure(f"kind-{row % 2}", "why"))
                else:
                    builder.add(row, object_fit(row))
            builder.commit()


def test_a_round_of_replacements_makes_it_void(planes: PlanesStore, monkeypatch: pytest.MonkeyPatch) -> None:
    update_summary(planes)
    old = PlanesStore.open(planes.store)
    assert old.status()[FAILED_ROW] == Status.FAILED  # its snapshot begins
    with Lease(planes.store, "test") as lease:
        current = open_round(planes, lease.token, [1])
        mend(planes, current)
        assert not update_summary(planes), "not while shards are being replaced"
        assert same_as_without(planes, monkeypatch)
        finish_round(planes, lease.token)
    with pytest.raises(StaleSnapshotError):
        old.status()
    planes.refresh()
    found = read_summary(planes)
    assert found is not None and found.generation == 0 and found.status[FAILED_ROW] == Status.FAILED
    assert planes.status()[FAILED_ROW] == Status.OK and failure_rows(planes) == {}
    assert verify(planes.store, full=True) == []
    assert update_summary(planes) and same_as_without(planes, monkeypatch)


def mend(planes: PlanesStore, current: Round) -> None:
    with planes.builder(1, "mended") as builder:
        file = read_shard(planes, 1)
        builder.keep_all(file)
        builder.reopen(FAILED_ROW)
        builder.add(FAILED_ROW, object_fit(FAILED_ROW))
        replace_shard(planes, file, builder, current)


def test_it_may_be_older_or_newer_than_an_append(
    planes: PlanesStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = planes.store
    update_summary(planes)
    before = PlanesStore.open(store)
    append_objects(store, BOATS, SOURCE)
    planes.refresh()
    assert planes.status().tolist() == [1, 1, 1, 2, 1, 0, 0, 0, 0]
    finish(store)
    assert same_as_without(planes, monkeypatch) and update_summary(planes)
    assert same_as_without(planes, monkeypatch)
    assert before.status().tolist() == [1, 1, 1, 2, 1], "of the snapshot that was opened before"
    assert verify(store, full=True) == []


def test_damage_is_passed_over_by_readers_and_named_by_verify(
    planes: PlanesStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    update_summary(planes)
    sound = planes.store.read(KEY)
    planes.store.replace(KEY, sound[:40] + bytes([sound[40] ^ 1]) + sound[41:])
    (problem,) = verify(planes.store, full=False)
    assert (problem.key, problem.mend, problem.group) == (KEY, "rebuild", "fits/main/planes.zarr")
    assert same_as_without(planes, monkeypatch) and "fpipe repair makes it again" in caplog.text
    assert update_summary(planes, anew=True) and planes.store.read(KEY) == sound


def test_one_that_says_other_than_the_shards_is_found(
    planes: PlanesStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(PlanesStore, "read_status", lambda self, *_: np.ones(5, np.uint8))
        update_summary(planes)
    (problem,) = verify(planes.store, full=False)
    assert problem.key == KEY and "says other than the sidecar of shard 1" in problem.message


def test_a_journal_that_moves_on_while_it_is_made_stops_it(
    planes: PlanesStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = PlanesStore.read_status

    def replaced_meanwhile(self: PlanesStore, done: frozenset[int], summary: None) -> object:
        write_journal(self.store, self.spec.group, Journal(generation=7), None)
        return read(self, done, summary)

    monkeypatch.setattr(PlanesStore, "read_status", replaced_meanwhile)
    assert not update_summary(planes) and not planes.store.exists(KEY)


def test_few_shards_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary_module, "MIN_SHARDS", 256)
    store = full_dataset(tmp_path)
    assert not update_summary(ViewsStore.open(store)) and not store.exists(summary_key("views.zarr"))
    assert isinstance(ViewsStore.open(store).plan, Plan)
