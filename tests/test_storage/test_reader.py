from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storage.errors import ObjectUnavailableError, UsageError
from storage.planes import PlanesStore, publish_fit
from storage.reader import open_planes
from storage.store import Store

from .builders import (
    F_MAC,
    F_MIC,
    K,
    M,
    base_planes,
    fill_planes,
    fit_header,
    full_dataset,
    make_plan,
    object_fit,
    object_views,
    write_shared,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    full_dataset(tmp_path)
    return tmp_path


def test_objects_by_id_position_and_iteration(root: Path) -> None:
    dataset = open_planes(root)
    assert dataset.ids == ("sofa-00000", "car-00001", "sofa-00002", "sofa-00004") and len(dataset) == 4
    assert dataset.classes == ("car", "sofa") and dataset.status.tolist() == [1, 1, 1, 2, 1]
    assert [entry.object_id for entry in dataset] == list(dataset.ids)
    assert dataset["sofa-00004"].row == 4 == dataset[3].row == dataset[-1].row
    assert dataset[1].class_name == "car" and "car-00001" in dataset and "car-00003" not in dataset
    with pytest.raises(KeyError):
        dataset["nothing"]
    with pytest.raises(IndexError):
        dataset[4]


def test_fused_planes_are_micro_first_then_the_weighted_sum_of_base_planes(root: Path) -> None:
    entry, truth = open_planes(str(root))["sofa-00002"], object_fit(2)
    assert truth.micro is not None
    planes = entry.planes()
    assert planes.shape == (3, F_MIC + F_MAC, K, K) and planes.dtype == np.float32
    assert np.array_equal(planes[:, :F_MIC], truth.micro.astype(np.float32))
    macro = sum(w * plane for w, plane in zip(truth.coefficients, base_planes(), strict=True))
    np.testing.assert_allclose(planes[:, F_MIC:], macro, rtol=1e-5, atol=1e-5)
    assert np.array_equal(entry.micro(), truth.micro.astype(np.float32))
    assert entry.micro(np.float16).dtype == np.float16
    assert np.array_equal(entry.coefficients(), truth.coefficients)
    assert entry.regime == 2 and entry.metrics["psnr_db"] == 22


def test_batches_by_ids_positions_slices_and_masks(root: Path) -> None:
    dataset = open_planes(root)
    batch = dataset[["sofa-00004", "car-00001", "car-00001"]]
    assert batch.rows.tolist() == [4, 1, 1] and batch.ids == ("sofa-00004", "car-00001", "car-00001")
    assert batch.class_index.tolist() == [1, 0, 0] and len(batch) == 3 and batch.regime.tolist() == [2, 2, 2]
    assert batch.metrics["psnr_db"].tolist() == [24, 21, 21]
    for name in ("micro", "coefficients", "planes", "cam2world", "intrinsics", "heldout"):
        single = [getattr(entry, name)() for entry in batch]
        np.testing.assert_allclose(getattr(batch, name)(), np.stack(single), rtol=1e-6, atol=1e-6)
    assert np.array_equal(batch.micro(np.float16)[0], object_fit(4).micro)
    assert dataset[-2:].rows.tolist() == [2, 4] == dataset[np.array([2, -1])].rows.tolist()
    assert dataset[dataset[:].class_index == 0].ids == ("car-00001",)
    assert dataset[[]].planes().shape == (0, 3, F_MIC + F_MAC, K, K)
    with pytest.raises(UsageError, match="index with an id"):
        dataset[[1.5]]
    with pytest.raises(ObjectUnavailableError, match=r"car-00003.*not rendered"):
        dataset[["sofa-00004", "car-00003"]]


def test_layouts_and_types(root: Path) -> None:
    batch = open_planes(root)[:]
    planes = batch.planes()
    flat = batch.planes("flat", np.float16)
    assert flat.shape == (4, 3 * (F_MIC + F_MAC), K, K) and flat.dtype == np.float16
    for plane in range(3):
        own = flat[:, plane * (F_MIC + F_MAC) : (plane + 1) * (F_MIC + F_MAC)]
        np.testing.assert_array_equal(own, planes[:, plane].astype(np.float16))
    with pytest.raises(UsageError, match="no layout 'nchw'"):
        batch.planes("nchw")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="floating-point"):
        batch.planes(dtype=np.uint8)


