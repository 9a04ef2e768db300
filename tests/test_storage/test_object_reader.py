"""Batched reads: how many requests, what damage says, and snapshots that a replacement overtakes."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage import object_reader, remote_reads, shard_tables
from storage.errors import IntegrityError, ObjectUnavailableError, StaleSnapshotError
from storage.local_files import LocalFiles
from storage.planes import PlanesStore, publish_fit
from storage.reader import PlanesDataset, open_planes
from storage.store import Store

from .builders import FAILED_ROW, N_OBJECTS, fill_planes, fit_header, full_dataset, make_plan, object_fit
from .test_replacement import mend_in_a_round

SHARD_0 = "fits/main/planes.zarr/micro/c.0.0.0.0.0"


@pytest.fixture(params=["mapped", "unmapped"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset on a disk, and on what counts as a network file system."""
    monkeypatch.setattr("storage.local_files.on_a_disk", lambda folder: request.param == "mapped")
    full_dataset(tmp_path)
    assert (LocalFiles(tmp_path)._mapped is None) == (request.param == "unmapped")
    return tmp_path


def spans_of(dataset: PlanesDataset, monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """What is asked of the remote store from now on, call by call."""
    requests, calls = dataset.planes_store.store._files.requests, []  # type: ignore[attr-defined]
    get = requests.get

    def counted(spans: list[Any]) -> Any:
        calls.append(list(spans))
        return [get(span.key, span.start, span.end) for span in spans]

    def forbidden(*arguments: Any) -> None:
        raise AssertionError(f"read one by one: {arguments}")

    monkeypatch.setattr(requests, "get_many", counted)
    monkeypatch.setattr(requests, "get", forbidden)
    monkeypatch.setattr(requests, "head", forbidden)
    return calls


def test_one_request_per_object_when_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_planes(full_dataset(f"memory://{uuid.uuid4().hex}/r").url)
    dataset[[0, 3]].micro()  # one object of each shard
    calls = spans_of(dataset, monkeypatch)
    for position in range(len(dataset)):
        dataset[position].micro()
        dataset[position].coefficients()
        assert dataset[position].metrics["psnr_db"] > 0 and dataset[position].class_index in (0, 1)
    assert [len(spans) for spans in calls] == [1] * len(dataset)


def test_a_cold_batch_takes_two_rounds_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_reads, "MAX_GAP_BYTES", 0)
    dataset = open_planes(full_dataset(f"memory://{uuid.uuid4().hex}/r").url)
    calls = spans_of(dataset, monkeypatch)
    np.testing.assert_array_equal(dataset[[3, 0, 2]].micro(np.float16)[1], object_fit(0).micro)
    tails, chunks = calls
    assert [span.key[-9:] for span in tails] == ["0.0.0.0.0", "1.0.0.0.0"]
    assert len(chunks) == 3 and all(span.end is not None for span in chunks)


def test_neighbours_are_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_planes(full_dataset(f"memory://{uuid.uuid4().hex}/r").url)
    dataset[:].micro()
    calls = spans_of(dataset, monkeypatch)
    batch = dataset[[2, 0, 1]]
    for row, micro in zip(batch.rows, batch.micro(np.float16), strict=True):
        np.testing.assert_array_equal(micro, object_fit(int(row)).micro)
    assert [len(spans) for spans in calls] == [1]


def test_few_tables_are_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_tables, "CACHED_BYTES", 1)
    monkeypatch.setattr(object_reader, "TableCache", lambda: shard_tables.TableCache(1))
    dataset = open_planes(root)
    for position in (0, 3, 1, 3):
        row = dataset[position].row
        np.testing.assert_array_equal(dataset[position].micro(np.float16), object_fit(row).micro)
        assert len(dataset.fits._tables) == 1


@pytest.mark.parametrize("at", [5, -1], ids=["chunk", "checksum"])
def test_damage_names_object_file_and_what_to_do(root: Path, at: int) -> None:
    dataset = open_planes(root)
    expected = dataset[0].micro()
    path = root / SHARD_0
    size = 3 * 2 * 4 * 4 * 2 + 4
    data = bytearray(path.read_bytes())
    data[size + at if at >= 0 else 2 * size + at] ^= 1  # of the second object
    path.write_bytes(data)
    np.testing.assert_array_equal(dataset[0].micro(), expected)
    message = rf"{SHARD_0}: micro of object car-00001: checksum mismatch; run fpipe verify .* --full"
    for which in (1, [0, 1, 2]):
        with pytest.raises(IntegrityError, match=message) as caught:
            dataset[which].micro()
        assert (caught.value.key, caught.value.object_id) == (SHARD_0, "car-00001")


