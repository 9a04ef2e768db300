from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from storage.errors import IntegrityError, ObjectUnavailableError, StoreMismatchError, UsageError
from storage.planes import PlanesStore, code_bytes, list_fits, publish_fit, published_fit
from storage.records import ObjectFit
from storage.store import Store

from .builders import (
    F_MIC,
    FAILED_ROW,
    N_OBJECTS,
    K,
    M,
    files_below,
    fill_planes,
    fit_header,
    make_plan,
    object_fit,
)

OK_ROWS = sorted(set(range(N_OBJECTS)) - {FAILED_ROW})


def make(root: Path, **changes: object) -> PlanesStore:
    store = Store(root)
    planes = PlanesStore.create_or_open(store, make_plan(store), fit_header(**changes))
    fill_planes(planes)
    return planes


def same_fit(a: ObjectFit, b: ObjectFit) -> bool:
    if (a.micro is None) != (b.micro is None) or a.regime != b.regime:
        return False
    same_micro = a.micro is None or b.micro is None or np.array_equal(a.micro, b.micro)
    return same_micro and np.array_equal(a.coefficients, b.coefficients)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_fits_round_trip(tmp_path: Path, dtype: str) -> None:
    make(tmp_path, dtype=dtype)
    planes = PlanesStore.open(Store(tmp_path), "main")
    for row in OK_ROWS:
        fit = planes.read(row)
        assert same_fit(fit, object_fit(row))
        assert fit.micro is not None and fit.micro.dtype == dtype and fit.micro.flags.writeable
        assert fit.metrics["psnr_db"] == 20 + row and np.isnan(fit.metrics["white_psnr_db"])


def test_plain_zarr_reads_the_same_arrays(tmp_path: Path) -> None:
    planes = make(tmp_path)
    group = zarr.open_group(tmp_path / "fits/main/planes.zarr", mode="r")
    assert group["micro"].shape == (N_OBJECTS, 3, F_MIC, K, K)
    micro, coefficients = group["micro"][:], group["coefficients"][:]
    for row in OK_ROWS:
        assert np.array_equal(micro[row], object_fit(row).micro)
        assert np.array_equal(coefficients[row], object_fit(row).coefficients)
    assert np.isnan(micro[FAILED_ROW]).all() and np.isnan(coefficients[FAILED_ROW]).all()
    assert group["status"][:].tolist() == [1, 1, 1, 2, 1]
    assert group["regime"][:].tolist() == [2, 2, 2, 0, 2]
    names = list(group["metrics"].attrs["names"])
    assert group["metrics"][:, names.index("psnr_db")][OK_ROWS].tolist() == [20, 21, 22, 24]
    assert dict(group.attrs)["shared_version"] == planes.header.shared_version


def test_columns(tmp_path: Path) -> None:
    planes = make(tmp_path)
    assert planes.metrics()["psnr_db"][OK_ROWS].tolist() == [20, 21, 22, 24]
    assert np.isnan(planes.metrics()["psnr_db"][FAILED_ROW])
    assert planes.regime().tolist() == [2, 2, 2, 0, 2]
    assert planes.coefficients().shape == (N_OBJECTS, M)
    assert [(row, failure.kind) for row, _, failure in planes.failures()] == [(FAILED_ROW, "no_views")]


def test_ulw_shard_is_a_sidecar_alone(tmp_path: Path) -> None:
    planes = make(tmp_path, name="ulw", f_mic=0)
    for row in OK_ROWS:
        assert same_fit(planes.read(row), object_fit(row, f_mic=0))
    group = zarr.open_group(tmp_path / "fits/ulw/planes.zarr", mode="r")
    assert "micro" not in group and np.array_equal(
        group["coefficients"][:], planes.coefficients(), equal_nan=True
    )
    assert sorted(path.name for path in (tmp_path / "fits/ulw/sidecars").iterdir()) == ["0", "1"]
    before = planes.coefficients()
    builder = planes.builder(0, "late")
    for row in planes.shard_rows(0):
        builder.add(row, object_fit(row + 7, f_mic=0))
    commit = builder.commit()
    assert (commit.won, commit.attempt) == (False, "p0")
    assert np.array_equal(planes.coefficients(), before, equal_nan=True)
    with pytest.raises(ObjectUnavailableError, match="no planes: failed: not rendered"):
        planes.read(FAILED_ROW)


