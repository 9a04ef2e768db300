from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from render_jobs.sources.axes import chosen_axes
from render_jobs.sources.base import ObjectEntry, SourceSpec, make_source
from render_jobs.sources.procedural import ProceduralSource, write_object
from render_jobs.sources.shapenet import ShapeNetSource
from render_jobs.sources.synsets import SYNSETS, class_of, synset_of
from render_jobs.worker import BlenderWorker
from storage.errors import ConfigError, EnvironmentProblem, UsageError
from tests.test_render_jobs.meshes import COLOURED_CUBE, cameras_at, render, write_mesh

CAR, SOFA = "02958343", "04256520"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Seven cars in v2 layout, one sofa in v1 layout, and things that are no objects."""
    for i in range(7):
        model = tmp_path / "root" / CAR / f"m{i}"
        write_mesh(model / "models", COLOURED_CUBE, "newmtl paint\nmap_Kd ../images/t.png\n")
        (model / "models" / "mesh.obj").rename(model / "models" / "model_normalized.obj")
        (model / "images").mkdir()
        (model / "images" / "t.png").write_bytes(b"x" * i)
    write_mesh(tmp_path / "root" / SOFA / "s0", COLOURED_CUBE).rename(
        tmp_path / "root" / SOFA / "s0" / "model.obj"
    )
    (tmp_path / "root" / ".hidden").mkdir()
    (tmp_path / "root" / "LICENSES" / "old").mkdir(parents=True)
    (tmp_path / "root" / "README.md").write_text("x")
    return tmp_path / "root"


def test_both_layouts_are_listed_with_readable_ids(root: Path) -> None:
    entries = ShapeNetSource(str(root)).list({"sofa": None, CAR: None}, 0)
    assert [e.object_id for e in entries] == ["sofa-s0", *(f"car-m{i}" for i in range(7))]
    assert entries[0].location == f"{SOFA}/s0/model.obj"
    assert entries[1].location == f"{CAR}/m0/models/model_normalized.obj"
    assert {e.class_name for e in entries} == {"sofa", "car"}
    assert all(re.fullmatch("[0-9a-f]{64}", e.fingerprint) for e in entries)
    assert ShapeNetSource(str(root)).list({}, 0) == [*entries[1:], entries[0]], "no classes: all, by synset"


def test_a_model_without_a_mesh_is_listed_to_be_recorded_as_missing(root: Path, tmp_path: Path) -> None:
    (root / CAR / "gone" / "models").mkdir(parents=True)
    (root / CAR / "gone" / "models" / "model_normalized.json").write_text("{}")
    source = ShapeNetSource(str(root))
    entry = source.list({"car": None}, 0)[0]
    assert (entry.object_id, entry.location) == ("car-gone", f"{CAR}/gone/models/model_normalized.obj")
    with pytest.raises(FileNotFoundError):
        source.fetch(entry, tmp_path)


def test_an_id_that_names_its_class_already_stays_as_it_is(root: Path) -> None:
    (root / CAR / "m0").rename(root / CAR / "car-000012")
    assert ShapeNetSource(str(root)).list({"car": None}, 0)[0].object_id == "car-000012"


def test_a_part_is_drawn_by_the_seed(root: Path) -> None:
    source = ShapeNetSource(str(root))
    chosen = {seed: [e.object_id for e in source.list({"car": 3}, seed)] for seed in range(20)}
    assert all(len(ids) == 3 and ids == sorted(ids) for ids in chosen.values())
    assert chosen[5] == [e.object_id for e in source.list({"car": 3, "sofa": None}, 5)][:3]
    assert {i for ids in chosen.values() for i in ids} == {f"car-m{i}" for i in range(7)}
    assert source.list({"car": 0}, 0) == []


def test_fingerprints_follow_content_and_not_place(root: Path, tmp_path: Path) -> None:
    before = {e.object_id: e.fingerprint for e in ShapeNetSource(str(root)).list({"car": None}, 0)}
    assert len(set(before.values())) == 7, "the textures differ in size"
    moved = tmp_path / "elsewhere"
    shutil.move(root, moved)
    mesh = moved / CAR / "m3" / "models" / "model_normalized.obj"
    mesh.write_text(mesh.read_text().replace("0.5", "0.6", 1))
    after = {e.object_id: e.fingerprint for e in ShapeNetSource(str(moved)).list({"car": None}, 0)}
    assert {i for i in before if before[i] != after[i]} == {"car-m3"}


def test_local_meshes_are_used_in_place(root: Path, tmp_path: Path) -> None:
    source = ShapeNetSource(str(root))
    entry = source.list({"car": 1}, 0)[0]
    mesh = source.fetch(entry, tmp_path)
    assert mesh.path == root / entry.location
    assert mesh.root == root.joinpath(*entry.location.split("/")[:2])
    with pytest.raises(FileNotFoundError, match="car/gone"):
        source.fetch(ObjectEntry("car-x", "car", "car/gone/model.obj", ""), tmp_path)


def test_remote_meshes_come_with_materials_and_textures(root: Path, tmp_path: Path) -> None:
    remote = fsspec.filesystem("memory")
    remote.put(str(root), "/bucket/shapenet", recursive=True)
    source = ShapeNetSource("memory://bucket/shapenet")
    local = ShapeNetSource(str(root)).list({}, 0)
    assert source.list({}, 0) == local, "the same list and fingerprints over any file system"
    for entry in (local[0], local[-1]):
        folder = tmp_path / entry.object_id
        folder.mkdir()
        path = source.fetch(entry, folder).path
        assert path.is_relative_to(folder)
        assert path.read_bytes() == (root / entry.location).read_bytes()
    assert (tmp_path / "car-m0" / "model" / "images" / "t.png").is_file()
    assert (tmp_path / "car-m0" / "model" / "models" / "mesh.mtl").is_file()
    with pytest.raises(FileNotFoundError):
        source.fetch(ObjectEntry("car-x", "car", f"{CAR}/gone/model.obj", ""), tmp_path)


class Counted:
    """A remote file system that counts what it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        for name in ("ls", "find", "info", "exists", "cat_file"):
            original = getattr(MemoryFileSystem, name)
            monkeypatch.setattr(MemoryFileSystem, name, self._counting(name, original))

    def _counting(self, name: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self._inside:
                self.calls[name] += 1
            self._inside += 1
            try:
                return original(*args, **kwargs)
            finally:
                self._inside -= 1

        return call

    @property
    def _inside(self) -> int:
        return getattr(_THREAD, "depth", 0)

    @_inside.setter
    def _inside(self, depth: int) -> None:
        _THREAD.depth = depth


_THREAD = threading.local()


def test_a_remote_list_costs_one_listing_a_class_and_one_read_a_chosen_model(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.filesystem("memory").put(str(root), "/counted", recursive=True)
    source = ShapeNetSource("memory://counted")
    counted = Counted(monkeypatch)
    entries = source.list({"car": 3, "sofa": None}, 0)
    assert counted.calls["find"] == 2
    assert counted.calls["cat_file"] == len(entries) == 4
    assert sum(counted.calls.values()) <= 2 + 4 + 2, counted.calls
    counted.calls.clear()
    source.list({"car": 1}, 0)
    assert counted.calls["cat_file"] == 1, "only what was chosen is read"


def test_the_front_of_both_layouts_and_of_what_the_user_says(root: Path, tmp_path: Path) -> None:
    source = ShapeNetSource(str(root))
    v1, v2 = source.list({"sofa": None, "car": 1}, 0)
    assert [(m.up, m.front) for m in (source.fetch(v1, tmp_path), source.fetch(v2, tmp_path))] == [
        ("y", "x"),
        ("y", "-z"),
    ]
    turned = ShapeNetSource(str(root), up="z", front="-x")
    assert {(m.up, m.front) for m in (turned.fetch(v1, tmp_path), turned.fetch(v2, tmp_path))} == {
        ("z", "-x")
    }
    assert chosen_axes("z", None, ("y", "-z")) == ("z", "-y")
    assert chosen_axes(None, "x", ("y", "-z")) == ("y", "x")
    for up, front in (("y", "-y"), (None, "y"), ("x", None)):
        with pytest.raises(ConfigError, match="--front"):
            chosen_axes(up, front, ("y", "-z"))


def test_what_is_no_file_is_listed_and_left_to_the_renderer(root: Path, tmp_path: Path) -> None:
    """A FIFO would block whoever opens it; a folder or a dead link cannot be read."""
    odd = {"a_fifo": os.mkfifo, "a_folder": Path.mkdir, "a_link": lambda path: path.symlink_to("nowhere")}
    for name, make in odd.items():
        (root / SOFA / name).mkdir()
        make(root / SOFA / name / "model.obj")
    (root / SOFA / "z_linked_model").symlink_to(root / CAR / "m0")
    source = ShapeNetSource(str(root))
    entries = source.list({"sofa": None}, 0)
    assert [e.object_id for e in entries] == [
        *(f"sofa-{name}" for name in odd),
        "sofa-s0",
        "sofa-z_linked_model",
    ]
    assert source.fetch(entries[0], tmp_path).path.is_fifo()


def test_several_classes_have_the_numbers_asked_for(root: Path) -> None:
    for source, classes in (
        (ShapeNetSource(str(root)), {"sofa": 1, "car": 4}),
        (ProceduralSource(), {"chair": 3, "car": 2, "sofa": 5}),
    ):
        entries = source.list(classes, 1)
        assert Counter(e.class_name for e in entries) == classes
        assert len({e.object_id for e in entries}) == sum(classes.values())


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"boat": None}, "no class 'boat'.*car, sofa"),
        ({"car": 8}, "class car: 8 objects asked for, 7 are there"),
    ],
)
def test_what_is_not_there_is_said(root: Path, classes: dict[str, int | None], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ShapeNetSource(str(root)).list(classes, 0)


def test_a_missing_folder_and_an_unknown_protocol(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        ShapeNetSource(str(tmp_path / "gone")).list({}, 0)
    with pytest.raises(EnvironmentProblem, match="nosuch"):
        ShapeNetSource("nosuch://place")


def test_specs_are_checked_and_made_absolute(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    spec = SourceSpec(kind="shapenet", path="root").model_dump()
    assert spec["path"] == str(root)
    assert make_source(json.loads(json.dumps(spec))).name == "shapenet"
    assert make_source({"kind": "procedural"}).name == "procedural"
    assert SourceSpec(kind="shapenet", path="s3://bucket/x").path == "s3://bucket/x"
    for bad in (
        {"kind": "shapenet"},
        {"kind": "procedural", "path": "x"},
        {"kind": "other"},
        {"kind": "procedural", "n": 1},
        {"kind": "procedural", "up": "y"},
        {"kind": "shapenet", "path": "x", "up": "w"},
        {"kind": "shapenet", "path": "x", "components": 3},
        {"kind": "folder"},
        {"kind": "morphable", "class_name": "face"},
        {"kind": "morphable", "components": 0},
    ):
        with pytest.raises(ConfigError, match="source") as caught:
            make_source(bad)
        assert os.linesep not in str(caught.value)


def test_synsets_go_both_ways() -> None:
    assert len(set(SYNSETS.values())) == len(SYNSETS) == 55, "ShapeNetCore v2 has 55 classes"
    assert synset_of("car") == synset_of(CAR) == CAR
    assert class_of(CAR) == "car"
    assert class_of("99999999") == synset_of("99999999") == "99999999"


@pytest.mark.bpy
def test_one_model_in_both_layouts_gives_the_same_pictures(worker: BlenderWorker, tmp_path: Path) -> None:
    """v1 files are v2 files turned from front −z to front +x: (x, y, z) → (−z, y, x)."""
    v2 = write_object("chair", 1, tmp_path / "v2")
    v1 = tmp_path / "v1" / v2.parents[2].name / v2.parents[1].name
    shutil.copytree(v2.parent, v1)
    turned = [_turned(line) for line in v2.read_text().splitlines()]
    (v1 / "model.obj").write_text("\n".join(turned))
    pictures = []
    for root in ("v1", "v2"):
        source = ShapeNetSource(str(tmp_path / root))
        mesh = source.fetch(source.list({}, 0)[0], tmp_path)
        pictures.append(render(worker, mesh, cameras_at([30.0, 200.0], [0.3, 0.2])).images.astype(int))
    assert (pictures[0][..., 3] > 0).mean() > 0.05
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.5


def _turned(line: str) -> str:
    kind, _, rest = line.partition(" ")
    if kind not in {"v", "vn"}:
        return line
    x, y, z = map(float, rest.split()[:3])
    return f"{kind} {-z:.9g} {y:.9g} {x:.9g}"
