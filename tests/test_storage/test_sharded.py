"""Publishing, resuming and killing: what holds for views and planes alike."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.errors import IntegrityError, StaleSnapshotError, StoreMismatchError
from storage.plan import read_plan
from storage.records import Status
from storage.store import Store
from storage.views import ViewsStore

from .builders import files_below, fill_views, make_plan, object_views, same_views
from .fatal_calls import die_at


def build(views: ViewsStore, shard: int, attempt: str, offset: int = 0) -> Any:
    builder = views.builder(shard, attempt)
    for row in views.shard_rows(shard):
        builder.add(row, object_views(row + offset))
    return builder


@pytest.fixture
def views(tmp_path: Path) -> ViewsStore:
    store = Store(tmp_path / "root")
    return ViewsStore.create_or_open(store, make_plan(store))


def test_a_shard_without_its_marker_is_only_published(views: ViewsStore) -> None:
    fill_views(views)
    root = views.store.local_path()
    assert root is not None
    complete = files_below(root)
    for name in complete:
        if name == "done/views/1" or (
            name.startswith("views.zarr") and "/c.1" in name and "images" not in name
        ):
            (root / name).unlink()
    assert views.done() == {0, 2}
    assert views.publish_committed(1)
    assert files_below(root) == complete
    (root / views.spec.shard_key(2)).unlink()
    assert not views.publish_committed(2), "there is nothing to publish"


def test_late_writer_loses_and_changes_nothing(views: ViewsStore) -> None:
    assert build(views, 0, "first").commit().won
    root = views.store.local_path()
    assert root is not None
    before = files_below(root)
    commit = build(views, 0, "second", offset=50).commit()
    assert (commit.won, commit.attempt) == (False, "first")
    assert files_below(root) == before
    assert same_views(views.read(0), object_views(0))


def test_committing_the_same_attempt_again_still_wins(views: ViewsStore) -> None:
    builder = build(views, 0, "first")
    assert builder.commit().won and builder.commit().won


def test_builder_wants_one_result_for_every_row_of_its_shard(views: ViewsStore) -> None:
    builder = views.builder(1, "a")
    builder.add(2, object_views(2))
    assert builder.missing_rows == [3]
    with pytest.raises(ValueError, match=r"shard 1: rows without a result: \[3\]"):
        builder.commit()
    with pytest.raises(ValueError, match="row 2 of shard 1 has a result already"):
        builder.add(2, object_views(2))
    with pytest.raises(ValueError, match="row 4 is not in shard 1"):
        builder.leave_absent(4)
    builder.leave_absent(3)
    builder.commit()
    assert views.status().tolist() == [0, 0, Status.OK, Status.ABSENT, 0]
    assert views.derived("class").tolist() == [-1, -1, 1, -1, -1]


def test_shard_file_of_another_dataset_is_refused(views: ViewsStore, tmp_path: Path) -> None:
    store = Store(tmp_path / "other")
    other = ViewsStore.create_or_open(store, make_plan(store, seed=99))
    build(other, 0, "x").commit()
    key = views.spec.shard_key(0)
    views.store.create(key, store.read(key))
    with pytest.raises(IntegrityError, match="from another dataset"):
        views.read(0)


def test_replaced_shard_raises_stale_snapshot_until_refreshed(views: ViewsStore, tmp_path: Path) -> None:
    build(views, 0, "first").commit()
    assert same_views(views.read(1), object_views(1))
    store = Store(tmp_path / "copy")
    other = ViewsStore.create_or_open(store, read_plan(views.store) and make_plan(store))
    build(other, 0, "second", offset=50).commit()
    key = views.spec.shard_key(0)
    views.store.replace(key, store.read(key))
    with pytest.raises(StaleSnapshotError, match="replaced while it was read"):
        views.read(1)
    views.refresh()
    assert same_views(views.read(1), object_views(51))


def test_group_of_another_plan_is_refused(views: ViewsStore, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    plan = make_plan(other, seed=1)
    with pytest.raises(StoreMismatchError, match="config_hash"):
        ViewsStore.create_or_open(views.store, plan)


def _commit_and_die(root: Path, fatal_call: int, calls: Any) -> None:
    """Commit shard 0, and be killed at system call number `fatal_call` (half-way through a write)."""
    views = ViewsStore.open(Store(root))
    builder = build(views, 0, "doomed")
    counted = die_at(fatal_call, ("open", "write", "fsync", "link", "close", "mkdir", "replace"))
    builder.commit()
    calls.value = counted()


def test_kill_at_every_system_call_of_a_commit(tmp_path: Path) -> None:
    """Whatever is found under a final name after a kill is complete, nothing else is there, a retry works."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_storage.test_sharded", "numcodecs.zstd"])

    def run(root: Path, fatal_call: int) -> tuple[int, int]:
        calls = context.Value("i", 0)
        child = context.Process(target=_commit_and_die, args=(root, fatal_call, calls))
        child.start()
        child.join(60)
        assert child.exitcode is not None
        return child.exitcode, calls.value

    empty = Store(tmp_path / "empty")
    ViewsStore.create_or_open(empty, make_plan(empty))

    def fresh(name: str) -> ViewsStore:
        shutil.copytree(tmp_path / "empty", tmp_path / name)
        return ViewsStore.open(Store(tmp_path / name))

    fresh("reference")
    code, n_calls = run(tmp_path / "reference", -1)
    assert code == 0 and n_calls > 40
    reference = files_below(tmp_path / "reference")
    committed = 0
    # Every call up to the commit and a little beyond, then a sample of those that publish.
    for fatal_call in [*range(1, 14), *range(14, n_calls + 1, 5)]:
        root = tmp_path / f"at-{fatal_call}"
        views = fresh(f"at-{fatal_call}")
        code, _ = run(root, fatal_call)
        assert code == -signal.SIGKILL
        for name, data in files_below(root).items():
            assert reference[name] == data, (
                f"killed at call {fatal_call}: {name} is torn or should not be there"
            )
        retry = build(views, 0, "retry").commit()
        committed += retry.attempt == "doomed"
        assert retry.won == (retry.attempt == "retry")
        assert files_below(root).keys() == reference.keys()
        assert same_views(views.read(1), object_views(1)) and views.done() == {0}
    assert 0 < committed < n_calls


def test_store_on_another_kind_of_file_system() -> None:
    store = Store("memory://sharded-test/root")
    views = ViewsStore.create_or_open(store, make_plan(store))
    fill_views(views)
    assert views.done() == {0, 1, 2}
    assert same_views(views.read(4), object_views(4))
    assert np.array_equal(views.status(), [1, 1, 1, 2, 1])
