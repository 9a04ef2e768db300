"""Files that a mesh refers to: found where the mesh says or by name, and never outside the mesh's root.

Names in mesh files come from other machines: Windows paths, other letter case, moved folders, other
encodings. What counts is the real path, with all links resolved.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

IMAGE_FOLDERS = (".", "images", "../images")
"""Where ShapeNet v1 and v2 keep textures, seen from the mesh."""


@dataclass(frozen=True)
class Reference:
    """What became of a name.

    Attributes:
        path: The real path of the file, None when it must not or cannot be read.
        problem: Why not, the end of a sentence such as "is missing".
        unsafe: The name leads out of the root, and nothing of that name is inside.
    """

    path: Path | None
    problem: str = ""
    unsafe: bool = False


class MeshFolder:
    """The files around one mesh.

    Args:
        mesh_path: The mesh; names are relative to its folder.
        root: Nothing outside it is found.
    """

    def __init__(self, mesh_path: Path, root: Path) -> None:
        self._folder = mesh_path.parent
        self._root = root.resolve()
        self._others: dict[Path, MeshFolder] = {}

    def find(self, written: bytes, beside: Path | None = None) -> Reference:
        """Finds the file that a name in the mesh means.

        The name is tried as it stands, then its last part is looked for, in any letter case, beside the mesh
        and in the folders of images.

        Args:
            written: The name as it stands in the file, in whatever encoding.
            beside: The real path of the file that has the name, when it is not the mesh: where nothing is
                found from the mesh, its folder is tried.
        """
        found = self.find_plain(written)
        if found.path is None:
            found = self._find_by_name(written) or found
        if found.path is None and beside is not None and beside.parent != self._folder:
            other = self._others.setdefault(beside.parent, MeshFolder(beside, self._root))
            return Reference(other.find(written).path, found.problem, found.unsafe)
        return found

    def find_plain(self, written: bytes) -> Reference:
        """Finds the file of exactly that name, seen from the mesh."""
        unsafe = False
        for name in spellings(written):
            path = self._real_path(name)
            if path is not None and self._holds(path):
                return Reference(path)
            unsafe = unsafe or "://" in name or (path is not None and not path.is_relative_to(self._root))
        problem = "lies outside the mesh's folder" if unsafe else "is missing"
        return Reference(None, problem, unsafe)

    def _find_by_name(self, written: bytes) -> Reference | None:
        for name in spellings(written):
            for entry in self._by_name.get(last_part(name).lower(), []):
                path = Path(os.path.realpath(entry))
                if self._holds(path):
                    return Reference(path)
        return None

    def _real_path(self, name: str) -> Path | None:
        """Returns None for names of other machines and names that no file can have."""
        if name[1:2] == ":" or "://" in name or "\0" in name:
            return None
        return Path(os.path.realpath(self._folder / name))

    def _holds(self, path: Path) -> bool:
        return path.is_relative_to(self._root) and os.path.isfile(path)  # noqa: PTH113 never raises

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Names in lower case to what has them: whether it may be read is asked of few, as it is slow."""
        found: dict[str, list[str]] = {}
        for folder in IMAGE_FOLDERS:
            directory = (self._folder / folder).resolve()
            if directory.is_relative_to(self._root) and directory.is_dir():
                for name in sorted(os.listdir(directory)):  # noqa: PTH208 names only: folders may be large
                    found.setdefault(name.lower(), []).append(f"{directory}/{name}")
        return found


def last_part(name: str) -> str:
    """Returns what stands behind the last slash."""
    return name.rsplit("/", 1)[-1]


def spellings(written: bytes) -> list[str]:
    """Returns the name as the disk may spell it: the same bytes, or UTF-8 for what was Latin-1."""
    names = [os.fsdecode(written), written.decode("latin-1")]
    return [name.replace("\\", "/") for name in dict.fromkeys(names)]