def test_a_chunk_of_another_object_is_not_taken(root: Path) -> None:
    """Whole chunks that changed places have right checksums; the sidecar knows better."""
    dataset = open_planes(root)
    size = 3 * 2 * 4 * 4 * 2 + 4
    data = (root / SHARD_0).read_bytes()
    (root / SHARD_0).write_bytes(data[size : 2 * size] + data[:size] + data[2 * size :])
    with pytest.raises(IntegrityError, match="checksum mismatch"):
        dataset[0].micro()


def test_a_shorter_file_is_damage(root: Path) -> None:
    dataset = open_planes(root)
    dataset[0].micro()
    tail = dataset.planes_store.tail(0).n_bytes
    data = (root / SHARD_0).read_bytes()
    (root / SHARD_0).unlink()
    (root / SHARD_0).write_bytes(data[2 * 196 + 10 : -tail] + data[-tail:])  # the tail stays readable
    with pytest.raises(IntegrityError, match=r"mismatch|shorter"):
        dataset[[0, 1, 2]].micro()


def test_a_missing_file_is_damage(root: Path) -> None:
    dataset = open_planes(root)
    dataset[0].micro()
    (root / SHARD_0).unlink()
    with pytest.raises(IntegrityError, match=r"micro of object car-00001: the file is missing; run fpipe"):
        dataset[1].micro()


def test_large_batches_are_read_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_reads, "MAX_GAP_BYTES", -1)
    monkeypatch.setattr(remote_reads, "WINDOW", 3)
    dataset = open_planes(full_dataset(f"memory://{uuid.uuid4().hex}/r").url)
    dataset[:].micro()
    calls = spans_of(dataset, monkeypatch)
    micro = dataset[:].micro(np.float16)
    np.testing.assert_array_equal(micro[3], object_fit(4).micro)
    assert [len(spans) for spans in calls] == [3, 1]


def test_a_replaced_shard_is_stale_until_refresh(root: Path) -> None:
    dataset = open_planes(root)
    before = dataset["sofa-00004"].micro()
    mend_in_a_round(dataset.planes_store.store, "planes")
    with pytest.raises(StaleSnapshotError, match="refresh"):
        dataset[f"car-{FAILED_ROW:05d}"]
    try:  # its bytes may lie where they lay before
        np.testing.assert_array_equal(dataset["sofa-00004"].micro(), before)
    except StaleSnapshotError as error:
        assert "refresh()" in str(error)
    dataset.refresh()
    assert len(dataset) == N_OBJECTS and np.isfinite(dataset[:].micro()).all()
    np.testing.assert_array_equal(dataset["sofa-00004"].micro(), before)


def test_a_shard_replaced_before_its_first_read_is_stale(root: Path) -> None:
    dataset = open_planes(root)
    mend_in_a_round(Store(root), "planes")
    with pytest.raises(StaleSnapshotError, match="refresh"):
        dataset["sofa-00004"].micro()
    dataset.refresh()
    assert dataset["sofa-00004"].micro().any()


def test_another_process_keeps_to_the_snapshot(root: Path) -> None:
    """What is pickled is the snapshot, not the caches: a replaced shard is stale there, too."""
    import pickle

    dataset = open_planes(root)
    dataset[:].micro()
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(copy.fits._tables) == 0
    mend_in_a_round(Store(root), "planes")
    with pytest.raises(StaleSnapshotError):
        copy["sofa-00004"].micro()


def test_shards_that_came_after_the_snapshot_are_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    planes = PlanesStore.create_or_open(store, make_plan(store), fit_header())
    publish_fit(store, "main")
    dataset = open_planes(tmp_path)
    with pytest.raises(ObjectUnavailableError, match="shard 0 of planes is not done"):
        dataset.fits.payload(np.array([0], np.int64))
    fill_planes(planes)
    dataset.refresh()
    assert dataset.fits.payload(np.array([0, 4], np.int64)).shape[0] == 2
