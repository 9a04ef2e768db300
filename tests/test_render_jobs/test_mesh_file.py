from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from render_jobs.mesh_file import MeshError, check_mesh_file, find_texture, material_libraries

FOREIGN = {
    "empty_file": [b"", b" \n\t\r\n"],
    "lfs_pointer": [b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"],
    "html_page": [b"<!DOCTYPE html><html><body>404</body></html>", b"\n <HTML>moved</HTML>"],
}


@pytest.mark.parametrize(("kind", "content"), [(k, c) for k, contents in FOREIGN.items() for c in contents])
def test_files_that_are_no_mesh(tmp_path: Path, kind: str, content: bytes) -> None:
    path = tmp_path / "mesh.obj"
    path.write_bytes(content)
    with pytest.raises(MeshError) as caught:
        check_mesh_file(path)
    assert caught.value.kind == kind
    assert "mesh.obj" in str(caught.value)


@pytest.mark.parametrize("name", ["nothing.obj", ""])
def test_missing_files_and_folders(tmp_path: Path, name: str) -> None:
    with pytest.raises(MeshError) as caught:
        check_mesh_file(tmp_path / name)
    assert caught.value.kind == "missing_file"


def test_a_mesh_passes_with_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "mesh.obj"
    path.write_bytes(b"# <html> in a comment\nv 0 0 0\n" * 10_000)
    assert check_mesh_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_material_libraries(tmp_path: Path) -> None:
    path = tmp_path / "mesh.obj"
    path.write_bytes(b"# comment\r\nmtllib my material.mtl\r\nmtllib\nmtllib b.mtl\nv 0 0 0\n")
    assert material_libraries(path) == ["my material.mtl", "b.mtl"]


@pytest.mark.parametrize("folder", ["models", "models/images", "images"])
@pytest.mark.parametrize("written", [r"C:\Users\me\Wood.JPG", "../textures/wood.jpg", r"..\images\WOOD.jpg"])
def test_textures_are_found_by_name(tmp_path: Path, folder: str, written: str) -> None:
    mesh = tmp_path / "models" / "model.obj"
    mesh.parent.mkdir()
    (tmp_path / folder).mkdir(exist_ok=True)
    texture = tmp_path / folder / "wood.jpg"
    texture.write_bytes(b"")
    assert find_texture(written, mesh) == texture
    assert find_texture("other.jpg", mesh) is None


@pytest.mark.parametrize(
    "vertex",
    [
        "nan 0 0",
        "0 NaN 0",
        "0 0 -inf",
        "1e60 0 0",
        "0 1.5E+39 0",
        "1.#QNAN 0 0",
        "1,5 0 0",
        "abc 0 0",
        "0x1 0 0",
        "1 2",
        "",
    ],
)
def test_vertices_that_the_importer_would_make_zero_are_found(tmp_path: Path, vertex: str) -> None:
    path = tmp_path / "mesh.obj"
    path.write_text(f"# mesh\nv 1 2 3\nv {vertex}\nv 1 2 3\n")
    with pytest.raises(MeshError, match=r"mesh.obj, line 3: ") as caught:
        check_mesh_file(path)
    assert caught.value.kind == "bad_vertex"


@pytest.mark.parametrize(
    "vertex",
    ["1 2 3", "-1.5e-3 +.5 7.", "1 2 3 1.0", "1 2 3 0.1 0.2 0.3", "1e-60 1e37 1E+05", "\t1\t2\t3 \r"],
)
def test_every_way_to_write_a_vertex_passes(tmp_path: Path, vertex: str) -> None:
    path = tmp_path / "mesh.obj"
    path.write_bytes(f"v {vertex}\nvn nan nan nan\nvt nan 0\nv {vertex}".encode())
    check_mesh_file(path)
