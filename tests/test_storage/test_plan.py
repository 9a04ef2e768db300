from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import plan_rows as plan_rows_module
from storage.documents import dump_document, parse_document
from storage.errors import IntegrityError, SchemaError, StoreMismatchError, UsageError
from storage.plan import choose_objects_per_shard, read_plan, shard_count, shard_rows, write_plan
from storage.store import Store

from .builders import N_OBJECTS, files_below, make_plan, plan_header, plan_rows

HEADER = "plan/header.json"


def test_plan_round_trip(tmp_path: Path) -> None:
    make_plan(Store(tmp_path))
    plan = read_plan(Store(tmp_path))
    assert plan.header == plan_header()
    assert list(plan.rows) == plan_rows() and plan.rows[1:3] == plan_rows()[1:3]
    assert plan.rows[-1].row == N_OBJECTS - 1
    assert plan.classes == ("car", "sofa")
    assert plan.row_of("car-00003") == 3
    with pytest.raises(KeyError):
        plan.row_of("nothing")
    with pytest.raises(IndexError):
        plan.rows[N_OBJECTS]


def test_many_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_rows_module, "SEGMENT_ROWS", 4)
    store = Store(tmp_path)
    make_plan(store, n_objects=11)
    rows = read_plan(store).rows
    assert rows[9] == plan_rows(11)[9]
    assert list(rows._texts) == [2]  # only the segment of that row was read
    assert list(rows) == plan_rows(11)
    assert len(store.list("plan")) == 4


def test_same_plan_again_returns_the_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make_plan(store, created="monday")
    before = files_below(tmp_path)
    moved = [replace(row, location="/elsewhere") for row in plan_rows()]
    again = write_plan(store, plan_header(created="tuesday", objects_per_views_shard=4), moved)
    assert again.header.objects_per_views_shard == 2 and again.header.created == "monday"
    assert files_below(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"n_views": 7}, r"n_views: 6 \(existing\) -> 7 \(asked for\)"),
        ({"render_config": {"views": 6, "shading": "diffuse"}}, r"render_config\.shading: 'default'"),
        (
            {"render_config": {"views": 6, "shading": "default", "camera": {"radius_world": 2}}},
            "radius_world",
        ),
    ],
)
def test_other_configuration_is_refused_by_name(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    store = Store(tmp_path)
    make_plan(store)
    before = files_below(tmp_path)
    with pytest.raises(StoreMismatchError, match=named):
        make_plan(store, **change)
    assert files_below(tmp_path) == before


def test_other_objects_are_refused_by_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make_plan(store)
    rows = plan_rows()
    rows[2] = replace(rows[2], fingerprint="changed")
    with pytest.raises(StoreMismatchError, match=r"rows\[2\]\.fingerprint: 'hash2' \(existing\)"):
        write_plan(store, plan_header(), rows)
    with pytest.raises(StoreMismatchError, match="n_objects: 5"):
        make_plan(store, n_objects=6)


def test_bad_rows_are_refused(tmp_path: Path) -> None:
    rows = plan_rows()
    for bad, text in (
        (rows[:-1], "4 rows for a plan of 5"),
        ([rows[1], rows[0], *rows[2:]], "has row 1 at position 0"),
        ([*rows[:4], replace(rows[4], object_id=rows[0].object_id)], "appears twice"),
    ):
        with pytest.raises(UsageError, match=text):
            write_plan(Store(tmp_path), plan_header(), bad)
    assert files_below(tmp_path) == {}


def test_missing_damaged_and_foreign_plans(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(UsageError, match=r"no dataset at .*; start with fpipe render"):
        read_plan(store)
    make_plan(store)
    document = parse_document(store.read(HEADER), HEADER)
    store.replace(HEADER, dump_document({**document, "schema_version": "2.0"}))
    with pytest.raises(SchemaError, match=r"2\.0"):
        read_plan(store)
    store.replace(HEADER, dump_document({**document, "schema_version": "1.3", "later": "addition"}))
    segment = tmp_path / document["segments"][0]["key"]
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    with pytest.raises(IntegrityError, match="plan/segment-00000"):
        read_plan(store).rows[0]
    segment.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        read_plan(store).rows[0]


@given(st.integers(1, 500), st.integers(1, 60))
def test_shards_partition_the_rows(n_objects: int, objects_per_shard: int) -> None:
    shards = range(shard_count(n_objects, objects_per_shard))
    rows = [row for shard in shards for row in shard_rows(n_objects, objects_per_shard, shard)]
    assert rows == list(range(n_objects))
    for beyond in (-1, len(shards)):
        with pytest.raises(
            UsageError, match=f"shard {beyond} does not exist: shards are 0..{len(shards) - 1}"
        ):
            shard_rows(n_objects, objects_per_shard, beyond)


@given(st.integers(1, 10**7), st.integers(1, 10**8), st.integers(1, 500))
def test_every_worker_gets_four_shards_below_the_size_limit(n: int, n_bytes: int, workers: int) -> None:
    size = choose_objects_per_shard(n, n_bytes, workers)
    assert size >= 1
    assert size == 1 or size * n_bytes <= 32 * 2**20
    assert shard_count(n, size) >= min(n, 4 * workers)


@pytest.mark.parametrize(
    ("n", "workers", "at_least", "size"),
    [
        (1000, 4, 8, 62),  # 1000 / (4 · 4): a GPU's batch of 8 is in it seven times
        (1000, 256, 8, 8),  # else 1: every GPU would fit one object at a time
        (1000, 256, 1, 1),
        (5, 4, 8, 5),  # no more than there are
        (1000, 4, 400, 166),  # 32 MiB / 202,000 bytes
    ],
)
def test_a_worker_that_does_several_at_once_gets_as_many(
    n: int, workers: int, at_least: int, size: int
) -> None:
    assert choose_objects_per_shard(n, 202_000, workers, at_least=at_least) == size
