from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import IntegrityError, ObjectUnavailableError, UsageError
from storage.records import Status
from storage.store import Store
from storage.views import ViewsStore

from .builders import FAILED_ROW, N_OBJECTS, NO_FACES, fill_views, make_plan, object_views, same_views


@pytest.fixture
def views(tmp_path: Path) -> ViewsStore:
    store = Store(tmp_path)
    fill_views(ViewsStore.create_or_open(store, make_plan(store)))
    return ViewsStore.open(store)


def test_views_round_trip(views: ViewsStore) -> None:
    for row in set(range(N_OBJECTS)) - {FAILED_ROW}:
        read = views.read(row)
        assert same_views(read, object_views(row))
        assert read.images.flags.writeable and read.cam2world.flags.writeable
    assert views.n_shards == 3 and views.done() == {0, 1, 2} and views.shard_rows(2) == range(4, 5)


@settings(max_examples=15, deadline=None)
@given(
    v=st.integers(1, 9),
    depth=st.integers(1, 10),
    per_shard=st.integers(1, 4),
    n=st.integers(1, 5),
    size=st.integers(1, 4),
)
def test_any_shape_round_trips_and_reads_the_same_with_plain_zarr(
    tmp_path_factory: pytest.TempPathFactory, v: int, depth: int, per_shard: int, n: int, size: int
) -> None:
    root = tmp_path_factory.mktemp("shape")
    store = Store(root)
    form = {"n_views": v, "views_per_chunk": depth, "objects_per_views_shard": per_shard}
    views = ViewsStore.create_or_open(store, make_plan(store, n_objects=n, height=size, width=size, **form))
    for shard in range(views.n_shards):
        builder = views.builder(shard, "a")
        for row in views.shard_rows(shard):
            builder.add(row, object_views(row, v, size))
        builder.commit()
    images = zarr.open_group(root / "views.zarr", mode="r")["images"][:]
    for row in range(n):
        assert same_views(views.read(row), object_views(row, v, size))
        assert np.array_equal(images[row], object_views(row, v, size).images)


def test_plain_zarr_reads_the_same_arrays(views: ViewsStore) -> None:
    group = zarr.open_group(f"{views.store.url}/views.zarr", mode="r")
    for name in ("images", "cam2world", "intrinsics", "heldout", "mesh_to_world", "has_alpha"):
        stored = group[name][:]
        for row in set(range(N_OBJECTS)) - {FAILED_ROW}:
            assert np.array_equal(stored[row], getattr(object_views(row), name))
    assert group["status"][:].tolist() == [1, 1, 1, 2, 1] == views.status().tolist()
    names = group["class"].attrs["classes"]
    assert [names[number] for number in group["class"][:]] == ["sofa", "car", "sofa", "car", "sofa"]
    assert (group["images"][FAILED_ROW] == 0).all()
    assert np.isnan(group["cam2world"][FAILED_ROW]).all()
    assert not group["heldout"][FAILED_ROW].any()


def test_plain_zarr_reads_fill_values_where_no_shard_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    views = ViewsStore.create_or_open(store, make_plan(store))
    builder = views.builder(2, "a")
    builder.add(4, object_views(4))
    builder.commit()
    group = zarr.open_group(tmp_path / "views.zarr", mode="r")
    assert group["status"][:].tolist() == [0, 0, 0, 0, 1]
    assert np.array_equal(group["images"][4], object_views(4).images)
    assert (group["images"][:4] == 0).all() and np.isnan(group["mesh_to_world"][:4]).all()


@pytest.mark.parametrize("which", [slice(0, 2), slice(None), [5, 0], [3], [], np.array([True] * 5 + [False])])
def test_part_of_the_views(views: ViewsStore, which: object) -> None:
    truth, part = object_views(0), views.read_views(0, which)  # type: ignore[arg-type]
    numbers = np.arange(6)[which]  # type: ignore[index]
    expected = replace(
        truth,
        images=truth.images[numbers],
        cam2world=truth.cam2world[numbers],
        intrinsics=truth.intrinsics[numbers],
        heldout=truth.heldout[numbers],
    )
    assert same_views(part, expected)


def test_failed_and_absent_objects_raise(views: ViewsStore, tmp_path: Path) -> None:
    with pytest.raises(ObjectUnavailableError, match=r"car-00003.*failed: mesh has no faces") as caught:
        views.read(FAILED_ROW)
    assert caught.value.object_id == "car-00003" and caught.value.reason == NO_FACES.reason
    assert caught.value.status == Status.FAILED
    store = Store(tmp_path / "empty")
    empty = ViewsStore.create_or_open(store, make_plan(store))
    with pytest.raises(ObjectUnavailableError, match="shard 0 of views is not done"):
        empty.read(1)
    with pytest.raises(IndexError):
        views.read(N_OBJECTS)


def test_failures_and_info(views: ViewsStore) -> None:
    assert views.failures() == [(FAILED_ROW, "car-00003", NO_FACES)]
    assert views.shard_info(1) == {"sofa-00002": {"seconds": 1.5}, "car-00003": {"seconds": 0.5}}
    assert views.sidecar(1).info == {"host": "here"} and views.sidecar(1).attempt == "a1"


def test_flipped_byte_names_key_and_object(views: ViewsStore) -> None:
    key = views.spec.shard_key(0)
    path = views.store.local_path(key)
    assert path is not None
    data = bytearray(path.read_bytes())
    second = views.tail(0).index[views.spec.chunks_per_object]
    data[int(second[0]) + 5] ^= 4
    path.write_bytes(data)
    assert same_views(views.read(0), object_views(0))
    with pytest.raises(IntegrityError, match=f"{key}.*car-00001") as caught:
        views.read(1)
    assert caught.value.key == key and caught.value.object_id == "car-00001"


def test_swapped_chunks_are_found(views: ViewsStore) -> None:
    """Two whole chunks with valid checksums in each other's place."""
    key = views.spec.shard_key(0)
    path = views.store.local_path(key)
    assert path is not None
    data, index = bytearray(path.read_bytes()), views.tail(0).index.astype(int)
    pairs = [(a, b) for a in range(4) for b in range(a) if index[a, 1] == index[b, 1]]
    (a_start, size), (b_start, _) = (index[i].tolist() for i in pairs[0])
    data[a_start : a_start + size], data[b_start : b_start + size] = (
        data[b_start : b_start + size],
        data[a_start : a_start + size],
    )
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="not the one that the sidecar lists"):
        for row in (0, 1):
            views.read(row)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"images": np.zeros((6, 8, 8, 3), np.uint8)}, r"images: uint8 \(6, 8, 8, 3\)"),
        ({"images": np.zeros((6, 8, 8, 4), np.float32)}, "images: float32"),
        ({"cam2world": np.zeros((6, 4, 4))}, "cam2world: float64"),
        ({"intrinsics": np.full((6, 3, 3), np.nan, np.float32)}, "intrinsics: not finite"),
        ({"heldout": np.zeros(5, bool)}, "heldout"),
    ],
)
def test_wrong_shapes_are_refused(views: ViewsStore, change: dict[str, object], text: str) -> None:
    builder = views.builder(0, "b")
    with pytest.raises(ValueError, match=text):
        builder.add(0, replace(object_views(0), **change))  # type: ignore[arg-type]
    assert builder.missing_rows == [0, 1]


def test_opening_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(UsageError, match="no dataset"):
        ViewsStore.open(store)
    make_plan(store)
    with pytest.raises(UsageError, match="has no views yet"):
        ViewsStore.open(store)
