from __future__ import annotations

import time
from pathlib import Path

import pytest
from PIL import Image

from render_jobs.formats.mtl import file_name
from render_jobs.formats.obj import ObjFile, material_libraries
from render_jobs.mesh_file import FileLimits, MeshError, MeshInput
from render_jobs.prepare import PreparedMesh, prepare_mesh
from tests.test_render_jobs.meshes import CUBE


def prepared(tmp_path: Path, obj: str | bytes, **files: bytes) -> PreparedMesh:
    (tmp_path / "root").mkdir(exist_ok=True)
    for name, content in {"mesh.obj": obj, **files}.items():
        path = tmp_path / "root" / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "private").mkdir()
    mesh = MeshInput(tmp_path / "root/mesh.obj", tmp_path / "root")
    return prepare_mesh(mesh, tmp_path / "private", FileLimits(mesh_bytes=1 << 26))


def library_of(mesh: PreparedMesh) -> bytes:
    assert isinstance(mesh.content, ObjFile)
    [path] = mesh.content.path.parent.glob("*.mtl")
    return path.read_bytes()


def test_a_plain_mesh_is_linked_and_its_library_rewritten(tmp_path: Path) -> None:
    files = {
        "my paint.mtl": b"newmtl a\nKd 1 0.5 0\nKs 1 1 1\nbump x.png\nd 0.5\nmap_Kd a.png\nmap_Ks b.png\n"
    }
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    files["a.png"] = (tmp_path / "a.png").read_bytes()
    mesh = prepared(tmp_path, "mtllib my paint.mtl\n" + CUBE, **files)
    assert isinstance(mesh.content, ObjFile)
    assert mesh.content.path.resolve() == tmp_path / "root/mesh.obj"
    assert mesh.content.has_materials
    assert library_of(mesh) == b"newmtl a\nKd 1 0.5 0\nd 0.5\nmap_Kd links/texture0.png\n"
    assert mesh.warnings == []
    assert len(mesh.sha256) == 64


@pytest.mark.parametrize(
    "line",
    [
        "mtllib ./paint.mtl",
        "mtllib C:\\models\\Paint.MTL",
        "  mtllib ../root/paint.mtl",
        "mtllib paint.mtl other.mtl",
        "mtllib paint.mtl\nmtllib gone.mtl",
        "mtllib \\\npaint.mtl",
    ],
)
def test_libraries_under_any_name_become_ours(tmp_path: Path, line: str) -> None:
    mesh = prepared(
        tmp_path,
        f"{line}\nusemtl mtllib\n{CUBE}",
        **{"paint.mtl": b"newmtl mtllib\r\nKd 1 0 0\r\n", "other.mtl": b""},
    )
    assert library_of(mesh) == b"newmtl mtllib\nKd 1 0 0\n"
    assert isinstance(mesh.content, ObjFile)
    text = mesh.content.path.read_bytes()
    assert b"\nusemtl mtllib\n" in text
    assert material_libraries(text) in ([], [b"paint.mtl other.mtl"])
    assert [w for w in mesh.warnings if "gone.mtl is missing" not in w] == []


@pytest.mark.parametrize("line", ["mtllib ../secret.mtl", "mtllib /{tmp}/secret.mtl", "mtllib link.mtl"])
def test_libraries_outside_the_root_are_not_read(tmp_path: Path, line: str) -> None:
    (tmp_path / "secret.mtl").write_text("newmtl a\nKd 1 0 0\n")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link.mtl").symlink_to(tmp_path / "secret.mtl")
    mesh = prepared(tmp_path, line.format(tmp=tmp_path) + "\nusemtl a\n" + CUBE)
    assert b"newmtl" not in b"".join(p.read_bytes() for p in (tmp_path / "private").glob("*.mtl"))
    assert "outside" in mesh.warnings[0]


def test_a_library_of_the_meshs_own_name_counts_without_being_named(tmp_path: Path) -> None:
    mesh = prepared(tmp_path, CUBE, **{"mesh.mtl": b"newmtl a\nKd 1 0 0\n"})
    assert library_of(mesh) == b"newmtl a\nKd 1 0 0\n"


