"""Lists of failures and warnings, and the commands that status proposes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cli.failure_tables import failures_text, warnings_text
from cli.status_text import status_text
from pipeline.failures import dataset_failures, dataset_warnings
from pipeline.status import dataset_status
from storage.errors import UsageError
from storage.lease import Lease
from storage.plan import PlanHeader, write_plan
from storage.planes import PlanesStore
from storage.records import Failure, PlanRow
from storage.replacement import finish_round, open_round, redo_objects
from storage.store import Store
from storage.views import ViewsStore
from tests.test_pipeline.small_dataset import N_VIEWS, SIZE_PX, object_views, write_small_dataset

TEXTURE = "texture wood-{}.png of material oak is missing: material colour used"
KINDS = ("timeout", "crash", "timeout", "no_faces")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """200 objects in shards of 7; three of four have failed."""
    store = Store(tmp_path)
    rows = [PlanRow(row, f"car-{row:03d}", "car", "test", "", f"f{row}") for row in range(200)]
    header = PlanHeader(
        n_objects=200, n_views=N_VIEWS, height=SIZE_PX, width=SIZE_PX, objects_per_views_shard=7
    )
    views = ViewsStore.create_or_open(store, write_plan(store, header, rows))
    good = object_views(0)
    for shard in range(views.n_shards):
        builder = views.builder(shard, f"a{shard}")
        for row in views.shard_rows(shard):
            if row % 4 == 3:
                warnings = [TEXTURE.format(row), f"{row} of 500 views are empty"] if row < 100 else []
                builder.add(row, good, {"warnings": warnings})
            else:
                failure = Failure(KINDS[row % 4], "why", "stderr\nlast line", f"fpipe repro x car-{row:03d}")
                builder.fail(row, failure)
        builder.commit()
    return store


def test_counts_are_complete_and_the_list_is_not(store: Store) -> None:
    found = dataset_failures(store, limit=5)["stages"]["render"]
    assert found["failed"] == 150
    assert found["kinds"] == {"timeout": 100, "crash": 50}
    assert [failed["object_id"] for failed in found["objects"]] == [
        "car-000", "car-001", "car-002", "car-004", "car-005",
    ]  # fmt: skip
    assert found["objects"][1] == {
        "row": 1,
        "object_id": "car-001",
        "class_name": "car",
        "kind": "crash",
        "reason": "why",
        "detail": "stderr\nlast line",
        "repro": "fpipe repro x car-001",
    }
    chosen = dataset_failures(store, kinds=["crash"])["stages"]["render"]
    assert (chosen["failed"], len(chosen["objects"])) == (50, 50)


def test_failures_as_text(store: Store) -> None:
    found = dataset_failures(store, limit=2)
    text = failures_text(found, detail=False)
    assert text.splitlines()[0] == "render: 150 failed"
    assert "timeout      100" in text
    assert "car-000 (car): timeout: why\n    fpipe repro x car-000" in text
    assert "… and 148 more; --limit 0 lists all" in text
    assert "last line" not in text
    assert "    | stderr\n    | last line" in failures_text(found, detail=True)


def test_warnings_of_rendered_objects(store: Store) -> None:
    found = dataset_warnings(store, limit=3)
    assert found["warned"] == 25
    assert found["kinds"] == {
        "texture … of material oak is missing: material colour used": 25,
        "… of 500 views are empty": 25,
    }
    assert [entry["object_id"] for entry in found["objects"]] == ["car-003", "car-007", "car-011"]
    text = warnings_text(found)
    assert f"car-003 (car): {TEXTURE.format(3)}; 3 of 500 views are empty" in text
    assert "and 22 more" in text


def test_both_stages_are_listed_or_one(tmp_path: Path) -> None:
    store = write_small_dataset(tmp_path)
    found = dataset_failures(store)["stages"]
    assert {name: stage["kinds"] for name, stage in found.items()} == {
        "render": {"no_faces": 1},
        "fit base": {"no_views": 1, "fit_diverged": 1},
    }
    assert dataset_failures(store, "fit").keys() == {"root", "stages"}
    assert list(dataset_failures(store, "fit")["stages"]) == ["fit base"]
    assert list(dataset_failures(store, "render")["stages"]) == ["render"]
    with pytest.raises(UsageError, match="no fit 'nope'"):
        dataset_failures(store, "fit", "nope")
    with pytest.raises(UsageError, match="--stage fit"):
        dataset_failures(store, "render", "base")


def test_status_names_some_and_counts_all(store: Store) -> None:
    found = dataset_status(store)
    assert found["stages"]["render"]["failure_kinds"] == {"timeout": 100, "crash": 50}
    text = status_text(found)
    assert text.count("timeout: why") + text.count("crash: why") == 10
    assert f"all failures: fpipe failures {store.url}" in text


def test_status_proposes_to_fit_what_has_views_now(tmp_path: Path) -> None:
    store = write_small_dataset(tmp_path)
    (tmp_path / "shared" / "published.json").write_text('{"shared_version": "0123456789abcdef"}')
    assert dataset_status(store)["next"] == f"fpipe report {store.url}"
    planes = PlanesStore.open(store, "base")
    assert planes.failures()[0][2].kind == "no_views"
    mend_views(store, 2)
    assert dataset_status(store)["next"] == f"fpipe retry {store.url} --stage fit --name base"


def test_status_tells_of_retries_that_run_or_were_killed(tmp_path: Path) -> None:
    store = write_small_dataset(tmp_path)
    planes = PlanesStore.open(store, "base")
    with Lease(store, "fpipe retry /data") as lease:
        open_round(planes, lease.token, [0])
        found = dataset_status(store)
        assert "`fpipe retry /data` (process" in found["changed_by"]
        assert "being changed by `fpipe retry /data`" in status_text(found)
        assert found["next"] == f"fpipe train-shared {store.url}"
    killed = dataset_status(store)
    assert killed["changed_by"] is None
    assert killed["next"] == f"fpipe retry {store.url} --stage fit --name base"
    with Lease(store, "again") as lease:
        finish_round(planes, lease.token)
    assert dataset_status(store)["next"] == f"fpipe train-shared {store.url}"


def mend_views(store: Store, row: int) -> None:
    """Give a row views, as a retry does."""
    views = ViewsStore.open(store)
    shard = views.shard_of(row)
    with Lease(store, "test") as lease, views.builder(shard, "mended") as builder:
        current = open_round(views, lease.token, [shard])

        def work(rows: list[int]) -> dict[str, int]:
            builder.add(row, object_views(row))
            return {"objects": len(rows)}

        assert redo_objects(views, builder, current, lambda record: record.row == row, work) == [row]
        finish_round(views, lease.token)
    np.testing.assert_array_equal(views.read(row).images, object_views(row).images)
