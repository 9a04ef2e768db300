"""Appending objects: rows and files that are there stay, new ones come, whatever happens in between."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from storage import append as append_module
from storage.append import Appended, append_objects, first_free_row
from storage.documents import dump_document, parse_document
from storage.errors import (
    IntegrityError,
    ObjectUnavailableError,
    StaleSnapshotError,
    StoreMismatchError,
    UsageError,
)
from storage.plan import read_plan
from storage.planes import PlanesStore
from storage.reader import open_planes
from storage.records import PlanRow, Status
from storage.store import Store
from storage.verify import verify
from storage.views import ViewsStore

from .builders import (
    N_OBJECTS,
    files_below,
    fit_header,
    full_dataset,
    make_plan,
    object_fit,
    object_views,
    plan_rows,
    same_views,
    write_shared,
)
from .fatal_calls import die_at

BOATS = [PlanRow(0, f"boat-{i}", "boat", "folder", f"{i}.obj", f"print{i}") for i in range(3)]
SOURCE = {"kind": "folder", "path": "/boats"}
FIRST = 6  # rows 0 to 4 end in shards of 2 views and of 3 fits, both of which reach to row 5


def append(store: Store, objects: Sequence[PlanRow] = BOATS) -> Appended:
    return append_objects(store, objects, SOURCE)


def finish(store: Store, attempt: str = "new") -> None:
    """Renders and fits what is left."""
    views = ViewsStore.create_or_open(store, read_plan(store))
    for shard in views.shards_left():
        builder = views.builder(shard, f"{attempt}{shard}")
        for row in views.object_rows(shard):
            builder.add(row, object_views(row))
        builder.commit()
    plan = read_plan(store)
    planes = PlanesStore.create_or_open(store, plan, fit_header(n_objects=plan.n_rows))
    for shard in planes.shards_left():
        with planes.builder(shard, f"{attempt}{shard}") as fits:
            for row in planes.object_rows(shard):
                fits.add(row, object_fit(row))
            fits.commit()


def hashes(root: Path) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files_below(root).items()}


def test_new_objects_get_rows_and_nothing_that_was_there_changes(tmp_path: Path) -> None:
    store = full_dataset(tmp_path)
    before = hashes(tmp_path)
    done = append(store)
    assert (done.rows, done.n_known) == (range(FIRST, FIRST + 3), 0)
    finish(store)
    after = hashes(tmp_path)
    changed = {name for name, digest in before.items() if after[name] != digest}
    assert {name.rpartition("/")[2] for name in changed} == {"zarr.json"}
    assert verify(store, full=True) == []

    plan = read_plan(store)
    assert list(plan.rows)[:N_OBJECTS] == plan_rows() and (plan.n_rows, plan.n_objects) == (9, 8)
    assert [row.row for row in plan.rows] == [0, 1, 2, 3, 4, 6, 7, 8]
    assert plan.classes == ("car", "sofa", "boat"), "class numbers that are stored keep their meaning"
    assert plan.row_of("boat-2") == 8 and plan.source_of(8) == SOURCE and plan.source_of(4) == {}
    views = ViewsStore.open(store)
    assert {views.sidecar(shard).config_hash for shard in views.shards()} == {plan.plan_hash}
    dataset = open_planes(tmp_path)
    assert dataset.ids == tuple(row.object_id for row in plan.rows if row.row != 3)  # which failed
    assert dataset["boat-1"].class_name == "boat"
    assert np.array_equal(dataset["boat-1"].coefficients(), object_fit(7).coefficients)
    assert same_views(dataset.views.read(8), object_views(8))
    with pytest.raises(IndexError, match="row 5 holds no object"):
        plan.rows[5]
    with pytest.raises(ObjectUnavailableError, match="row 5 holds no object"):
        dataset.planes_store.read(5)


def test_plain_zarr_reads_old_and_new_rows(tmp_path: Path) -> None:
    store = full_dataset(tmp_path)
    append(store)
    finish(store)
    group = zarr.open_group(str(tmp_path / "fits/main/planes.zarr"), mode="r")
    coefficients: Any = group["coefficients"]
    micro: Any = group["micro"]
    assert coefficients.shape[0] == micro.shape[0] == 9
    assert np.array_equal(micro[8], object_fit(8).micro)
    assert np.isnan(micro[5]).all() and np.isnan(coefficients[5]).all()
    status: Any = group["status"]
    assert status[:].tolist() == [1, 1, 1, 2, 1, 0, 1, 1, 1]
    classes: Any = zarr.open_group(str(tmp_path / "views.zarr"), mode="r")["class"]
    assert classes[:].tolist() == [1, 0, 1, 0, 1, -1, 2, 2, 2]
    assert classes.attrs["classes"] == ["car", "sofa", "boat"]


def test_a_reader_sees_its_snapshot_until_it_refreshes(tmp_path: Path) -> None:
    store = full_dataset(tmp_path)
    dataset, views = open_planes(tmp_path), ViewsStore.open(store)
    append(store)
    finish(store)
    assert len(dataset) == 4 and len(dataset.status) == N_OBJECTS
    assert views.done() == {0, 1, 2} and len(views.status()) == N_OBJECTS
    assert np.array_equal(dataset[0].micro(), object_fit(0).micro)
    with pytest.raises(KeyError):
        dataset["boat-0"]
    dataset.refresh()
    views.refresh()
    assert len(dataset) == 7 and dataset["boat-0"].row == FIRST
    assert views.done() == {0, 1, 2, 3, 4} and (views.status() == Status.OK).sum() == 7


def test_what_is_there_is_left_out_and_what_differs_is_refused_by_name(tmp_path: Path) -> None:
    store = full_dataset(tmp_path)
    moved = [replace(row, location="/elsewhere") for row in plan_rows()]
    assert append(store, [*moved, *BOATS[:1]]).n_known == N_OBJECTS
    before = files_below(tmp_path)
    again = append(store, [*moved, *BOATS[:1]])
    assert (again.n_known, len(again.rows)) == (N_OBJECTS + 1, 0)
    with pytest.raises(StoreMismatchError, match=r"other objects of the same name: boat-0: .*Nothing was"):
        append(store, [replace(BOATS[0], fingerprint="edited"), BOATS[1]])
    with pytest.raises(UsageError, match="boat-1 appears twice"):
        append(store, [BOATS[1], BOATS[1]])
    assert files_below(tmp_path) == before


def test_every_append_starts_beyond_all_shards(tmp_path: Path) -> None:
    """A second fit has large shards: some small shards of the views then hold no object, and are not left."""
    store = full_dataset(tmp_path)
    plan = read_plan(store)
    PlanesStore.create_or_open(store, plan, fit_header(name="wide", objects_per_shard=12))
    assert first_free_row(plan, [2, 3, 12]) == 12
    assert append(store, BOATS[:1]).rows == range(12, 13)
    assert append(store, BOATS[1:]).rows == range(24, 26)
    finish(store)
    views = ViewsStore.open(store)
    assert views.shards() == [0, 1, 2, 6, 12] and views.shards_left() == [] and views.n_shards == 13
    assert views.with_objects(range(13)) == views.shards()
    assert views.shard_rows(2) == range(4, 5) and views.shard_rows(3) == range(6, 6)
    assert verify(store, full=True) == []
    wide = PlanesStore.open(store, "wide")
    assert wide.shards() == [0, 1, 2] and wide.object_rows(1) == [12]


def test_a_fit_begun_later_has_shards_with_rows_that_hold_no_object(tmp_path: Path) -> None:
    store = full_dataset(tmp_path)
    plan = append(store).plan
    finish(store)
    later = PlanesStore.create_or_open(
        store, plan, fit_header(name="later", n_objects=plan.n_rows, objects_per_shard=4)
    )
    with later.builder(1, "a") as builder:
        assert builder.missing_rows == [4, 6, 7]
        for row in later.object_rows(1):
            builder.add(row, object_fit(row))
        builder.commit()
    assert later.status().tolist() == [0, 0, 0, 0, 1, 0, 1, 1, 0]
    assert np.array_equal(later.read(7).micro, object_fit(7).micro)
    assert verify(store, full=True) == []


def test_a_fit_begun_at_that_moment_stays_as_it_is(tmp_path: Path) -> None:
    """Its last shard would hold old and new objects; the append did not know of it."""
    store = full_dataset(tmp_path)
    old = read_plan(store)
    append(store)
    header = fit_header(name="wide", objects_per_shard=12)
    begun = PlanesStore.create_or_open(store, old, header)
    with begun.builder(0, "a") as builder:
        for row in begun.object_rows(0):
            builder.add(row, object_fit(row))
        builder.commit()
    found = PlanesStore.open(store, "wide")
    assert found.spec.n_objects == N_OBJECTS and np.array_equal(found.read(4).micro, object_fit(4).micro)
    dataset = open_planes(tmp_path, "wide")
    assert "sofa-00004" in dataset and "boat-0" not in dataset
    assert dataset.status.tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 0]
    with pytest.raises(ObjectUnavailableError, match="boat-0"):
        dataset["boat-0"]
    with pytest.raises(StoreMismatchError, match="no place for objects from row 5 on"):
        PlanesStore.create_or_open(store, read_plan(store), header.model_copy(update={"n_objects": 9}))
    # the other way round: who does not know of the append must not write into a fit that does
    PlanesStore.create_or_open(store, read_plan(store), fit_header(name="new", n_objects=9))
    with pytest.raises(StaleSnapshotError, match="appended just now"):
        PlanesStore.create_or_open(store, old, fit_header(name="new"))


def test_of_two_appends_at_once_one_wins_and_the_other_is_told(tmp_path: Path) -> None:
    store = full_dataset(tmp_path)
    plan = read_plan(store)  # both begin with it
    append_objects(store, BOATS[:1], SOURCE, plan)
    with pytest.raises(StoreMismatchError, match=r"somebody else appended .* run the same command again"):
        append_objects(store, BOATS[1:], SOURCE, plan)
    assert read_plan(store).n_objects == N_OBJECTS + 1 and verify(store, full=True) == []
    assert append(store).n_known == 1
    assert read_plan(store).n_objects == N_OBJECTS + 3


def _race(root: Path, number: int, barrier: Any, results: Any) -> None:
    store = Store(root)
    plan = read_plan(store)
    mine = [replace(row, object_id=f"{row.object_id}-{number}") for row in BOATS]
    barrier.wait()
    try:
        results.put((number, len(append_objects(store, mine, SOURCE, plan).rows)))
    except StoreMismatchError:
        results.put((number, 0))


def test_many_appends_at_once(tmp_path: Path) -> None:
    full_dataset(tmp_path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_storage.test_append"])
    barrier, results = context.Barrier(4), context.Queue()
    writers = [context.Process(target=_race, args=(tmp_path, n, barrier, results)) for n in range(4)]
    for writer in writers:
        writer.start()
    added = dict(results.get(timeout=60) for _ in writers)
    for writer in writers:
        writer.join(60)
    assert sorted(added.values()) == [0, 0, 0, 3]
    (winner,) = (number for number, n in added.items() if n)
    plan = read_plan(Store(tmp_path))
    assert [row.object_id for row in plan.rows][N_OBJECTS:] == [f"boat-{i}-{winner}" for i in range(3)]
    assert verify(Store(tmp_path), full=True) == []


def test_an_answer_that_was_lost_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may answer "exists" to the retry of a request that had succeeded."""
    store = full_dataset(tmp_path)
    create = Store.create

    def answer_lost(self: Store, key: str, data: bytes) -> bool:
        return create(self, key, data) and "appended" not in key

    monkeypatch.setattr(Store, "create", answer_lost)
    assert append(store).rows == range(FIRST, FIRST + 3)


