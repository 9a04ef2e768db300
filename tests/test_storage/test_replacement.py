"""Replacing shards: what readers see meanwhile, and what a kill at any moment leaves."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import threading
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.errors import LeaseLostError, ObjectUnavailableError, StaleSnapshotError, TransientError
from storage.journal import read_journal
from storage.lease import Lease
from storage.planes import PlanesStore
from storage.reader import open_planes
from storage.records import Failure, Status
from storage.replacement import (
    finish_round,
    open_round,
    read_shard,
    redo_objects,
    replace_shard,
    rework_shard,
)
from storage.sharded import ShardedStore
from storage.shards import ShardFile
from storage.store import Store
from storage.verify import verify
from storage.views import ViewsStore

from .builders import (
    FAILED_ROW,
    files_below,
    fit_header,
    full_dataset,
    make_plan,
    object_fit,
    object_views,
    same_views,
)
from .fatal_calls import die_at

SHARD = {"views": 1, "planes": 1}  # the shards that hold FAILED_ROW
NEW = 77  # seed of the new content


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return full_dataset(tmp_path / "root" if request.param == "local" else f"memory://{uuid.uuid4().hex}/r")


def open_group(store: Store, kind: str) -> Any:
    return ViewsStore.open(store) if kind == "views" else PlanesStore.open(store, "main")


def content(kind: str, seed: int) -> Any:
    return object_views(seed) if kind == "views" else object_fit(seed)


def mend(
    group: Any, attempt: str, current: Any, rows: tuple[int, ...] = (FAILED_ROW,), seed: int = NEW
) -> None:
    """Replace the shard that holds the rows; their content is new."""
    kind = group.spec.kind
    with group.builder(SHARD[kind], attempt) as builder:

        def work(chosen: list[int]) -> dict[str, Any]:
            for row in chosen:
                builder.add(row, content(kind, seed + row), {"seconds": 3.0})
            return {"objects": len(chosen)}

        redone = redo_objects(group, builder, current, lambda record: record.row in rows, work)
    assert redone == list(rows)


def mend_in_a_round(store: Store, kind: str, attempt: str = "second", **how: Any) -> None:
    group = open_group(store, kind)
    with Lease(store, "test") as lease:
        current = open_round(group, lease.token, [SHARD[kind]])
        mend(group, attempt, current, **how)
        finish_round(group, lease.token)


@pytest.mark.parametrize("kind", ["views", "planes"])
def test_a_failed_object_gets_data_and_the_others_keep_their_bytes(store: Store, kind: str) -> None:
    before = read_shard(open_group(store, kind), SHARD[kind])
    mend_in_a_round(store, kind)
    group = open_group(store, kind)
    after = read_shard(group, SHARD[kind])
    assert (group.status() == Status.OK).all()
    assert group.failures() == []
    assert (after.tail.sidecar.generation, after.tail.sidecar.attempt) == (1, "second")
    per_object = group.spec.chunks_per_object
    for position, record in enumerate(before.tail.sidecar.objects):
        if record.row == FAILED_ROW:
            continue
        assert after.tail.sidecar.objects[position] == record
        assert after.chunks(position, per_object) == before.chunks(position, per_object)
        for name, values in before.tail.sidecar.arrays.items():
            np.testing.assert_array_equal(after.tail.sidecar.arrays[name][position], values[position])
    if kind == "views":
        assert same_views(group.read(FAILED_ROW), object_views(NEW + FAILED_ROW))
    else:
        np.testing.assert_array_equal(group.read(FAILED_ROW).micro, object_fit(NEW + FAILED_ROW).micro)
    key = group.spec.shard_key(SHARD[kind])
    assert store.read(f"quarantine/{key}.{before.tail.sidecar.attempt}") == before.data
    assert verify(store, full=True) == []
    assert store.read(group.marker_key(SHARD[kind])).count(b'"generation":1') == 1


def test_an_open_round_names_the_command_that_goes_on_with_it(store: Store) -> None:
    planes = PlanesStore.open(store)
    with Lease(store, "test") as lease:
        open_round(planes, lease.token, [1], "fpipe retry /data")
        assert read_journal(store, planes.spec.group).command == "fpipe retry /data"
        finish_round(planes, lease.token)
    assert read_journal(store, planes.spec.group).command == ""


def test_what_is_noted_about_an_object_changes_nothing_else(store: Store) -> None:
    planes = PlanesStore.open(store)
    old = read_shard(planes, SHARD["planes"])
    row = old.tail.sidecar.objects[0].row
    with Lease(store, "test") as lease:
        current = open_round(planes, lease.token, [SHARD["planes"]])
        with planes.builder(SHARD["planes"], "left") as builder:
            assert rework_shard(planes, builder, current, lambda file: None)
        assert read_shard(planes, SHARD["planes"]).data == old.data, "nothing to replace"
        with planes.builder(SHARD["planes"], "second") as builder:

            def work(file: ShardFile) -> dict[str, Any]:
                assert file.data == old.data
                builder.note(row, {"seen": True})
                return {"host": "here"}

            assert rework_shard(planes, builder, current, work)
        with planes.builder(SHARD["planes"], "third") as builder:
            assert not rework_shard(planes, builder, current, work), "once in a round"
        finish_round(planes, lease.token)
    new = read_shard(planes, SHARD["planes"])
    assert new.tail.sidecar.objects[0].info == {"seen": True}
    assert new.tail.sidecar.objects[1:] == old.tail.sidecar.objects[1:]
    assert new.tail.sidecar.info == {"host": "here"}
    assert new.tail.index.tolist() == old.tail.index.tolist()
    for name, values in old.tail.sidecar.arrays.items():
        np.testing.assert_array_equal(new.tail.sidecar.arrays[name], values)
    assert verify(store, full=True) == []


def test_every_round_has_a_generation_of_its_own(store: Store) -> None:
    for number in (1, 2):
        mend_in_a_round(store, "views", f"attempt-{number}", rows=(2,), seed=100 * number)
    views = ViewsStore.open(store)
    assert views.sidecar(1).generation == read_journal(store, "views.zarr").generation == 2
    assert len(store.list("quarantine/views.zarr/images")) == 2
    assert same_views(views.read(2), object_views(202))
    assert read_journal(store, "fits/main/planes.zarr").generation == 0


def test_a_snapshot_keeps_to_what_it_has_or_is_stale(store: Store) -> None:
    """Whatever a reader has read before the replacement, it never gets a piece of the new file."""
    fresh, warm, column = (ViewsStore.open(store) for _ in range(3))
    fresh.journal()
    assert same_views(warm.read(2), object_views(2))
    assert column.status()[FAILED_ROW] == Status.FAILED
    reader = open_planes(store.url)
    mend_in_a_round(store, "views", rows=(2, 3))
    mend_in_a_round(store, "planes", rows=(3, 4))
    for call in (
        lambda: fresh.read(2),
        lambda: warm.read(2),
        lambda: column.read(2),
        column.status,
        lambda: fresh.derived("heldout"),
    ):
        with pytest.raises(StaleSnapshotError, match="refresh"):
            call()
    with pytest.raises(ObjectUnavailableError):
        warm.read(FAILED_ROW)  # its sidecar is cached: the old content
    for views in (fresh, warm, column):
        views.refresh()
        assert same_views(views.read(2), object_views(NEW + 2))
    with pytest.raises(StaleSnapshotError):
        reader["car-00003"]
    with pytest.raises(StaleSnapshotError):
        reader[-1].micro()
    reader.refresh()
    assert len(reader) == 5
    np.testing.assert_array_equal(reader["car-00003"].micro(np.float16), object_fit(NEW + 3).micro)


def test_an_evicted_sidecar_does_not_come_back_as_another_one(store: Store) -> None:
    """A snapshot that began while the round was open has seen the old file, and mixes nothing new in."""
    views = ViewsStore.open(store)
    with Lease(store, "test") as lease:
        current = open_round(views, lease.token, [1])
        reader = ViewsStore.open(store)
        assert reader.status()[FAILED_ROW] == Status.FAILED, "read from the sidecar"
        mend(views, "second", current)
        reader.snapshot._tails.clear()
        with pytest.raises(StaleSnapshotError):
            reader.read(2)
        late = ViewsStore.open(store)
        assert late.status()[FAILED_ROW] == Status.OK
        assert same_views(late.read(FAILED_ROW), object_views(NEW + FAILED_ROW))
        finish_round(views, lease.token)
    assert late.status()[FAILED_ROW] == Status.OK, "the end of a round makes nobody stale"


def test_readers_in_a_loop_see_old_new_or_stale(tmp_path: Path) -> None:
    """Rows 2 and 3 of shard 1 always have the same generation of content in images and derived arrays."""
    store = full_dataset(tmp_path / "root")
    mend_in_a_round(store, "views", "g0", rows=(2, 3), seed=1000)
    ended, faults, seen = threading.Event(), [], {"good": 0, "stale": 0}
    generations: set[int] = set()

    def generation_of(views: ViewsStore) -> int:
        found, column = views.read(2), views.derived("mesh_to_world")
        for generation in range(1, 40):
            if same_views(found, object_views(1000 * generation + 2)):
                for row in (2, 3):
                    np.testing.assert_array_equal(
                        column[row], object_views(1000 * generation + row).mesh_to_world
                    )
                assert same_views(views.read(3), object_views(1000 * generation + 3))
                return generation
        raise AssertionError("content of no generation")

    def look() -> None:
        views = ViewsStore.open(Store(tmp_path / "root"))
        while not ended.is_set():
            try:
                generations.add(generation_of(views))
                seen["good"] += 1
            except StaleSnapshotError:
                seen["stale"] += 1
                views.refresh()
            except BaseException as error:  # noqa: BLE001 it is a finding
                faults.append(error)
                return

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for generation in range(2, 22):
        mend_in_a_round(store, "views", f"g{generation}", rows=(2, 3), seed=1000 * generation)
    ended.set()
    for thread in threads:
        thread.join()
    assert faults == []
    assert seen["good"] > 20 and seen["stale"] > 3 and len(generations) > 3, seen


def test_a_holder_that_lost_its_lease_writes_nothing(tmp_path: Path) -> None:
    store = full_dataset(tmp_path / "root")
    views = ViewsStore.open(store)
    with Lease(store, "first") as lease:
        current = open_round(views, lease.token, [1])
    before = {name: data for name, data in files_below(tmp_path).items() if "quarantine" not in name}
    with pytest.raises(LeaseLostError):
        mend(views, "late", current)
    with Lease(store, "second"), pytest.raises(LeaseLostError, match="to `second`"):
        mend(views, "late", current)
    after = {name: data for name, data in files_below(tmp_path).items() if "quarantine" not in name}
    assert {n: d for n, d in after.items() if "lease" not in n} == {
        n: d for n, d in before.items() if "lease" not in n
    }


def test_of_two_that_build_from_the_same_file_one_wins(store: Store) -> None:
    views = ViewsStore.open(store)
    with Lease(store, "test") as lease:
        current = open_round(views, lease.token, [1])
        old = read_shard(views, 1)
        for attempt, expectation in (("first", None), ("late", StaleSnapshotError)):
            builder = views.builder(1, attempt)
            builder.keep_all(old)
            if expectation is None:
                replace_shard(views, old, builder, current)
            else:
                with pytest.raises(expectation, match="attempt first was faster"):
                    replace_shard(views, old, builder, current)
        finish_round(views, lease.token)
    assert views.sidecar(1).attempt == "first"


def test_a_lost_answer_counts_as_done(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Store.swap

    def swap(self: Store, key: str, data: bytes, version: str) -> bool:
        done = real(self, key, data, version)
        if "images" in key:
            raise TransientError("the answer was lost")
        return done

    monkeypatch.setattr(Store, "swap", swap)
    mend_in_a_round(store, "views")
    assert verify(store, full=True) == []

    def refuse(self: Store, key: str, data: bytes, version: str) -> bool:
        if "images" in key:
            raise TransientError("never arrived")
        return real(self, key, data, version)

    monkeypatch.setattr(Store, "swap", refuse)
    with pytest.raises(TransientError, match="could not be replaced"):
        mend_in_a_round(store, "views", "third", rows=(2,))
    monkeypatch.undo()
    mend_in_a_round(store, "views", "fourth", rows=(2,))
    assert verify(store, full=True) == []


def test_a_publisher_that_stalled_undoes_nothing(store: Store) -> None:
    """One that read the first sidecar and wakes up after the replacement only adds what is missing."""
    late = ViewsStore.open(store)
    first = late.snapshot.current_tail(1)
    mend_in_a_round(store, "views")
    late.snapshot.current_tail = lambda shard: first  # type: ignore[method-assign]
    late.publish(1)
    assert verify(store, full=True) == []


def test_a_shard_of_sidecars_alone_is_replaced_too(tmp_path: Path) -> None:
    store = Store(tmp_path / "root")
    planes = PlanesStore.create_or_open(store, make_plan(store), fit_header(f_mic=0))
    builder = planes.builder(1, "first")
    for row in planes.shard_rows(1):
        builder.fail(row, Failure("no_views", "not rendered"))
    builder.commit()
    with Lease(store, "test") as lease:
        current = open_round(planes, lease.token, [1])
        old = read_shard(planes, 1)
        again = planes.builder(1, "second")
        again.keep_all(old)
        again.reopen(3)
        again.add(3, object_fit(3, 0))
        replace_shard(planes, old, again, current)
        finish_round(planes, lease.token)
    np.testing.assert_array_equal(planes.read(3).coefficients, object_fit(3, 0).coefficients)
    assert planes.status().tolist() == [0, 0, 0, Status.OK, Status.FAILED]
    assert planes.derived("class").tolist() == [-1, -1, -1, 0, 1]


def test_objects_that_end_as_before_need_no_new_file(store: Store) -> None:
    views = ViewsStore.open(store)

    def fail_again(kind: str, reason: str) -> int:
        with Lease(store, "test") as lease:
            current = open_round(views, lease.token, [1])
            builder = views.builder(1, f"again-{kind}")

            def work(rows: list[int]) -> dict[str, Any]:
                for row in rows:
                    builder.fail(row, Failure(kind, reason, "another tail"))
                return {}

            assert redo_objects(views, builder, current, lambda r: r.failure is not None, work) == [
                FAILED_ROW
            ]
            finish_round(views, lease.token)
        return views.sidecar(1).generation

    assert fail_again("no_faces", "mesh has no faces") == 0
    assert store.list("quarantine") == []
    assert fail_again("timeout", "not finished after 600 s") == 2
    assert views.failures()[0][2].kind == "timeout"


def test_a_task_whose_answer_was_lost_does_nothing_again(store: Store) -> None:
    views = ViewsStore.open(store)
    with Lease(store, "test") as lease:
        current = open_round(views, lease.token, [1])
        mend(views, "second", current)
        again = redo_objects(views, views.builder(1, "third"), current, lambda r: True, lambda rows: {}[0])
        assert again is None
        finish_round(views, lease.token)
    assert views.sidecar(1).attempt == "second"


def _replace_and_die(root: Path, fatal_call: int, calls: Any) -> None:
    """Do a whole round, and be killed at system call number `fatal_call` (half-way through a write)."""
    store = Store(root)
    counted = die_at(fatal_call, ("open", "write", "link", "close", "replace", "unlink"))
    mend_in_a_round(store, "views", "doomed")
    calls.value = counted()


def test_killed_at_any_moment_the_same_again_finishes_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_storage.test_replacement", "numcodecs.zstd"])
    full_dataset(tmp_path / "original")

    def run(name: str, fatal_call: int) -> tuple[int | None, int]:
        shutil.copytree(tmp_path / "original", tmp_path / name)
        calls = context.Value("i", 0)
        child = context.Process(target=_replace_and_die, args=(tmp_path / name, fatal_call, calls))
        child.start()
        child.join(60)
        return child.exitcode, calls.value

    code, n_calls = run("reference", -1)
    assert code == 0 and n_calls > 60
    states = set()
    for fatal_call in range(1, n_calls + 1, 3):
        code, _ = run(f"at-{fatal_call}", fatal_call)
        assert code == -signal.SIGKILL
        store = Store(tmp_path / f"at-{fatal_call}")
        views = ViewsStore.open(store)
        ok = int((views.status() == Status.OK).sum())  # never raises, never a mixture
        assert (views.record(FAILED_ROW).status == Status.OK) == (ok == 5)
        for row in (0, 1, 2, 4):
            assert same_views(views.read(row), object_views(row))
        journal = read_journal(store, "views.zarr")
        states.add((ok, journal.generation, bool(journal.open)))
        mend_in_a_round(store, "views", "retry")
        assert verify(store, full=True) == [], f"killed at call {fatal_call}"
        assert same_views(ViewsStore.open(store).read(FAILED_ROW), object_views(NEW + FAILED_ROW))
        assert read_journal(store, "views.zarr").open == frozenset()
        assert not [name for name in files_below(tmp_path / f"at-{fatal_call}") if ".tmp" in name]
        shutil.rmtree(tmp_path / f"at-{fatal_call}")
    assert {(4, 0, False), (4, 1, True), (5, 1, True), (5, 1, False)} <= states, states


def test_an_interrupted_round_is_named_by_verify(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    views = ViewsStore.open(store)
    monkeypatch.setattr(ShardedStore, "publish", lambda *args, **kwargs: None)
    with Lease(store, "test") as lease:
        mend(views, "second", open_round(views, lease.token, [1]))
    monkeypatch.undo()
    (problem,) = verify(store, full=False)
    assert "fpipe retry must finish it" in problem.message
    with Lease(store, "test") as lease:
        finish_round(views, lease.token)
    assert verify(store, full=True) == []
