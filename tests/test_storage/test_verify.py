from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from storage.errors import SchemaError, UsageError
from storage.store import Store
from storage.verify import verify

from .builders import SHARED_VERSION, files_below, full_dataset, make_plan


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return full_dataset(tmp_path)


@pytest.mark.parametrize("full", [False, True])
def test_a_sound_dataset_has_no_problems(store: Store, full: bool) -> None:
    assert verify(store, full) == []


def test_empty_and_unfinished_datasets(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(UsageError):
        verify(store, full=True)
    make_plan(store)
    assert verify(store, full=True) == []


def _problem_keys(store: Store, full: bool) -> set[str]:
    try:
        return {problem.key for problem in verify(store, full)}
    except SchemaError as error:  # the flipped byte was the version number
        return {str(error).partition(":")[0]}


def test_flipped_bytes_are_found_and_named(store: Store, tmp_path: Path) -> None:
    """Every file with a checksum of its own: plan, shards, derived arrays, markers, headers."""
    rng = np.random.default_rng(3)
    covered = [
        name
        for name in files_below(tmp_path)
        if not name.endswith(("zarr.json", "shared.json", "published.json"))
    ]
    assert any("images/c.2" in name for name in covered) and any("micro/c.1" in name for name in covered)
    flips = [(name, int(position)) for name in covered for position in _positions(tmp_path / name, rng)]
    assert len(flips) > 150
    for name, position in flips:
        path = tmp_path / name
        sound = path.read_bytes()
        damaged = bytearray(sound)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        assert name in _problem_keys(store, full=True), f"byte {position} of {name}"
        path.write_bytes(sound)
    assert verify(store, full=True) == []


def _positions(path: Path, rng: np.random.Generator) -> list[int]:
    size = path.stat().st_size
    return sorted({0, size - 1, *rng.integers(size, size=12 if size > 1000 else 2).tolist()})


def test_chunk_damage_names_the_object(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "fits/main/planes.zarr/micro/c.1.0.0.0.0"
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    assert verify(store, full=False) == []
    (problem,) = verify(store, full=True)
    assert problem.object_id == "sofa-00004" and "checksum mismatch" in problem.message


def test_missing_shared_file_is_found(store: Store, tmp_path: Path) -> None:
    key = f"shared/{SHARED_VERSION}/base_planes.safetensors"
    (tmp_path / key).unlink()
    assert [problem.key for problem in verify(store, full=False)] == [key]


@pytest.mark.parametrize("full", [False, True])
def test_missing_shard_file_is_found(store: Store, tmp_path: Path, full: bool) -> None:
    (tmp_path / "views.zarr/images/c.1.0.0.0.0").unlink()
    (problem,) = verify(store, full)
    assert problem.key == "views.zarr/images/c.1.0.0.0.0" and "missing" in problem.message


def test_missing_and_outdated_derived_arrays_are_found(store: Store, tmp_path: Path) -> None:
    (tmp_path / "views.zarr/status/c.1").unlink()
    coefficients = tmp_path / "fits/main/planes.zarr/coefficients"
    (coefficients / "c.0.0").write_bytes((coefficients / "c.1.0").read_bytes())
    found = {problem.key: problem.message for problem in verify(store, full=True)}
    assert "missing" in found["views.zarr/status/c.1"]
    assert "publish the shard again" in found["fits/main/planes.zarr/coefficients/c.0.0"]


def test_exchanged_shard_files_are_found(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "views.zarr/images"
    (folder / "c.0.0.0.0.0").write_bytes((folder / "c.1.0.0.0.0").read_bytes())
    assert [problem.key for problem in verify(store, full=False)] == ["views.zarr/images/c.0.0.0.0.0"]


def test_leftover_bytes_are_found(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "views.zarr/images/c.0.0.0.0.0"
    path.write_bytes(b"extra" + path.read_bytes())
    assert verify(store, full=True)
