"""The files that a mesh refers to: which they are, and how they are fetched with it from afar.

OBJ: material libraries, and the textures that these name; glTF: buffers and images. Files outside the
source's folder are never fetched, and what is not there is left for the renderer to complain about. A texture
whose written path does not lead anywhere (a Windows path, say) is looked for by its name near the mesh.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
import re
import struct
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from render_jobs.mesh_file import MeshError
from render_jobs.sources.files import SourceFiles

MAX_OBJECT_BYTES = 4 << 30
"""What one mesh and all that belongs to it may take."""
MAX_COMPANIONS = 1000

_LIBRARY = re.compile(rb"^[ \t]*mtllib[ \t]+([^\r\n]+)", re.MULTILINE)
_MAP = re.compile(rb"^[ \t]*map_\w+[ \t]+([^\r\n]+)", re.MULTILINE)
# Options of an mtl texture and how many values follow; -o, -s and -t take one to three numbers.
_OPTION = re.compile(
    r"-(?:(?:o|s|t)(?:\s+[-+.\deE]+){1,3}|mm\s+\S+\s+\S+|"
    r"(?:blendu|blendv|boost|texres|clamp|bm|imfchan|type|cc|colorspace)\s+\S+)\s+"
)
_GLB_HEAD = struct.Struct("<4sIIII")
_JSON_CHUNK = 0x4E4F534A


def copy_with_companions(files: SourceFiles, location: str, folder: Path) -> None:
    """Copies a mesh and the files that it refers to, under their paths relative to the source's folder.

    Raises:
        FileNotFoundError: The mesh is not there.
        MeshError: kind too_large.
        TransientError: A fault of the connection that may go away.
    """
    budget = _Budget(location)
    waiting = {location: files.size(location)}
    seen: set[str] = set()
    while waiting:
        for n_bytes in waiting.values():
            budget.take(n_bytes)
        files.copy(waiting, folder)
        seen.update(waiting)
        places = [names for path in waiting for names in _references(folder / path, path) if names]
        found = dict(filter(None, files.in_parallel(lambda names: _first(files, names), places)))
        waiting = {path: size for path, size in found.items() if path not in seen}
        if len(seen) + len(waiting) > MAX_COMPANIONS:
            raise MeshError("too_large", f"{location} refers to more than {MAX_COMPANIONS} files")


class _Budget:
    """Counts bytes up to the bound."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._left = MAX_OBJECT_BYTES

    def take(self, n_bytes: int) -> None:
        self._left -= n_bytes
        if self._left < 0:
            raise MeshError(
                "too_large", f"{self._location} and what it refers to hold more than {MAX_OBJECT_BYTES} bytes"
            )


def _first(files: SourceFiles, places: list[str]) -> tuple[str, int] | None:
    """Returns the first of some places where there is a file, and its size."""
    for path in places:
        with contextlib.suppress(FileNotFoundError):
            return path, files.size(path)
    return None


def _references(path: Path, location: str) -> Iterator[list[str]]:
    """Yields, for each file that a fetched file refers to, the places where it may be, likeliest first."""
    ending = path.suffix.lower()
    folder = posixpath.dirname(location)
    if ending == ".obj":
        for written in _LIBRARY.findall(path.read_bytes()):
            yield _inside(folder, written.decode(errors="surrogateescape").strip())
    elif ending == ".mtl":
        for written in _MAP.findall(path.read_bytes()):
            yield _texture_places(folder, written.decode(errors="surrogateescape").strip())
    elif ending in {".gltf", ".glb"}:
        for uri in _uris(path):
            yield _inside(folder, unquote(uri))


def _texture_places(folder: str, written: str) -> list[str]:
    while match := _OPTION.match(written):
        written = written[match.end() :]
    name = PurePosixPath(written.replace("\\", "/")).name
    near = [place for beside in ("", "images/", "../images/") for place in _inside(folder, beside + name)]
    return list(dict.fromkeys([*_inside(folder, written), *near]))


def _inside(folder: str, written: str) -> list[str]:
    """Returns the path relative to the source's folder; nothing when it leads out of it."""
    slashed = written.replace("\\", "/")
    if not slashed or slashed.startswith("/") or re.match(r"^[A-Za-z][A-Za-z0-9+.-]*:", slashed):
        return []
    path = posixpath.normpath(posixpath.join(folder, slashed))
    return [] if path == "." or path.split("/")[0] == ".." else [path]


def _uris(path: Path) -> list[str]:
    """Returns what a glTF file names as buffers and images; nothing when it cannot be read."""
    try:
        document = json.loads(_gltf_text(path))
        parts = [*document.get("buffers", []), *document.get("images", [])]
        return [part["uri"] for part in parts if _names_file(part)]
    except (ValueError, AttributeError, TypeError, struct.error):
        return []  # no glTF: the renderer says so


def _names_file(part: Any) -> bool:
    uri = part.get("uri")
    return isinstance(uri, str) and not uri.startswith("data:")


def _gltf_text(path: Path) -> bytes:
    data = path.read_bytes()
    if not data.startswith(b"glTF"):
        return data
    _, _, _, length, kind = _GLB_HEAD.unpack_from(data)
    return data[_GLB_HEAD.size : _GLB_HEAD.size + length] if kind == _JSON_CHUNK else b"{}"
