"""`fpipe verify` and `fpipe repair` on a dataset that went through every real stage."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from storage.lease import Lease
from storage.planes import PlanesStore
from storage.reader import open_planes
from storage.repair import give_up_damaged
from storage.replacement import open_round
from storage.store import Store
from storage.verify import verify
from storage.views import ViewsStore
from tests.byte_flips import choose_flips, covered_files, is_found, kind_of
from tests.conftest import fpipe

IMAGES = "views.zarr/images/c.{}.0.0.0.0"
MICRO = "fits/default/planes.zarr/micro/c.{}.0.0.0.0"


@pytest.fixture
def dataset(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A copy to damage; one object per shard."""
    shutil.copytree(tiny_dataset, tmp_path / "copy")
    return tmp_path / "copy"


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_every_kind_of_file_of_a_real_dataset_is_covered(dataset: Path) -> None:
    assert verify(Store(dataset), full=True) == []
    flips = choose_flips(dataset, 120, seed=1)
    assert {kind_of(flip.name) for flip in flips} == {kind_of(name) for name in covered_files(dataset)}
    assert [flip for flip in flips if not is_found(dataset, flip)] == []


def test_damage_is_named_and_repaired_to_the_same_content(dataset: Path, tiny_dataset: Path) -> None:
    sound = fpipe("verify", dataset, "--full")
    assert (sound.code, sound.out) == (0, "") and "nothing is damaged" in sound.err

    flip(dataset / IMAGES.format(0), 100)
    flip(dataset / IMAGES.format(1), -1)
    flip(dataset / MICRO.format(0), 50)
    (dataset / MICRO.format(1)).unlink()
    flip(dataset / "views.zarr/status/c.2", 0)
    flip(dataset / "views.zarr/cam2world/zarr.json", 30)
    flip(dataset / "done/views/3", 9)
    quick = fpipe("verify", dataset, "--json")
    assert quick.code == 42
    named = {problem["key"]: problem for problem in quick.json()["problems"]}
    assert {IMAGES.format(1), MICRO.format(1), "done/views/3"} < named.keys()
    assert IMAGES.format(0) not in named, "quick does not read chunks"
    full = fpipe("verify", dataset, "--full")
    assert full.code == 42 and len(full.out.splitlines()) == 7
    line = next(line for line in full.out.splitlines() if line.startswith(IMAGES.format(0)))
    assert "checksum mismatch (car-000000): " in line and line.endswith(f"fpipe repair {dataset}")

    done = fpipe("repair", dataset, "--executor", "local", "--json")
    assert done.code == 0, done.err
    assert (done.json()["found"], done.json()["left"], done.json()["failing"]) == (7, [], [])
    assert sorted(done.json()["mended"]) == ["car-000000", "car-000000", "car-000001", "car-000001"]
    assert verify(Store(dataset), full=True) == []
    _require_same_content(dataset, tiny_dataset)
    assert len(list((dataset / "quarantine/views.zarr").rglob("c.*"))) >= 2
    again = fpipe("repair", dataset)
    assert (again.code, again.out) == (0, "") and "0 findings" in again.err


def test_damaged_statistics_are_mended(dataset: Path) -> None:
    planes = PlanesStore.open(Store(dataset))
    (document,) = (dataset / "fits/default/stats").iterdir()
    sound, stats = document.read_bytes(), open_planes(dataset).stats
    flip(document, 500)
    done = fpipe("repair", dataset)
    assert done.code == 0 and document.read_bytes() == sound, done.err
    block = planes.sidecar(1).statistics
    assert block is not None
    flip(dataset / MICRO.format(1), block.offset + 80)
    done = fpipe("repair", dataset, "--json")
    assert (done.code, done.json()["found"], done.json()["left"]) == (0, 1, []), done.err
    again = fpipe("stats", dataset, "--json").json()
    assert again["stats_version"] != stats.version and len(again["versions"]) == 2
    assert again["figures"] == stats.figures(), "the objects have kept their bytes"
    shown = fpipe("stats", dataset, "--version", stats.version)
    assert "xz 11 macro" in shown.out and stats.version in shown.err


def test_a_damaged_lease_is_written_anew(dataset: Path) -> None:
    with Lease(Store(dataset), "earlier"):
        pass
    flip(dataset / "maintenance/lease.json", 20)
    mended = fpipe("repair", dataset, "--json")
    assert (mended.code, mended.json()["rebuilt"]) == (0, ["maintenance/lease.json"])
    assert verify(Store(dataset), full=True) == []


def test_what_cannot_be_mended_is_left_and_named(dataset: Path) -> None:
    (name,) = (path.name for path in (dataset / "shared").iterdir() if path.is_dir())
    flip(dataset / f"shared/{name}/base_planes.safetensors", -1)
    done = fpipe("repair", dataset)
    assert done.code == 42
    assert f"left: shared/{name}/base_planes.safetensors: " in done.err and "put back a copy" in done.err


def _require_same_content(dataset: Path, other: Path) -> None:
    """Rendering and fitting are repeatable on one machine, so what was repaired is what was there."""
    ours, theirs = Store(dataset), Store(other)
    views, expected_views = ViewsStore.open(ours), ViewsStore.open(theirs)
    planes, expected_planes = PlanesStore.open(ours), PlanesStore.open(theirs)
    for row in range(2):
        assert views.record(row).crc32c == expected_views.record(row).crc32c
        for array, values in expected_views.values(row).items():
            np.testing.assert_array_equal(views.values(row)[array], values)
        np.testing.assert_allclose(planes.read(row).micro, expected_planes.read(row).micro, atol=1e-3)
        assert planes.read(row).regime == expected_planes.read(row).regime
    for key in ("views.zarr/cam2world/zarr.json", "views.zarr/status/c.2", "done/views/3"):
        assert ours.read(key) == theirs.read(key)


def test_an_interrupted_repair_is_finished_by_the_next(dataset: Path) -> None:
    """It died after it had given an object up: nothing is damaged any more, but the object has no views."""
    flip(dataset / IMAGES.format(0), 100)
    views = ViewsStore.open(Store(dataset))
    with Lease(views.store, "a repair that dies") as lease:
        current = open_round(views, lease.token, [0])
        assert give_up_damaged(views, 0, current) == ["car-000000"]
    done = fpipe("repair", dataset, "--executor", "local", "--json")
    assert (done.code, done.json()["found"], done.json()["mended"]) == (0, 0, ["car-000000"]), done.err
    assert ViewsStore.open(Store(dataset)).failures() == []
    assert verify(Store(dataset), full=True) == []
