"""Checks of a mesh file before Blender sees it: the OBJ importer reads anything and reports success."""

from __future__ import annotations

import hashlib
from pathlib import Path

_HEAD_BYTES = 4096


class MeshError(ValueError):
    """A mesh that cannot be rendered.

    Attributes:
        kind: Class under which the failure is recorded, such as "missing_file", "html_page", "no_faces".
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def check_mesh_file(path: Path) -> str:
    """Refuses files that are obviously no OBJ file; returns the SHA-256 of the content.

    Raises:
        MeshError: kinds missing_file, empty_file, html_page, lfs_pointer.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MeshError("missing_file", f"{path.name} cannot be read: {error.strerror}") from error
    problem = _foreign_content(head)
    if problem is not None:
        raise MeshError(problem[0], f"{path.name} {problem[1]}")
    return digest


def _foreign_content(head: bytes) -> tuple[str, str] | None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not text:
        return "empty_file", "is empty"
    if text.startswith(b"version https://git-lfs"):
        return "lfs_pointer", "is a Git LFS pointer, not the mesh: fetch it with git lfs pull"
    if text[:1] == b"<" and (b"<html" in text.lower() or b"<!doctype" in text.lower()):
        return "html_page", "is an HTML page, not a mesh: the download failed"
    return None


def material_libraries(path: Path) -> list[str]:
    """Returns the names after mtllib in the head of an OBJ file."""
    with path.open("rb") as file:
        lines = file.read(1 << 16).splitlines()
    return [
        line.split(maxsplit=1)[1].strip().decode(errors="replace")
        for line in lines
        if line.startswith(b"mtllib") and len(line.split(maxsplit=1)) == 2
    ]


def find_texture(written: str, mesh_path: Path) -> Path | None:
    """Finds a texture whose written name does not work here: Windows path, other case, moved.

    Looks for the file's name in the mesh's folder and in the folders that ShapeNet v1 and v2 use.
    """
    name = written.replace("\\", "/").rsplit("/", 1)[-1].lower()
    for folder in (mesh_path.parent, mesh_path.parent / "images", mesh_path.parent.parent / "images"):
        if not folder.is_dir():
            continue
        for candidate in sorted(folder.iterdir()):
            if candidate.name.lower() == name and candidate.is_file():
                return candidate
    return None