def content(root: Path) -> dict[str, bytes]:
    """All files, but for the document that says when."""
    return {name: data for name, data in files_below(root).items() if "appended" not in name}


def _append_and_die(root: Path, fatal_call: int, calls: Any) -> None:
    counted = die_at(fatal_call, ("link", "replace"))
    append(Store(root))
    calls.value = counted()


def test_killed_before_any_write_it_is_sound_and_the_same_call_completes_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_storage.test_append"])

    def run(root: Path, fatal_call: int) -> tuple[int | None, int]:
        calls = context.Value("i", 0)
        child = context.Process(target=_append_and_die, args=(root, fatal_call, calls))
        child.start()
        child.join(60)
        return child.exitcode, calls.value

    full_dataset(tmp_path / "before")
    shutil.copytree(tmp_path / "before", tmp_path / "whole")
    code, n_calls = run(tmp_path / "whole", 0)
    assert code == 0 and n_calls >= 10, "segment, document, and metadata of two groups with their arrays"
    expected = content(tmp_path / "whole")
    for fatal_call in range(1, n_calls + 1):
        root = tmp_path / f"killed-{fatal_call}"
        shutil.copytree(tmp_path / "before", root)
        assert run(root, fatal_call)[0] == -9
        store = Store(root)
        n_objects = read_plan(store).n_objects
        assert n_objects in (N_OBJECTS, N_OBJECTS + 3)
        assert {problem.mend for problem in verify(store, full=True)} <= {"rebuild"}
        assert len(open_planes(root)) == 4
        done = append(store)
        assert done.n_known == (3 if n_objects > N_OBJECTS else 0)
        store.sweep()
        assert content(root) == expected
        assert verify(store, full=True) == []