def test_flipped_byte_in_a_sidecar_shard(tmp_path: Path) -> None:
    planes = make(tmp_path, f_mic=0)
    path = tmp_path / "fits/main/sidecars/0"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    planes.refresh()
    with pytest.raises(IntegrityError, match="fits/main/sidecars/0: sidecar checksum mismatch"):
        planes.read(0)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"micro": np.full((3, F_MIC, K, K), 7e4, np.float32)}, "beyond the range of float16"),
        ({"micro": np.full((3, F_MIC, K, K), np.nan, np.float32)}, "not finite"),
        ({"micro": np.zeros((3, F_MIC + 1, K, K), np.float32)}, "expected"),
        ({"micro": None}, "do not match f_mic = 2"),
        ({"coefficients": np.full(M, np.inf, np.float32)}, "finite"),
        ({"coefficients": np.zeros(M + 1, np.float32)}, "must be 7"),
        ({"regime": 3}, "must be 1 or 2"),
        ({"metrics": {"fid": 1.0}}, r"metrics \['fid'\] are not in the fit's header"),
    ],
)
def test_bad_fits_are_refused(tmp_path: Path, change: dict[str, object], text: str) -> None:
    store = Store(tmp_path)
    planes = PlanesStore.create_or_open(store, make_plan(store), fit_header())
    builder = planes.builder(0, "a")
    with pytest.raises(ValueError, match=text):
        builder.add(0, replace(object_fit(0), **change))  # type: ignore[arg-type]
    assert 0 in builder.missing_rows


def test_float16_boundary(tmp_path: Path) -> None:
    """65504 is the largest float16; anything that rounds to it is kept, anything above is refused."""
    store = Store(tmp_path)
    planes = PlanesStore.create_or_open(store, make_plan(store), fit_header())
    largest = np.full((3, F_MIC, K, K), 65504, np.float32)
    planes.builder(0, "a").add(0, replace(object_fit(0), micro=largest))
    with pytest.raises(ValueError, match="beyond the range"):
        planes.builder(0, "a").add(0, replace(object_fit(0), micro=largest + 16))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"shared_version": "beef"}, "shared_version: 'f00d"),
        (
            {"fit_config": {"steps": 100, "optimiser": {"lr": 0.02}}},
            r"fit_config\.optimiser\.lr: 0\.01 \(existing\)",
        ),
        ({"f_mic": 3}, r"f_mic: 2 \(existing\) -> 3 \(asked for\)"),
    ],
)
def test_other_configuration_is_refused_by_name(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    planes = make(tmp_path)
    before = files_below(tmp_path)
    with pytest.raises(StoreMismatchError, match=named):
        PlanesStore.create_or_open(planes.store, planes.plan, fit_header(**change))
    assert files_below(tmp_path) == before


def test_same_fit_again_keeps_its_shards(tmp_path: Path) -> None:
    planes = make(tmp_path)
    again = PlanesStore.create_or_open(
        planes.store, planes.plan, fit_header(objects_per_shard=1, created="later")
    )
    assert again.header.objects_per_shard == 3 and again.done() == {0, 1}


def test_fits_side_by_side_and_publishing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(tmp_path)
    make(tmp_path, name="other", f_mic=0)
    assert list_fits(store) == ["main", "other"]
    with pytest.raises(UsageError, match=r"no published fit; name one of \['main', 'other'\]"):
        PlanesStore.open(store)
    publish_fit(store, "main")
    publish_fit(store, "other")
    assert published_fit(store) == "other" and PlanesStore.open(store).header.f_mic == 0
    assert PlanesStore.open(store, "main").header.f_mic == F_MIC
    assert list_fits(store) == ["main", "other"]
    for unknown in ("nothing", "../plan", ""):
        with pytest.raises(UsageError):
            publish_fit(store, unknown)


def test_bytes_of_a_code_are_those_of_its_arrays() -> None:
    micro, coefficients = np.zeros((3, 10, 64, 64), np.float16), np.zeros(50, np.float32)
    assert code_bytes(10, 64, 50, "float16") == (micro.nbytes, coefficients.nbytes)
    assert code_bytes(0, 64, 50, "float32") == (0, 200)
