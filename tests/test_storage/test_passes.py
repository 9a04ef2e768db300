from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from storage.errors import ObjectUnavailableError, UsageError
from storage.passes import PASSES, PassStore
from storage.store import Store
from storage.verify import verify

from .builders import FAILED_ROW, N_OBJECTS, N_VIEWS, NO_FACES, SIZE, make_plan


def values_of(name: str, row: int) -> np.ndarray:
    """Seeded content; some of the depth is inf, as behind an object."""
    rng = np.random.default_rng(row)
    kind = PASSES[name]
    values = rng.normal(size=(N_VIEWS, SIZE, SIZE, *kind.tail)).astype(kind.dtype)
    if name == "depth":
        values[values < 0] = np.inf
    return values


def fill(store: Store, name: str) -> PassStore:
    passes = PassStore.create_or_open(store, make_plan(store), name)
    for shard in range(passes.n_shards):
        builder = passes.builder(shard, "a")
        for row in passes.shard_rows(shard):
            if row == FAILED_ROW:
                builder.fail(row, NO_FACES)
            else:
                builder.add(row, values_of(name, row))
        builder.commit()
    return PassStore.open(store, name)


@pytest.mark.parametrize("name", list(PASSES))
def test_round_trip_and_the_same_with_plain_zarr(name: str, tmp_path: Path) -> None:
    passes = fill(Store(tmp_path), name)
    stored = zarr.open_group(tmp_path / f"{name}.zarr", mode="r")[name][:]
    for row in set(range(N_OBJECTS)) - {FAILED_ROW}:
        assert np.array_equal(passes.read(row), values_of(name, row))
        assert np.array_equal(stored[row], values_of(name, row))
    assert np.isnan(stored[FAILED_ROW]).all()
    with pytest.raises(ObjectUnavailableError, match="mesh has no faces"):
        passes.read(FAILED_ROW)


def test_verify_looks_at_passes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    passes = fill(store, "depth")
    assert verify(store, full=True) == []
    path = tmp_path / passes.spec.shard_key(1)
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    assert [problem.key for problem in verify(store, full=True)] == [passes.spec.shard_key(1)]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make_plan(store)
    with pytest.raises(UsageError, match="depth"):
        PassStore.open(store, "depth")
    with pytest.raises(UsageError, match="no pass 'albedo': there are depth, normals"):
        PassStore.open(store, "albedo")


def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    builder = PassStore.create_or_open(store, make_plan(store), "normals").builder(0, "a")
    with pytest.raises(ValueError, match="normals"):
        builder.add(0, values_of("normals", 0).astype(np.float32))
