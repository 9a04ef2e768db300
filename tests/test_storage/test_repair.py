from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from storage.errors import IntegrityError, LeaseLostError, ObjectUnavailableError
from storage.group import rebuild_metadata
from storage.lease import Lease
from storage.records import Status
from storage.repair import DAMAGED, give_up_damaged, open_group, publish_again
from storage.replacement import finish_round, open_round
from storage.store import Store
from storage.verify import verify

from .builders import FAILED_ROW, files_below, full_dataset, object_fit, object_views, same_views

MICRO = "fits/main/planes.zarr/micro/c.0.0.0.0.0"  # rows 0, 1 and 2
IMAGES = "views.zarr/images/c.1.0.0.0.0"  # rows 2 and 3, of which 3 has failed


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return full_dataset(tmp_path)


def flip(path: Path, position: int) -> bytes:
    """Damage a file; returns the damaged bytes."""
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)
    return bytes(data)


def give_up(store: Store, group_key: str, shard: int) -> list[str]:
    group = open_group(store, group_key)
    with Lease(store, "test") as lease:
        current = open_round(group, lease.token, [shard])
        given_up = give_up_damaged(group, shard, current)
        finish_round(group, lease.token)
    return given_up


def test_derived_files_come_back_as_they_were(store: Store, tmp_path: Path) -> None:
    before = files_below(tmp_path)
    shard_files = {"views.zarr/status/c.1", "views.zarr/cam2world/c.1.0.0.0", "done/views/1"}
    metadata = {"views.zarr/status/zarr.json", "views.zarr/images/zarr.json"}
    for name in shard_files | metadata:
        flip(tmp_path / name, 3)
    (tmp_path / "views.zarr/heldout/c.1.0").unlink()
    views = open_group(store, "views.zarr")
    assert set(rebuild_metadata(store, views.spec)) == metadata
    with Lease(store, "test") as lease:
        publish_again(views, [1], lease.token)
    after = files_below(tmp_path)
    assert after | {"maintenance/lease.json": b""} == before | {"maintenance/lease.json": b""}


def test_metadata_that_cannot_be_made_again_stay(store: Store, tmp_path: Path) -> None:
    views = open_group(store, "views.zarr")
    flip(tmp_path / "views.zarr/zarr.json", -5)
    before = files_below(tmp_path)
    assert rebuild_metadata(store, views.spec) == []
    assert files_below(tmp_path) == before


def test_one_damaged_object_is_given_up_and_its_neighbours_keep_their_data(
    store: Store, tmp_path: Path
) -> None:
    damaged = flip(
        tmp_path / MICRO, 250
    )  # a chunk has 3·2·4²·2 + 4 = 196 bytes, so it is the second object's
    (problem,) = verify(store, full=True)
    assert problem.objects == ("car-00001",) and problem.mend == "redo"
    assert give_up(store, "fits/main/planes.zarr", 0) == ["car-00001"]
    assert verify(store, full=True) == []
    planes = open_group(store, "fits/main/planes.zarr")
    for row in (0, 2):
        np.testing.assert_array_equal(planes.read(row).micro, object_fit(row).micro)
    with pytest.raises(ObjectUnavailableError, match="damaged in fits/main"):
        planes.read(1)
    kept = [data for name, data in files_below(tmp_path).items() if name.startswith(f"quarantine/{MICRO}")]
    assert kept == [damaged]


def test_without_a_sidecar_all_objects_are_given_up(store: Store, tmp_path: Path) -> None:
    damaged = flip(tmp_path / IMAGES, -1)
    assert give_up(store, "views.zarr", 1) == ["sofa-00002", "car-00003"]
    assert verify(store, full=True) == []
    views = open_group(store, "views.zarr")
    assert [views.record(row).failure.kind for row in (2, FAILED_ROW)] == [DAMAGED, DAMAGED]
    assert same_views(views.read(4), object_views(4))
    assert damaged in [data for name, data in files_below(tmp_path).items() if name.startswith("quarantine/")]


@pytest.mark.parametrize("content", [None, b"", b"torn"])
def test_a_missing_or_torn_file_gets_a_successor(store: Store, tmp_path: Path, content: bytes | None) -> None:
    if content is None:
        (tmp_path / IMAGES).unlink()
    else:
        (tmp_path / IMAGES).write_bytes(content)
    give_up(store, "views.zarr", 1)
    assert verify(store, full=True) == []
    assert open_group(store, "views.zarr").status().tolist() == [1, 1, 2, 2, 1]


@pytest.mark.parametrize("content", [None, b"", b"torn"])
def test_a_repair_goes_on_after_one_that_died_with_its_round_open(
    store: Store, tmp_path: Path, content: bytes | None
) -> None:
    if content is None:
        (tmp_path / IMAGES).unlink()
    else:
        (tmp_path / IMAGES).write_bytes(content)
    views = open_group(store, "views.zarr")
    with Lease(store, "died") as lease:
        open_round(views, lease.token, [0, 1])
    assert give_up(store, "views.zarr", 1) == ["sofa-00002", "car-00003"]
    assert verify(store, full=True) == []
    assert same_views(open_group(store, "views.zarr").read(0), object_views(0))


def test_a_file_of_another_shard_is_given_up(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "views.zarr/images"
    (folder / "c.1.0.0.0.0").write_bytes((folder / "c.0.0.0.0.0").read_bytes())
    give_up(store, "views.zarr", 1)
    assert verify(store, full=True) == []


def test_leftover_bytes_cost_no_object(store: Store, tmp_path: Path) -> None:
    """Nothing accounts for them, so the shard is packed again; every object keeps its data."""
    views = open_group(store, "views.zarr")
    place = int(views.tail(1).index[0].sum())
    data = (tmp_path / IMAGES).read_bytes()
    images = int(views.tail(1).index[1].sum())
    assert place < images
    (tmp_path / IMAGES).write_bytes(data[:images] + b"stray" + data[images:])
    assert [problem.mend for problem in verify(store, full=True)] == ["redo"]
    assert give_up(store, "views.zarr", 1) == []
    assert verify(store, full=True) == []
    assert same_views(open_group(store, "views.zarr").read(2), object_views(2))


def test_only_the_holder_of_the_lease_repairs(store: Store, tmp_path: Path) -> None:
    flip(tmp_path / IMAGES, 0)
    views = open_group(store, "views.zarr")
    before = files_below(tmp_path)
    with pytest.raises(LeaseLostError):
        publish_again(views, [0], "nobody's")
    assert files_below(tmp_path) == before
    assert Status.OK in views.status()
    with pytest.raises(IntegrityError):
        views.read(2)
