"""Meshes in ShapeNetCore's folders, on a disk or behind any fsspec URL.

v2: `<synset>/<id>/models/model_normalized.obj`, v1: `<synset>/<id>/model.obj`; textures lie in `images/` or
beside the mesh. Files are y-up; the front of v2 models is −z of the file, which is +y of the world (see
`normalize`).
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

from render_jobs.mesh_file import MeshInput
from render_jobs.sources.base import ObjectEntry, ObjectLocation
from render_jobs.sources.synsets import class_of, synset_of
from storage.errors import EnvironmentProblem, TransientError, UsageError

LOGGER = logging.getLogger(__name__)

# Aliases, because the class below has a method named list.
Entries = list[ObjectEntry]
Names = list[str]

MESH_NAMES = ("models/model_normalized.obj", "model.obj")
_SAMPLE_BYTES = 1 << 16


class ShapeNetSource:
    """A folder of `<synset>/<id>/…`.

    Args:
        path: Local folder or fsspec URL.

    Raises:
        EnvironmentProblem: The URL's protocol needs a package that is not installed.
    """

    name = "shapenet"

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._files, self._root = fsspec.core.url_to_fs(path)
        except (ImportError, ValueError) as error:
            raise EnvironmentProblem(f"source shapenet: {path} cannot be opened: {error}") from error
        self._local = "file" in _protocols(self._files)

    def list(self, classes: dict[str, int | None], seed: int) -> Entries:
        """Lists objects, class by class in the order asked for, by id within a class; see `Source.list`."""
        if not self._files.isdir(self._root):
            raise UsageError(f"source shapenet: {self._path} is not a folder")
        wanted = classes or dict.fromkeys(self._classes())
        entries: Entries = []
        for asked, count in wanted.items():
            entries += self._class_entries(asked, count, seed)
        return entries

    def fetch(self, entry: ObjectLocation, folder: Path) -> MeshInput:
        """Returns the mesh; a remote model is copied into `folder` with its materials and textures."""
        if self._local:
            path = Path(self._root) / entry.location
            if not path.is_file():
                raise FileNotFoundError(f"{entry.location} is not in {self._path}")
            return _mesh_input(Path(self._root), entry.location)
        model = _model_folder(entry.location)
        try:
            self._files.get(self._join(model), str(folder / "model"), recursive=True)
        except FileNotFoundError:
            raise FileNotFoundError(f"{entry.location} is not in {self._path}") from None
        except (OSError, TimeoutError) as error:
            raise TransientError(f"{entry.object_id}: fetching {model} failed: {error}") from error
        return MeshInput(folder / "model" / Path(entry.location).relative_to(model), folder / "model")

    def _class_entries(self, asked: str, count: int | None, seed: int) -> Entries:
        synset = synset_of(asked)
        class_name = class_of(synset)
        locations = self._meshes(synset)
        if not locations:
            known = ", ".join(self._classes()) or "none"
            raise UsageError(f"source shapenet: no class {asked!r} in {self._path}; classes there: {known}")
        if count is not None and count > len(locations):
            raise UsageError(
                f"source shapenet: {count} of class {asked} asked for, {len(locations)} are there"
            )
        if count is not None:
            chosen = np.random.default_rng([seed, int(_digest(synset)[:8], 16)]).permutation(len(locations))
            locations = [locations[i] for i in sorted(chosen[:count].tolist())]
        return [self._entry(class_name, location) for location in locations]

    def _entry(self, class_name: str, location: str) -> ObjectEntry:
        model = _model_folder(location).rsplit("/", 1)[-1]
        prefix = f"{class_name}-"
        object_id = model if model.startswith(prefix) else prefix + model
        return ObjectEntry(object_id, class_name, location, self._fingerprint(location))

    def _subfolders(self, relative: str) -> Names:
        try:
            found = self._files.ls(self._join(relative), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = [
            entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in found if entry["type"] == "directory"
        ]
        return sorted(name for name in names if not name.startswith("."))

    def _classes(self) -> Names:
        """Classes in the order of their folders; folders that hold no mesh (licences, say) are none."""
        return [class_of(folder) for folder in self._subfolders("") if self._meshes(folder)]

    def _meshes(self, synset: str) -> Names:
        return [mesh for model in self._subfolders(synset) if (mesh := self._mesh_of(synset, model))]

    def _mesh_of(self, synset: str, model: str) -> str | None:
        for name in MESH_NAMES:
            location = f"{synset}/{model}/{name}"
            if self._files.exists(self._join(location)):
                return location
        LOGGER.debug("source shapenet: %s/%s holds no mesh", synset, model)
        return None

    def _fingerprint(self, location: str) -> str:
        """Hashes sizes of all files of the model, and head and tail of the mesh: cheap, and not the path."""
        path = self._join(location)
        details = self._files.find(self._join(_model_folder(location)), detail=True)
        digest = hashlib.sha256()
        for name in sorted(details):
            digest.update(f"{name.removeprefix(self._root)}\0{details[name]['size']}\n".encode())
        size = self._files.size(path)
        digest.update(self._files.cat_file(path, start=0, end=min(size, _SAMPLE_BYTES)))
        digest.update(self._files.cat_file(path, start=max(0, size - _SAMPLE_BYTES), end=size))
        return digest.hexdigest()

    def _join(self, relative: str) -> str:
        return f"{self._root.rstrip('/')}/{relative}".rstrip("/")


def _mesh_input(root: Path, location: str) -> MeshInput:
    return MeshInput(root / location, root / _model_folder(location))


def _model_folder(location: str) -> str:
    return "/".join(location.split("/")[:2])


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
