"""The files that a mesh refers to: which they are, and how they are fetched with it from afar.

OBJ: material libraries, and the textures that these name; glTF: buffers and images. Files outside the
source's folder are never fetched, and what is not there is left for the renderer to complain about. Names are
read and looked for by the rules of the readers, so that a mesh looks the same from afar and from a disk.
"""

from __future__ import annotations

import json
import posixpath
import re
import struct
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote_to_bytes

from render_jobs.formats.mtl import texture_names
from render_jobs.formats.obj import default_libraries, library_names, plain_lines
from render_jobs.mesh_file import MeshError
from render_jobs.references import IMAGE_FOLDERS, last_part, spellings
from render_jobs.sources.files import SourceFiles

MAX_OBJECT_BYTES = 4 << 30
"""What one mesh and all that belongs to it may take."""
MAX_COMPANIONS = 1000

_GLB_HEAD = struct.Struct("<4sIIII")
_JSON_CHUNK = 0x4E4F534A


def copy_with_companions(files: SourceFiles, location: str, folder: Path) -> None:
    """Copies a mesh and the files that it refers to, under their paths relative to the source's folder.

    Raises:
        FileNotFoundError: The mesh is not there.
        MeshError: kind too_large.
        TransientError: A fault of the connection that may go away.
    """
    copy = _Copy(files, location, folder)
    copy.fetch({location: files.size(location)})
    around = _Finder(files, posixpath.dirname(location))
    ending = PurePosixPath(location).suffix.lower()
    if ending == ".obj":
        libraries = _libraries(folder / location, around)
        copy.fetch(libraries)
        for library in libraries:
            beside = _Finder(files, posixpath.dirname(library))
            copy.fetch(_textures(folder / library, around, beside))
    elif ending in {".gltf", ".glb"}:
        copy.fetch(_found(_uris(folder / location), around))


class _Copy:
    """The copy of one mesh and what belongs to it, up to the bounds."""

    def __init__(self, files: SourceFiles, location: str, folder: Path) -> None:
        self._files, self._location, self._folder = files, location, folder
        self._left_bytes = MAX_OBJECT_BYTES
        self._copied: set[str] = set()

    def fetch(self, sizes: dict[str, int]) -> None:
        """Copies files, given as path → size, that are not copied yet."""
        new = {path: size for path, size in sizes.items() if path not in self._copied}
        self._left_bytes -= sum(new.values())
        if self._left_bytes < 0:
            reason = f"{self._location} and what it refers to hold more than {MAX_OBJECT_BYTES} bytes"
            raise MeshError("too_large", reason)
        self._copied |= new.keys()
        if len(self._copied) > MAX_COMPANIONS:
            raise MeshError("too_large", f"{self._location} refers to more than {MAX_COMPANIONS} files")
        self._files.copy(new, self._folder)


class _Finder:
    """Finds files by the names that a mesh or a library has for them, as `MeshFolder` does on a disk.

    Args:
        files: The source's files.
        folder: Names are relative to it.
    """

    def __init__(self, files: SourceFiles, folder: str) -> None:
        self.files, self._folder = files, folder

    def find(self, written: bytes) -> tuple[str, int] | None:
        """Returns the path of a file and its size."""
        found = self.find_plain(written)
        if found is not None:
            return found
        for name in spellings(written):
            for path in self._by_name.get(last_part(name).lower(), []):
                if (size := self._size(path)) is not None:
                    return path, size
        return None

    def find_plain(self, written: bytes) -> tuple[str, int] | None:
        """Returns path and size of the file of exactly that name."""
        for name in spellings(written):
            path = _inside(self._folder, name)
            size = self._size(path) if path else None
            if size is not None:
                return path, size
        return None

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for folder in IMAGE_FOLDERS:
            path = posixpath.normpath(posixpath.join(self._folder, folder))
            if path.split("/")[0] != "..":
                path = "" if path == "." else path
                for name in self.files.names(path):
                    found.setdefault(name.lower(), []).append(posixpath.join(path, name))
        return found

    def _size(self, path: str) -> int | None:
        try:
            return self.files.size(path)
        except FileNotFoundError:
            return None


def _libraries(mesh: Path, around: _Finder) -> dict[str, int]:
    text = plain_lines(mesh.read_bytes())
    names = library_names(text, lambda name: around.find(name) is not None)
    found = _found(names, around)
    unnamed = default_libraries(mesh.name)
    if not set(unnamed) & set(names):
        found.update(filter(None, map(around.find_plain, unnamed)))
    return found


def _textures(library: Path, around: _Finder, beside: _Finder) -> dict[str, int]:
    return _found(texture_names(library.read_bytes()), around, beside)


def _found(names: list[bytes], *finders: _Finder) -> dict[str, int]:
    """Returns path → size of the files that there are; of each the one that the first finder knows."""

    def find(name: bytes) -> tuple[str, int] | None:
        return next(filter(None, (finder.find(name) for finder in finders)), None)

    return dict(filter(None, finders[0].files.in_parallel(find, names)))


def _inside(folder: str, name: str) -> str:
    """Returns the path relative to the source's folder; empty when it leads out of it."""
    if not name or "\0" in name or name.startswith("/") or re.match(r"^[A-Za-z][A-Za-z0-9+.-]*:", name):
        return ""
    path = posixpath.normpath(posixpath.join(folder, name))
    return "" if path == "." or path.split("/")[0] == ".." else path


def _uris(path: Path) -> list[bytes]:
    """Returns what a glTF file names as buffers and images; nothing when it cannot be read."""
    try:
        document = json.loads(_gltf_text(path))
        parts = [*document.get("buffers", []), *document.get("images", [])]
        return [unquote_to_bytes(part["uri"]) for part in parts if _names_file(part)]
    except (ValueError, AttributeError, TypeError, struct.error):
        return []  # no glTF: the renderer says so


def _names_file(part: Any) -> bool:
    uri = part.get("uri") if isinstance(part, dict) else None
    return isinstance(uri, str) and not uri.startswith("data:")


def _gltf_text(path: Path) -> bytes:
    data = path.read_bytes()
    if not data.startswith(b"glTF"):
        return data
    _, _, _, length, kind = _GLB_HEAD.unpack_from(data)
    return data[_GLB_HEAD.size : _GLB_HEAD.size + length] if kind == _JSON_CHUNK else b"{}"
