"""Meshes of any format in folders and globs: names, classes, axes, and what they refer to."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest

from render_jobs.mesh_file import MeshError
from render_jobs.prepare import prepare_mesh
from render_jobs.sources import companions, files
from render_jobs.sources.base import ObjectEntry, make_source
from render_jobs.sources.files import path_of_stored
from render_jobs.sources.folder import FolderSource
from render_jobs.sources.names import MAX_NAME_BYTES, readable_name
from render_jobs.worker import BlenderWorker, RenderFailure
from storage.errors import ConfigError, EnvironmentProblem, TransientError, UsageError
from tests.test_render_jobs.corpus import plain_png
from tests.test_render_jobs.mesh_writers import Gltf, ply, stl
from tests.test_render_jobs.meshes import (
    COLOURED_CUBE,
    CUBE_CORNERS,
    CUBE_FACES,
    cameras_at,
    cubes,
    render,
)

FILES = {
    "chairs/eames.obj": COLOURED_CUBE.encode(),
    "chairs/more/panton.GLB": b"glTF",
    "chairs/windsor.ply": b"ply\n",
    "lamps/anglepoise.stl": b"solid\n",
    "lamps/anglepoise.glb": b"glTF",
    "lamps/notes.txt": b"x",
    "lamps/.hidden.obj": b"x",
    ".git/a.obj": b"x",
    "loose.gltf": b"{}",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / "meshes" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "meshes" / name).write_bytes(content)
    return tmp_path / "meshes"


def listed(
    path: object, classes: dict[str, int | None] | None = None, **settings: object
) -> list[ObjectEntry]:
    return FolderSource(str(path), **settings).list(classes or {}, 0)  # type: ignore[arg-type]


def test_ids_and_classes_come_from_paths(root: Path) -> None:
    entries = listed(root)
    assert {
        e.object_id.rsplit("-", 1)[0] if "anglepoise" in e.object_id else e.object_id for e in entries
    } == {
        "chairs-eames",
        "chairs-more-panton",
        "chairs-windsor",
        "lamps-anglepoise",
        "loose",
    }
    assert len({e.object_id for e in entries}) == 6, "two files of one name are two objects"
    assert Counter(e.class_name for e in entries) == {"chairs": 3, "lamps": 2, "meshes": 1}
    assert {e.class_name for e in listed(root, class_name="thing")} == {"thing"}
    assert len(listed(root, {"chairs": 2, "lamps": None})) == 4


def test_links_that_lead_nowhere_are_objects_that_fail(
    root: Path, tmp_path: Path, worker: BlenderWorker
) -> None:
    (root / "chairs/loop.obj").symlink_to("loop.obj")
    (root / "chairs/gone.obj").symlink_to("nothing.obj")
    (root / "chairs/up").symlink_to("..")
    source = FolderSource(str(root))
    entries = {entry.object_id: entry for entry in source.list({}, 0)}
    assert len(entries) == 8
    for name in ("chairs-loop", "chairs-gone"):
        with pytest.raises(RenderFailure) as caught:
            render(worker, source.fetch(entries[name], tmp_path), cameras_at([10.0], [0.3]))
        assert caught.value.failure.kind == "missing_file"


def test_what_the_system_refuses_to_look_at_counts_as_a_file(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a link into a folder of somebody else does."""
    assert len(listed(root)) == 6
    scan = files._scan

    class Refused:
        def __init__(self, entry: os.DirEntry[str], number: int) -> None:
            self.name, self.path, self.number = entry.name, entry.path, number

        def is_dir(self) -> bool:
            raise OSError(self.number, os.strerror(self.number))

    monkeypatch.setattr(files, "_scan", lambda at: [Refused(entry, errno.EACCES) for entry in scan(at)])
    assert [entry.object_id for entry in listed(root)] == ["loose"]
    monkeypatch.setattr(files, "_scan", lambda at: [Refused(entry, errno.EIO) for entry in scan(at)])
    with pytest.raises(TransientError, match="Input/output error"):
        listed(root)