def test_arrays_that_an_interrupted_append_left_short_are_grown_by_the_next_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = full_dataset(tmp_path)
    monkeypatch.setattr(append_module, "grow_arrays", lambda store, plan: None)
    append(store)
    (views, planes) = verify(store, full=False)
    assert "has 5 rows, but the plan has 9: an append was interrupted" in views.message
    assert (views.mend, views.key, planes.key) == (
        "rebuild",
        "views.zarr/zarr.json",
        "fits/main/planes.zarr/zarr.json",
    )
    finish(store)
    assert verify(store, full=True) == []
    assert json.loads(store.read("views.zarr/images/zarr.json"))["shape"][0] == 9


def test_a_damaged_or_foreign_append_is_found(tmp_path: Path) -> None:
    store = full_dataset(tmp_path / "one")
    append(store, BOATS[:1])
    append(store, BOATS[1:])
    (key, second) = ("plan/appended/000001.json", "plan/appended/000002.json")
    sound = store.read(key)
    store.replace(key, sound[:50] + bytes([sound[50] ^ 1]) + sound[51:])
    assert [problem.key for problem in verify(store, full=False)] == [key]
    foreign = {**parse_document(sound, key), "before": "0" * 64}
    store.replace(key, dump_document(foreign))
    with pytest.raises(IntegrityError, match="was not appended to the plan that is here"):
        read_plan(store)
    store.replace(key, sound)
    (tmp_path / "one" / key).rename(tmp_path / "away")
    with pytest.raises(IntegrityError, match="an append between two others is missing"):
        read_plan(store)
    assert store.exists(second)


