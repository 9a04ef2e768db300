"""Meshes of any supported format in a folder, or those that a glob names, on a disk or behind an fsspec URL.

An object's id is made of its path, its class is the first sub-folder. Axes by format, so that one model saved
in each of them looks the same way: OBJ and glTF are y up and front +z (glTF's rule, and what Blender's
OBJ exporter writes); PLY and STL are z up and front −y (Blender's own).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path, PurePosixPath

from fsspec.utils import glob_translate

from render_jobs.mesh_file import MeshInput
from render_jobs.normalize import Axis
from render_jobs.sources.axes import chosen_axes
from render_jobs.sources.base import ObjectEntry, ObjectLocation
from render_jobs.sources.companions import copy_with_companions
from render_jobs.sources.files import SourceFiles, is_local, path_of_stored, stored_name
from render_jobs.sources.mesh_cache import MeshCache
from render_jobs.sources.names import digest_of, readable_name
from render_jobs.sources.shapenet import chosen_part
from render_jobs.sources.synsets import class_of
from storage.errors import UsageError

# Aliases, because the class below has a method named list.
Entries = list[ObjectEntry]
Names = list[str]

FORMATS: dict[str, tuple[Axis, Axis]] = {
    ".obj": ("y", "z"),
    ".gltf": ("y", "z"),
    ".glb": ("y", "z"),
    ".ply": ("z", "-y"),
    ".stl": ("z", "-y"),
}
"""Ending of a mesh file (any case) → its up and front axes."""
_WILD = re.compile(r"[*?\[]")


class FolderSource:
    """A folder of meshes.

    Args:
        path: Local folder or fsspec URL, a mesh file, or a glob: `*` within a folder, `**` through folders.
        up: Axis that points up in every file, if it is not the format's.
        front: Axis that points to the front in every file, if it is not the format's.
        class_name: The class of all meshes; None takes the first sub-folder, or the folder's own name.
        cache: Keeps fetched meshes; None fetches a remote mesh each time.

    Raises:
        EnvironmentProblem: The URL's protocol needs a package that is not installed.
    """

    name = "folder"

    def __init__(
        self,
        path: str,
        up: Axis | None = None,
        front: Axis | None = None,
        class_name: str | None = None,
        cache: MeshCache | None = None,
    ) -> None:
        self._path = path
        root, self._pattern = _split_glob(path)
        self._files = SourceFiles(self.name, root)
        self._up, self._front = up, front
        self._class_name = class_name
        self._cache = cache

    def list(self, classes: dict[str, int | None], seed: int) -> Entries:
        """Lists meshes, class by class in the order asked for, by path within a class; see `Source.list`.

        Raises:
            UsageError: No folder or one that holds everything, no meshes, unknown class, or fewer meshes than
                asked for.
            ConfigError: Up and front of a format along one line.
        """
        self._check_root()
        sizes = self._files.find()
        meshes = [path for path in sizes if self._is_wanted(path)]
        if not meshes:
            raise UsageError(f"source folder: no meshes in {self._path}; known endings: {', '.join(FORMATS)}")
        for path in {PurePosixPath(path).suffix.lower(): path for path in meshes}.values():
            self._axes_of(path)  # contradicting axes are said now, not once per object
        ids = _object_ids(meshes)
        by_class: dict[str, Names] = {}
        for path in meshes:
            by_class.setdefault(self._class_of(path), []).append(path)
        entries: Entries = []
        for asked in classes or dict.fromkeys(sorted(by_class)):
            class_name = class_of(asked)
            if class_name not in by_class:
                known = ", ".join(sorted(by_class))
                raise UsageError(f"source folder: no class {asked!r} in {self._path}; classes there: {known}")
            paths, count = by_class[class_name], classes.get(asked)
            chosen = chosen_part(paths, count, seed, class_name, f"source folder, class {asked}")
            prints = self._files.in_parallel(lambda path: self._fingerprint(path, sizes), chosen)
            entries += [
                ObjectEntry(ids[path], class_name, stored_name(path), found)
                for path, found in zip(chosen, prints, strict=True)
            ]
        return entries

    def _check_root(self) -> None:
        """Raises UsageError for no folder, and for one that would let meshes refer to anybody's files."""
        self._files.check_folder()
        local = self._files.local
        if local is not None and local.resolve() in {Path("/"), Path.home().resolve().parent}:
            raise UsageError(
                f"source folder: {self._path} reaches over all of {local}, and meshes may name any file: "
                "name the folder that holds the meshes"
            )

    def fetch(self, entry: ObjectLocation, folder: Path) -> MeshInput:
        """Returns the mesh; a remote one is copied into `folder` with the files that it refers to.

        Raises:
            FileNotFoundError, EnvironmentProblem, TransientError: See `Source.fetch`.
        """
        with self._files.blaming_the_folder():
            return self._fetch(path_of_stored(entry.location), entry.fingerprint, folder)

    def _fetch(self, location: str, fingerprint: str, folder: Path) -> MeshInput:
        root = self._files.provide(
            location,
            fingerprint,
            folder / "files",
            self._cache,
            lambda into: copy_with_companions(self._files, location, into),
        )
        return MeshInput(root / location, root, *self._axes_of(location))

    def _axes_of(self, path: str) -> tuple[Axis, Axis]:
        return chosen_axes(self._up, self._front, FORMATS[PurePosixPath(path).suffix.lower()])

    def _is_wanted(self, path: str) -> bool:
        parts = PurePosixPath(path).parts
        if any(part.startswith(".") for part in parts) or PurePosixPath(path).suffix.lower() not in FORMATS:
            return False
        return self._pattern is None or self._pattern.match(path) is not None

    def _class_of(self, path: str) -> str:
        if self._class_name is not None:
            return self._class_name
        parts = PurePosixPath(path).parts
        if len(parts) > 1:
            return class_of(readable_name(parts[0]))
        return readable_name(self._files.url.rstrip("/").rpartition("/")[2] or "mesh")

    def _fingerprint(self, path: str, sizes: dict[str, int | None]) -> str:
        """Hashes size, head and tail of the mesh, and sizes of files beside it that share its stem."""
        size = self._files.known_size(path, sizes[path])
        digest = hashlib.sha256(f"{size}\n".encode())
        for end in self._files.ends(path, size):
            digest.update(end)
        stem = str(PurePosixPath(path).with_suffix(""))
        for ending in (".mtl", ".bin", ".png", ".jpg"):
            if (beside := stem + ending) in sizes:
                digest.update(f"{ending}\0{self._files.known_size(beside, sizes[beside])}\n".encode())
        return digest.hexdigest()