@pytest.mark.parametrize("how", ["moved", "empty"])
def test_a_folder_that_is_gone_is_not_a_missing_file(root: Path, tmp_path: Path, how: str) -> None:
    source = FolderSource(str(root))
    entry = source.list({}, 0)[0]
    (root / entry.location).unlink()
    with pytest.raises(FileNotFoundError):
        source.fetch(entry, tmp_path)
    root.rename(tmp_path / "moved")
    if how == "empty":  # as the place of a network folder that is not mounted
        root.mkdir()
    with pytest.raises(EnvironmentProblem, match="not there or empty"):
        source.fetch(entry, tmp_path)


def test_a_remote_folder_that_is_gone_is_not_a_missing_file(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("a", "b"):
        memory.pipe(f"/gone/{name}.obj", COLOURED_CUBE.encode())
    source = FolderSource("memory://gone")
    first, _ = source.list({}, 0)
    memory.rm("/gone/a.obj")
    with pytest.raises(FileNotFoundError):
        source.fetch(first, tmp_path)
    memory.rm("/gone", recursive=True)
    with pytest.raises(EnvironmentProblem, match="not there or empty"):
        source.fetch(first, tmp_path)


def test_one_file_is_a_folder_of_one(root: Path, tmp_path: Path) -> None:
    (root / "chairs/eames[1].obj").write_text("v 0 0 0\n")
    (root / "chairs/bytes:odd%41.obj").write_text("v 1 1 1\n")
    for name, object_id in (
        ("eames.obj", "eames"),
        ("eames[1].obj", "eames_1_"),
        ("bytes:odd%41.obj", "bytes_odd_41"),
    ):
        source = FolderSource(str(root / "chairs" / name))
        (entry,) = source.list({}, 0)
        assert entry.object_id.startswith(object_id)
        assert entry.class_name == "chairs"
        assert source.fetch(entry, tmp_path).path == root / "chairs" / name
    fsspec.filesystem("memory").put(str(root), "/single", recursive=True)
    assert [entry.object_id for entry in listed("memory://single/loose.gltf")] == ["loose"]
    with pytest.raises(UsageError, match="no meshes"):
        listed(root / "nothing.obj")


def test_a_folder_that_holds_everything_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meshes may refer to what lies in the folder before the first wildcard."""
    monkeypatch.setenv("HOME", str(root / "chairs"))
    for path in ("/**/*.glb", "/*.obj", "/", f"{root}/**/*.obj", root):
        with pytest.raises(UsageError, match="name the folder that holds the meshes"):
            listed(path)
    assert len(listed(f"{root}/chairs/**/*.obj")) == 1
    monkeypatch.setenv("HOME", "/nobody/home")
    assert len(listed(f"{root}/**/*.obj")) == 1


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.gltf", {"loose"}),
        ("chairs/*", {"eames", "windsor"}),
        ("**/*.[Gp][Ll][By]", {"panton", "windsor"}),
        ("chairs/**/*.GLB", {"panton"}),
        ("lamps", {"anglepoise"}),
    ],
)
def test_globs(root: Path, pattern: str, names: set[str]) -> None:
    fsspec.filesystem("memory").put(str(root), "/globs", recursive=True)
    for base in (str(root), "memory://globs"):
        found = {Path(e.location).stem for e in listed(f"{base}/{pattern}")}
        assert found == names, base


def test_the_list_is_the_same_from_afar_and_follows_content(root: Path) -> None:
    fsspec.filesystem("memory").put(str(root), "/afar/meshes", recursive=True)
    assert listed("memory://afar/meshes") == listed(root)
    before = {e.object_id: e.fingerprint for e in listed(root)}
    (root / "chairs/eames.mtl").write_text("newmtl a")
    (root / "chairs/windsor.ply").write_bytes(b"plz\n")
    after = {e.object_id: e.fingerprint for e in listed(root)}
    assert {i for i in before if before[i] != after[i]} == {"chairs-eames", "chairs-windsor"}


def test_axes_by_format(root: Path, tmp_path: Path) -> None:
    source = FolderSource(str(root))
    axes = {}
    for entry in source.list({}, 0):
        mesh = source.fetch(entry, tmp_path)
        assert mesh.root == root
        assert mesh.path == root / entry.location
        axes[mesh.path.suffix.lower()] = (mesh.up, mesh.front)
    y_up, z_up = ("y", "z"), ("z", "-y")
    assert axes == {
        ".obj": y_up, ".gltf": y_up, ".glb": y_up, ".ply": z_up, ".stl": z_up
    }  # fmt: skip
    with pytest.raises(ConfigError, match="up axis z and front axis -z"):
        listed(root, front="-z")
    assert len(listed(root / "**/*.[gG][lL]*", front="-z")) == 3, "only the formats that are there matter"
    turned = FolderSource(str(root), up="x", front="y")
    assert {(m.up, m.front) for e in turned.list({}, 0) for m in [turned.fetch(e, tmp_path)]} == {("x", "y")}


def test_names_of_any_script_and_encoding_are_kept_apart(tmp_path: Path) -> None:
    (tmp_path / "n").mkdir()
    names = [
        "é".encode(),
        b"\xe9",
        "椅子".encode(),
        b"a b",
        b"a_b",
        b"a?b",
        b"A",
        b"a",
        b"x" * 240,
        b"x" * 241,
    ]
    for name in names:
        (tmp_path / "n" / os.fsdecode(name + b".obj")).write_text(COLOURED_CUBE)
    source = FolderSource(str(tmp_path / "n"))
    entries = source.list({}, 0)
    ids = [e.object_id for e in entries]
    assert len({i.casefold() for i in ids}) == len(names)
    assert {"é", "椅子"} <= set(ids)
    for entry in entries:
        entry.object_id.encode()
        entry.location.encode()
        assert not set(entry.object_id) & set("/\\?*: \0")
        assert len(entry.object_id.encode()) < 200
        assert source.fetch(entry, tmp_path).path.is_file()
    assert ids == [e.object_id for e in source.list({}, 0)]
    latin = next(e for e in entries if e.location.startswith("bytes:"))
    assert latin.object_id.startswith("é-")
    assert os.fsencode(path_of_stored(latin.location)) == b"\xe9.obj"


def test_readable_names() -> None:
    assert readable_name("Stuhl-01_b.v2") == "Stuhl-01_b.v2"
    assert readable_name("e\u0301") == "é"
    assert readable_name("two words") == "two_words"
    assert readable_name("a:b").startswith("a_b-")
    assert readable_name("..").strip("_").startswith("-")
    assert len(readable_name("ü" * 300).encode()) < MAX_NAME_BYTES + 16


@pytest.mark.parametrize(
    ("path", "classes", "message"),
    [
        ("empty", {}, "no meshes in .*empty.*\\.stl"),
        ("gone", {}, "gone is not a folder"),
        ("meshes", {"boats": None}, "no class 'boats'.*chairs, lamps, meshes"),
        ("meshes", {"lamps": 3}, "class lamps: 3 objects asked for, 2 are there"),
    ],
)
def test_what_is_not_there_is_said(
    root: Path, path: str, classes: dict[str, int | None], message: str
) -> None:
    (root.parent / "empty").mkdir()
    with pytest.raises(UsageError, match=message):
        listed(root.parent / path, classes)


def glb(document: dict[str, object]) -> bytes:
    text = json.dumps(document).encode()
    return struct.pack("<4sIIII", b"glTF", 2, 20 + len(text), len(text), 0x4E4F534A) + text


REMOTE = {
    "m/a.obj": b"mtllib ../lib/a.mtl\nmtllib gone.mtl\n" + COLOURED_CUBE.encode(),
    "lib/a.mtl": b"newmtl x\nmap_Kd -s 1 1 1 -o 0.5 0 ../tex/wood 1.png\r\nmap_Kd C:\\old\\mask.png\n"
    b"map_Kd ../../../secret.png\nmap_Kd /etc/passwd\nmap_Kd http://host/x.png\nmap_Ks drawn/never.png\n",
    "lib/drawn/never.png": b"never",
    "tex/wood 1.png": b"wood",
    "lib/images/mask.png": b"mask",
    "secret.png": b"secret",
    "m/g.gltf": json.dumps(
        {
            "buffers": [{"uri": "g%20data.bin"}, {"uri": "data:;base64,AA=="}],
            "images": [{"uri": "../tex/wood%201.png"}, {"bufferView": 0}, {"uri": "../../secret.png"}],
        }
    ).encode(),
    "m/g data.bin": b"0123",
    "m/b.glb": glb({"images": [{"uri": "../secret.png"}]}),
    "m/broken.gltf": b"[1",
    "m/odd.gltf": b'{"buffers": 3}',
}


@pytest.fixture(scope="module")
def remote() -> str:
    files = fsspec.filesystem("memory")
    for name, content in REMOTE.items():
        files.pipe_file(f"/companions/outer/{name}", content)
    files.pipe_file("/companions/secret.png", b"outside")
    return "memory://companions/outer"


@pytest.mark.parametrize(
    ("mesh", "expected"),
    [
        ("m/a.obj", {"lib/a.mtl", "tex/wood 1.png", "lib/images/mask.png"}),
        ("m/g.gltf", {"m/g data.bin", "tex/wood 1.png"}),
        ("m/b.glb", {"secret.png"}),
        ("m/broken.gltf", set()),
        ("m/odd.gltf", set()),
    ],
)
def test_remote_meshes_come_with_what_they_refer_to_and_nothing_from_outside(
    remote: str, mesh: str, expected: set[str], tmp_path: Path
) -> None:
    source = FolderSource(remote)
    entry = next(e for e in source.list({}, 0) if e.location == mesh)
    fetched = source.fetch(entry, tmp_path)
    assert fetched.path == fetched.root / mesh
    files = {str(p.relative_to(fetched.root)): p.read_bytes() for p in fetched.root.rglob("*") if p.is_file()}
    assert files == {name: REMOTE[name] for name in expected | {mesh}}


PNG = plain_png((200, 100, 50))
RED = b"newmtl paint\nKd 1 0 0\n"
PARITY: dict[str, tuple[str, dict[str, bytes]]] = {
    "no library named": ("", {"o/m.mtl": RED}),
    "default in capitals": ("", {"o/m.MTL": RED}),
    "other letter case": ("mtllib PAINT.MTL", {"o/paint.mtl": RED}),
    "quotes": ('mtllib "paint.mtl"', {"o/paint.mtl": RED}),
    "several on a line": ("mtllib a.mtl b.mtl", {"o/a.mtl": b"", "o/b.mtl": RED}),
    "one with spaces": ("mtllib a.mtl b.mtl", {"o/a.mtl b.mtl": RED, "o/b.mtl": b""}),
    "goes on in the next line": ("mtllib \\\npaint.mtl", {"o/paint.mtl": RED}),
    "windows path": ("mtllib C:\\x\\Paint.mtl", {"o/paint.mtl": RED}),
    "old macintosh": ("mtllib paint.mtl\rv 0 0 0", {"o/paint.mtl": RED}),
    "itself": ("mtllib m.obj\nnewmtl paint\nmap_Kd a.png", {"o/a.png": PNG}),
    "map in any case": ("mtllib p.mtl", {"o/p.mtl": RED + b"\tMap_kd\tA.PNG\n", "o/a.png": PNG}),
    "map in quotes": ("mtllib p.mtl", {"o/p.mtl": RED + b'map_Kd -clamp on "a b.png"\n', "o/a b.png": PNG}),
    "map of windows": ("mtllib p.mtl", {"o/p.mtl": RED + b"map_Kd D:\\t\\Wood.png", "images/wood.png": PNG}),
    "map beside its library": ("mtllib l/p.mtl", {"o/l/p.mtl": RED + b"map_Kd t/a.png", "o/l/t/a.png": PNG}),
    "map outside": ("mtllib p.mtl", {"o/p.mtl": RED + b"map_Kd ../../a.png"}),
    "nothing there": ("mtllib gone.mtl", {"o/other.mtl": RED}),
}


@pytest.mark.parametrize("case", PARITY)
def test_a_mesh_looks_the_same_from_afar_and_from_a_disk(case: str, tmp_path: Path) -> None:
    lines, files = PARITY[case]
    memory, url = fsspec.filesystem("memory"), f"/parity/{tmp_path.name}"
    mesh = f"{lines}\n{COLOURED_CUBE}".encode()
    mesh = mesh.replace(b"\n", b"\r") if "\r" in lines else mesh
    for name, content in {**files, "o/m.obj": mesh}.items():
        (tmp_path / "disk" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "disk" / name).write_bytes(content)
        memory.pipe_file(f"{url}/{name}", content)
    results = []
    for i, path in enumerate((str(tmp_path / "disk"), f"memory:/{url}")):
        (tmp_path / f"private {i}").mkdir()
        entry = ObjectEntry("m", "o", "o/m.obj", "")
        fetched = FolderSource(path).fetch(entry, tmp_path / f"fetched {i}")
        prepared = prepare_mesh(fetched, tmp_path / f"private {i}")
        links = (tmp_path / f"private {i}/links").glob("*")
        targets = [str(link.resolve().relative_to(fetched.root)) for link in links]
        results.append(((tmp_path / f"private {i}/mesh.mtl").read_bytes(), targets, prepared.warnings))
    assert results[0] == results[1]
    library, targets, warnings = results[0]
    there = case not in {"map outside", "nothing there"}
    assert (b"map_Kd" in library) == (len(targets) == 1) == (there and any(n.endswith("png") for n in files))
    assert (warnings == []) == there


def test_remote_meshes_are_bounded_and_missing_ones_said(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FolderSource(remote)
    with pytest.raises(FileNotFoundError):
        source.fetch(ObjectEntry("x", "x", "m/x.obj", ""), tmp_path)
    monkeypatch.setattr(companions, "MAX_OBJECT_BYTES", len(REMOTE["m/a.obj"]) + 5)
    with pytest.raises(MeshError, match=r"m/a\.obj and what it refers to") as caught:
        source.fetch(ObjectEntry("a", "m", "m/a.obj", ""), tmp_path)
    assert caught.value.kind == "too_large"


@pytest.mark.bpy
def test_the_front_of_an_obj_looks_along_the_worlds_y(worker: BlenderWorker, tmp_path: Path) -> None:
    """A long body along the file's z with a tall mast at its +z end: from the front, the mast is near."""
    body = cubes([[0, 0, -1], [0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 2, 1]], 1.0)
    (tmp_path / "ships").mkdir()
    (tmp_path / "ships/mast.obj").write_text(body)
    source = make_source({"kind": "folder", "path": str(tmp_path)})
    mesh = source.fetch(source.list({}, 0)[0], tmp_path)
    side = render(worker, mesh, cameras_at([0.0], [0.0])).images[0, ..., 3]  # from +x: +y is on the right
    top = np.flatnonzero(side.any(axis=1))[0]
    assert np.flatnonzero(side[top + 3]).mean() > 36, "the mast stands at the world's +y end"


@pytest.mark.bpy
def test_one_model_looks_the_same_way_in_every_format(worker: BlenderWorker, tmp_path: Path) -> None:
    """A body with a mast at its front end: y up, front +z; z up, front −y by (x, y, z) → (x, −z, y)."""
    centres = np.array([[0, 0, -1], [0, 0, 0], [0, 0, 1], [0, 1, 1], [0.5, 2, 1]])
    corners = (centres[:, None] + CUBE_CORNERS).reshape(-1, 3)
    quads = np.array(CUBE_FACES) - 1
    faces = np.concatenate([8 * i + quads for i in range(len(centres))])
    triangles = np.concatenate([faces[:, [0, 1, 2]], faces[:, [0, 2, 3]]])
    z_up = np.stack([corners[:, 0], -corners[:, 2], corners[:, 1]], axis=1)
    built = Gltf()
    built.node(mesh=built.mesh(corners, triangles.ravel()))
    (tmp_path / "a.obj").write_text(cubes(centres.tolist(), 1.0))
    (tmp_path / "b.ply").write_bytes(ply(z_up, triangles.tolist()))
    (tmp_path / "c.stl").write_bytes(stl(z_up[triangles]))
    (tmp_path / "d.glb").write_bytes(built.glb())
    (tmp_path / "e.gltf").write_bytes(built.gltf())
    source = make_source({"kind": "folder", "path": str(tmp_path)})
    cameras = cameras_at([20.0, 250.0], [0.3, 0.5])
    alphas = {
        entry.location: render(worker, source.fetch(entry, tmp_path), cameras).images[..., 3].astype(int)
        for entry in source.list({}, 0)
    }
    assert len(alphas) == 5
    for name, alpha in alphas.items():
        assert np.abs(alpha - alphas["a.obj"]).mean() < 0.2, name
