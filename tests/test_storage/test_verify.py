from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from storage.documents import dump_document, parse_document
from storage.errors import SchemaError, UsageError
from storage.fit_statistics import write_statistics
from storage.journal import Journal, write_journal
from storage.layout import PLAN_CONFIG, PLAN_HEADER, PUBLISHED_SHARED, plan_cameras
from storage.lease import Lease
from storage.passes import PASSES, PassStore
from storage.plan import read_plan
from storage.planes import PlanesStore
from storage.store import Store
from storage.verify import verify
from tests.byte_flips import choose_flips, is_found, kind_of

from .builders import (
    N_VIEWS,
    SHARED_VERSION,
    SIZE,
    files_below,
    fill_planes,
    fit_header,
    full_dataset,
    make_plan,
)


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


@pytest.fixture
def everything(tmp_path: Path) -> Store:
    """A dataset with a file of every kind: also passes, a fit without micro planes, cameras, a journal."""
    store = full_dataset(tmp_path)
    plan = read_plan(store)
    for name, kind in PASSES.items():
        passes = PassStore.create_or_open(store, plan, name)
        for shard in range(passes.n_shards):
            builder = passes.builder(shard, f"d{shard}")
            for row in passes.shard_rows(shard):
                builder.add(row, np.full((N_VIEWS, SIZE, SIZE, *kind.tail), row, kind.dtype))
            builder.commit()
    fill_planes(PlanesStore.create_or_open(store, plan, fit_header(name="ulw", f_mic=0)))
    cameras = b'{"frames": []}'
    digest = hashlib.sha256(cameras).hexdigest()
    store.create(plan_cameras(digest), cameras)
    config = {"source": {"classes": {"sofa": 1, "car": None}}, "render": {"cameras": f"sha256:{digest}"}}
    store.create(PLAN_CONFIG, dump_document(config, readable=True))
    published = {"shared_version": SHARED_VERSION, "config": config}
    store.create(PUBLISHED_SHARED, dump_document(published, readable=True))
    write_statistics(PlanesStore.open(store, "main"))
    write_journal(store, "fits/main/planes.zarr", Journal(1), None)
    with Lease(store, "a retry"):
        pass
    return store


def test_every_kind_of_flipped_byte_is_found_and_named(everything: Store, tmp_path: Path) -> None:
    assert verify(everything, full=True) == []
    flips = choose_flips(tmp_path, 150, seed=3)
    kinds = {kind_of(flip.name) for flip in flips}
    assert kinds == {kind_of(name) for name in files_below(tmp_path)} and len(kinds) > 50
    assert [flip for flip in flips if not is_found(tmp_path, flip)] == []
    assert verify(everything, full=True) == []


@pytest.mark.slow
def test_many_flipped_bytes_are_found_and_named(everything: Store, tmp_path: Path) -> None:
    assert [flip for flip in choose_flips(tmp_path, 2000, seed=4) if not is_found(tmp_path, flip)] == []


def test_every_bit_of_the_plan_counts(store: Store, tmp_path: Path) -> None:
    """Some bits of a zstd frame do not change what is in it."""
    (path,) = tmp_path.glob("plan/segment-*")
    sound = path.read_bytes()
    for bit in range(8 * len(sound)):
        damaged = bytearray(sound)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert read_plan(store).rows.damage(), f"bit {bit % 8} of byte {bit // 8}"


@pytest.mark.parametrize("name", ["plan/segment", "fits/main/done/", "shared/published", "fits/main/header"])
def test_a_missing_or_empty_file_is_found(everything: Store, tmp_path: Path, name: str) -> None:
    path = next(tmp_path / key for key in files_below(tmp_path) if key.startswith(name))
    path.write_bytes(b"")
    assert path.relative_to(tmp_path).as_posix() in {problem.key for problem in verify(everything, False)}


@pytest.mark.parametrize(
    "name", ["views.zarr/zarr.json", "depth.zarr/zarr.json", "views.zarr/status/zarr.json"]
)
def test_missing_metadata_do_not_hide_shards(everything: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / name).unlink()
    assert name in {problem.key for problem in verify(everything, full=False)}


def test_documents_without_a_checksum_are_named(everything: Store, tmp_path: Path) -> None:
    """They can be read, but nobody could say that they are whole."""
    (tmp_path / PLAN_CONFIG).write_text("{}")
    (problem,) = verify(everything, full=False)
    assert problem.key == PLAN_CONFIG and "checksum" in problem.message


def test_another_major_version_is_no_damage(store: Store) -> None:
    document = parse_document(store.read(PLAN_HEADER), PLAN_HEADER)
    store.replace(PLAN_HEADER, dump_document({**document, "schema_version": "2.0"}))
    with pytest.raises(SchemaError):
        verify(store, full=False)


def test_damaged_rows_do_not_hide_other_damage(store: Store, tmp_path: Path) -> None:
    segment = next(key for key in files_below(tmp_path) if key.startswith("plan/segment"))
    shard = "views.zarr/images/c.2.0.0.0.0"
    for name in (segment, shard):
        (tmp_path / name).write_bytes(b"torn")
    assert [problem.key for problem in verify(store, full=True)] == [segment, shard]


def test_objects_and_the_way_to_mend_are_named(store: Store, tmp_path: Path) -> None:
    """Shard 1 of the fit holds rows 3 and 4, of which 3 has failed."""
    names = ("micro/c.1.0.0.0.0", "regime/c.1")
    for name in names:
        (tmp_path / "fits/main/planes.zarr" / name).write_bytes(b"torn")
    found = verify(store, full=True)
    assert [(problem.mend, problem.shard) for problem in found] == [("redo", 1)]
    assert found[0].objects == ("car-00003", "sofa-00004")
    (tmp_path / "views.zarr/status/c.0").write_bytes(b"torn")
    views = next(problem for problem in verify(store, full=True) if problem.group == "views.zarr")
    assert (views.mend, views.objects) == ("rebuild", ("sofa-00000", "car-00001"))


def test_chunk_damage_names_the_object(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "fits/main/planes.zarr/micro/c.1.0.0.0.0"
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    assert verify(store, full=False) == []
    (problem,) = verify(store, full=True)
    assert problem.objects == ("sofa-00004",) and "checksum mismatch" in problem.message


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
    assert [problem.key for problem in verify(store, full=False)] == ["views.zarr/status/c.1"]
    coefficients = tmp_path / "fits/main/planes.zarr/coefficients"
    (coefficients / "c.0.0").write_bytes((coefficients / "c.1.0").read_bytes())
    found = {problem.key: problem.message for problem in verify(store, full=True)}
    assert "missing" in found["views.zarr/status/c.1"]
    assert "differs from the sidecars" in found["fits/main/planes.zarr/coefficients/c.0.0"]


def test_exchanged_shard_files_are_found(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "views.zarr/images"
    (folder / "c.0.0.0.0.0").write_bytes((folder / "c.1.0.0.0.0").read_bytes())
    assert [problem.key for problem in verify(store, full=False)] == ["views.zarr/images/c.0.0.0.0.0"]


def test_leftover_bytes_are_found(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "views.zarr/images/c.0.0.0.0.0"
    path.write_bytes(b"extra" + path.read_bytes())
    assert verify(store, full=True)
