from __future__ import annotations

from pathlib import Path

from pipeline.status import dataset_status
from storage.plan import read_plan
from storage.planes import PlanesStore
from tests.test_storage.builders import fit_header, full_dataset, object_fit
from tests.test_storage.test_append import append


def test_rows_that_hold_no_object_are_none_that_is_left(tmp_path: Path) -> None:
    """A fit begun after an append has such a row, 5, in the middle of a shard: rows 4 to 7."""
    store = full_dataset(tmp_path)
    append(store)
    plan = read_plan(store)
    header = fit_header(name="later", n_objects=plan.n_rows, objects_per_shard=4)
    planes = PlanesStore.create_or_open(store, plan, header)
    with planes.builder(0, "a") as builder:
        for row in planes.object_rows(0):
            builder.add(row, object_fit(row))
        builder.commit()
    later = dataset_status(store)["fits"]["later"]
    assert (later["left"], later["objects"], later["objects_done"]) == ([1, 2], 8, 4)
