"""The mesh file before Blender sees it: the OBJ importer reads anything and reports success."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from render_jobs.normalize import Axis

_HEAD_BYTES = 4096
# A decimal number that fits a 32-bit float, and vertex lines that do not start with three of them.
_NUMBER = rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE](?:-\d+|\+?0*(?:[0-2]?\d|3[0-7])))?"
_BAD_VERTEX = re.compile(rb"^v[ \t]++(?!(?:%s(?:[ \t]+|(?=[\r\n]|\Z))){3})[^\r\n]*" % _NUMBER, re.MULTILINE)


@dataclass(frozen=True)
class MeshInput:
    """One mesh on the local disk, as `fetch` returns it and Blender gets it.

    Attributes:
        path: The mesh file.
        root: Folder that holds everything the mesh may refer to; materials and textures outside it are
            refused.
        up: The file's axis that points up.
        front: The file's axis that points to the front of the object.
        info: What the source knows about the object, JSON values; recorded with the object, not used.
    """

    path: Path
    root: Path
    up: Axis = "y"
    front: Axis = "-z"
    info: dict[str, Any] = field(default_factory=dict)


class MeshError(ValueError):
    """A mesh that cannot be rendered.

    Attributes:
        kind: Class under which the failure is recorded, such as "missing_file", "html_page", "no_faces".
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def check_mesh_file(path: Path) -> str:
    """Refuses files that are no OBJ file or hold a vertex that the importer would replace by zeros.

    Returns:
        The SHA-256 of the content, 64 hex digits.

    Raises:
        MeshError: kinds missing_file, empty_file, html_page, lfs_pointer, bad_vertex.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MeshError("missing_file", f"{path.name} cannot be read: {error.strerror}") from error
    problem = _foreign_content(content[:_HEAD_BYTES])
    if problem is not None:
        raise MeshError(problem[0], f"{path.name} {problem[1]}")
    bad = _BAD_VERTEX.search(content)
    if bad is not None:
        line, text = content.count(b"\n", 0, bad.start()) + 1, bad[0][:80].decode(errors="replace")
        raise MeshError("bad_vertex", f"{path.name}, line {line}: not three finite coordinates: {text!r}")
    return hashlib.sha256(content).hexdigest()


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