def test_planes_beyond_the_type_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    planes = PlanesStore.create_or_open(store, make_plan(store), fit_header())
    write_shared(store)
    for shard in range(planes.n_shards):
        builder = planes.builder(shard, f"big{shard}")
        for row in planes.shard_rows(shard):
            large = np.full(M, 60_000 if row == 1 else 1, np.float32)
            builder.add(row, replace(object_fit(row), coefficients=large))
        builder.commit()
    publish_fit(store, "main")
    dataset = open_planes(tmp_path)
    assert np.isfinite(dataset[:].planes()).all()
    with pytest.raises(UsageError, match="beyond float16: use float32"):
        dataset[:].planes(dtype=np.float16)


def test_cameras_come_from_the_views(root: Path) -> None:
    entry, truth = open_planes(root)["car-00001"], object_views(1)
    assert np.array_equal(entry.cam2world(), truth.cam2world)
    assert np.array_equal(entry.intrinsics(), truth.intrinsics)
    assert np.array_equal(entry.heldout(), truth.heldout)


def test_failed_object_raises(root: Path) -> None:
    with pytest.raises(ObjectUnavailableError, match=r"car-00003.*not rendered"):
        open_planes(root)["car-00003"]


def test_shared_components_and_provenance(root: Path) -> None:
    dataset = open_planes(root)
    assert np.array_equal(dataset.base_planes(), base_planes())
    assert dataset.shared["box_half"] == 0.55
    provenance = dataset.provenance
    assert provenance["shared_version"] == dataset.planes_store.header.shared_version
    assert provenance["fit"]["fit_config"]["steps"] == 100 and provenance["plan"]["n_views"] == 6


def test_snapshot_grows_only_on_refresh(tmp_path: Path) -> None:
    store = Store(tmp_path)
    planes = PlanesStore.create_or_open(store, make_plan(store), fit_header())
    publish_fit(store, "main")
    dataset = open_planes(tmp_path)
    assert len(dataset) == 0 and dataset.ids == ()
    fill_planes(planes)
    assert len(dataset) == 0
    with pytest.raises(ObjectUnavailableError, match="not in this snapshot"):
        dataset["sofa-00000"]
    dataset.refresh()
    assert len(dataset) == 4 == len(dataset.ids)


def test_ulw_planes_are_macro_only(tmp_path: Path) -> None:
    store = Store(tmp_path)
    fill_planes(PlanesStore.create_or_open(store, make_plan(store), fit_header(name="ulw", f_mic=0)))
    write_shared(store)
    entry = open_planes(tmp_path, fit="ulw")[0]
    assert entry.micro().shape == (3, 0, K, K) and entry.planes().shape == (3, F_MAC, K, K)


def test_dataset_can_be_sent_to_another_process(root: Path) -> None:
    dataset = open_planes(root)
    expected = dataset[0].planes()
    copy = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(copy[0].planes(), expected)


def test_no_dataset_and_no_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no dataset at"):
        open_planes(tmp_path)
    make_plan(Store(tmp_path))
    with pytest.raises(UsageError, match="no published fit"):
        open_planes(tmp_path)
    with pytest.raises(UsageError, match="has no fit 'x'"):
        open_planes(tmp_path, fit="x")


def test_opening_and_reading_imports_nothing_heavy(root: Path) -> None:
    heavy = {"torch", "ray", "bpy", "zarr", "s3fs", "fsspec", "aiohttp", "diffusers", "typer"}
    code = (
        "import sys; from storage.reader import open_planes\n"
        f"open_planes({str(root)!r})[0].planes()\n"
        f"assert not {heavy!r} & set(sys.modules), {heavy!r} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