def test_a_mesh_without_library_does_not_list_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a flat folder of n meshes that would be n² entries."""
    monkeypatch.setattr("os.listdir", lambda *_: pytest.fail("the folder was listed"))
    assert library_of(prepared(tmp_path, CUBE)) == b""


def test_a_mesh_that_is_its_own_library_is_no_problem(tmp_path: Path) -> None:
    mesh = prepared(tmp_path, "mtllib mesh.obj\ncall mesh.obj\n" + CUBE)
    assert library_of(mesh) == b""


@pytest.mark.parametrize(
    "name", ["texture0.png", "links", "links/texture0.png", "mesh.obj", ".", "..", '"."']
)
def test_no_name_in_a_mesh_makes_us_write_into_its_files(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "paint.png")
    files = {"paint.png": (tmp_path / "paint.png").read_bytes()}
    library = b"newmtl a\nmap_Kd paint.png\n"
    mesh = prepared(
        tmp_path, f"mtllib {name}\n" + CUBE, **files, **{"mesh.mtl": library, "texture0.png": library}
    )
    assert (tmp_path / "root/paint.png").read_bytes() == files["paint.png"]
    assert (tmp_path / "root/texture0.png").read_bytes() == library
    assert library_of(mesh).endswith(b"newmtl a\nmap_Kd links/texture0.png\n")
    assert isinstance(mesh.content, ObjFile)
    linked = {
        str(p.relative_to(tmp_path / "private")) for p in (tmp_path / "private").rglob("*") if p.is_symlink()
    }
    assert linked <= {"mesh.obj", "links/texture0.png"}


def test_values_that_are_none_are_left_out(tmp_path: Path) -> None:
    mtl = b"Kd 1 1 1\nnewmtl a\nKd nan 0 0\nKd 0.5\nd -halo 0.25\nd 1e60\nKd spectral x.rfl\nnewmtl\n"
    mesh = prepared(tmp_path, CUBE, **{"mesh.mtl": mtl})
    assert library_of(mesh) == b"newmtl a\nKd 0.5 0.5 0.5\nd 0.25\nnewmtl \n"
    assert len(mesh.warnings) == 3


def test_warnings_are_bounded(tmp_path: Path) -> None:
    mtl = b"".join(b"newmtl m%d\nmap_Kd t%d.png\n" % (i, i) for i in range(1000))
    mesh = prepared(tmp_path, CUBE, **{"mesh.mtl": mtl})
    assert len(mesh.warnings) == 21
    assert mesh.warnings[-1] == "and 980 more warnings"


@pytest.mark.parametrize(
    ("rest", "name"),
    [
        (b"a b.png", b"a b.png"),
        (b"-s 1 1 1 -o 0 0 a.png", b"a.png"),
        (b"-clamp on -mm 0 1 a b.png", b"a b.png"),
        (b"-x.png", b"-x.png"),
        (b"", b""),
    ],
)
def test_options_of_textures(rest: bytes, name: bytes) -> None:
    assert file_name(rest) == name


BAD_VERTICES = ["nan 0 0", "0 NaN 0", "0 0 -inf", "1e60 0 0", "0 1.5E+39 0", "1.#QNAN 0 0", "1,5 0 0"]
BAD_VERTICES += ["abc 0 0", "0x1 0 0", "1 2", ""]


@pytest.mark.parametrize("vertex", BAD_VERTICES)
@pytest.mark.parametrize("indent", ["", "  "])
def test_vertices_that_the_importer_would_make_zero_are_found(
    tmp_path: Path, vertex: str, indent: str
) -> None:
    with pytest.raises(MeshError, match=r"mesh.obj, line 3: ") as caught:
        prepared(tmp_path, f"# mesh\nv 1 2 3\n{indent}v {vertex}\nv 1 2 3\nf 1 2 3\n")
    assert caught.value.kind == "bad_vertex"


def test_vertices_that_are_fine(tmp_path: Path) -> None:
    prepared(
        tmp_path,
        "v 1 2 3\nv\t-1.5  +.5 1.\r\nv 1e-60 1E+37 -2.5e+07\nvn nan 0 0\nvt inf 0\nv 0 0 0 0.5 nan 0.5\n"
        "vertex\n v 0 0 0 1.0\nv 1 \\\n2 3\nf 1 2 3\nv 1 2 3",
    )


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("not_a_mesh", b"PK\x03\x04" + bytes(1000)),
        ("not_a_mesh", b"just some text\n"),
        ("not_a_mesh", "v 0 0 0\nf 1 1 1\n".encode("utf-16")),
        ("truncated", b"v 0 0 0\nv 1 0 0\nv 0 1"),
        ("truncated", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\nf 1 2"),
        ("truncated", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1/1 2/2 3/"),
        ("bad_index", b"f 1 2 3\n"),
    ],
)
def test_files_that_are_no_whole_mesh(tmp_path: Path, kind: str, content: bytes) -> None:
    with pytest.raises(MeshError) as caught:
        prepared(tmp_path, content)
    assert caught.value.kind == kind


def test_long_lines_and_large_files_take_no_time(tmp_path: Path) -> None:
    text = b"#" + b" v 1 2" * 5_000_000 + b"\n" + CUBE.encode()
    began = time.process_time()
    prepared(tmp_path, text)
    assert time.process_time() - began < 3.0, "30 MB in one line"