def test_appending_before_anything_is_rendered(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make_plan(store)
    write_shared(store)
    assert append(store).rows == range(FIRST, FIRST + 3)
    finish(store)
    assert ViewsStore.open(store).done() == {0, 1, 2, 3, 4} and verify(store, full=True) == []


def test_many_ids_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With hashes that collide, odd names, and segments that do not stay in memory."""
    from storage import plan_rows as module

    monkeypatch.setattr(module, "SEGMENT_ROWS", 4)
    monkeypatch.setattr(module, "CACHED_SEGMENTS", 1)
    monkeypatch.setattr(module, "_id_hash", lambda data: len(data) % 3)
    store = full_dataset(tmp_path)
    names = ['a"b', "back\\slash", "tab\there", "üñí", '"object_id":"x"', "line sep", "plain", "{}"]
    odd = [replace(BOATS[0], object_id=name, location=f'"object_id":"{name}"') for name in names]
    plan = append(store, odd).plan
    rows = [*range(5), *range(6, 14)]
    assert [plan.row_of(row.object_id) for row in plan.rows] == rows
    assert plan.rows.object_ids(rows) == [row.object_id for row in plan.rows]
    assert plan.rows.object_ids([1, 7, 13]) == ["car-00001", "back\\slash", "{}"]
    for unknown in ("x", "", 'a\\"b'):
        with pytest.raises(KeyError):
            plan.row_of(unknown)
