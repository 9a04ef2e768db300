from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from render_jobs.mesh_file import MeshError, read_mesh_file, read_regular_file

FOREIGN = {
    "empty_file": [b"", b" \n\t\r\n"],
    "lfs_pointer": [b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"],
    "html_page": [b"<!DOCTYPE html><html><body>404</body></html>", b"\n <HTML>moved</HTML>"],
}


def kind_of(path: Path, limit: int = 1 << 20) -> str:
    with pytest.raises(MeshError) as caught:
        read_mesh_file(path, limit)
    assert path.name in str(caught.value)
    return caught.value.kind


@pytest.mark.parametrize(("kind", "content"), [(k, c) for k, contents in FOREIGN.items() for c in contents])
def test_files_that_are_no_mesh(tmp_path: Path, kind: str, content: bytes) -> None:
    path = tmp_path / "mesh.obj"
    path.write_bytes(content)
    assert kind_of(path) == kind


def test_missing_files_and_names_that_no_file_can_have(tmp_path: Path) -> None:
    assert kind_of(tmp_path / "nothing.obj") == "missing_file"
    assert kind_of(tmp_path / ("x" * 300)) == "missing_file"


def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.obj"
    path.write_bytes(b"v 0 0 0\n")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert kind_of(path) == "missing_file"


@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "folder.obj").mkdir()
    os.mkfifo(tmp_path / "pipe.obj")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.obj"))
        (tmp_path / "device.obj").symlink_to("/dev/zero")
        for name in ("folder.obj", "pipe.obj", "socket.obj", "device.obj"):
            assert kind_of(tmp_path / name) == "not_a_file"


def test_reads_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "mesh.obj"
    path.write_bytes(b"# <html> in a comment\n" * 10)
    assert read_regular_file(path, 220) == path.read_bytes()
    assert kind_of(path, 219) == "too_large"
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # a sparse file: no byte of it is read
    assert kind_of(path, 1 << 30) == "too_large"