def _split_glob(path: str) -> tuple[str, re.Pattern[str] | None]:
    """Returns the folder before the first wildcard, or of the one file, and what paths in it must match."""
    local = Path(path) if is_local(path) else None
    is_mesh = not _WILD.search(path) and PurePosixPath(path).suffix.lower() in FORMATS
    if (is_mesh and not (local and local.is_dir())) or (local and local.is_file()):
        root, _, name = path.rpartition("/")
        return root or "/", re.compile(re.escape(name) + r"\Z")
    if not _WILD.search(path) or (local and local.is_dir()):
        return path, None
    parts = path.split("/")
    first_wild = next(i for i, part in enumerate(parts) if _WILD.search(part))
    root = "/".join(parts[:first_wild])
    return root or "/", re.compile(glob_translate("/".join(parts[first_wild:])))


def _object_ids(paths: Names) -> dict[str, str]:
    """Returns path → id: the readable path without ending, and a hash where that would not be unique."""
    stems = {path: str(PurePosixPath(path).with_suffix("")) for path in paths}
    plain = {path: readable_name(stem.replace("/", "-")) for path, stem in stems.items()}
    count = Counter(name.casefold() for name in plain.values())
    return {
        path: name if count[name.casefold()] == 1 else f"{name}-{digest_of(path)}"
        for path, name in plain.items()
    }
