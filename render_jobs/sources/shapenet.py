"""Meshes in ShapeNetCore's folders, on a disk or behind any fsspec URL.

v2: `<synset>/<id>/models/model_normalized.obj`, v1: `<synset>/<id>/model.obj`; textures lie in `images/` or
beside the mesh. Both are y-up. The front is −z of v2's files and +x of v1's, as the README of each release
says, so that objects of both look along the world's +y.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np

from render_jobs.mesh_file import MeshError, MeshInput
from render_jobs.normalize import Axis
from render_jobs.sources.axes import chosen_axes
from render_jobs.sources.base import ObjectEntry, ObjectLocation
from render_jobs.sources.files import SourceFiles, path_of_stored, stored_name
from render_jobs.sources.mesh_cache import MeshCache
from render_jobs.sources.names import is_text, readable_name
from render_jobs.sources.synsets import class_of, synset_of
from storage.errors import UsageError

LOGGER = logging.getLogger(__name__)

# Aliases, because the class below has a method named list.
Entries = list[ObjectEntry]
Names = list[str]

LAYOUTS: dict[str, tuple[Axis, Axis]] = {
    "models/model_normalized.obj": ("y", "-z"),
    "model.obj": ("y", "x"),
}
"""Where the mesh of a model lies, first v2 then v1, and its up and front axes."""
MAX_MODEL_BYTES = 4 << 30
_NOT_DRAWN = {".binvox", ".json", ".kmz", ".dae", ".off"}


class ShapeNetSource:
    """A folder of `<synset>/<id>/…`.

    Args:
        path: Local folder or fsspec URL.
        up: Axis that points up in every file, if it is not the layout's.
        front: Axis that points to the front in every file, if it is not the layout's.
        cache: Keeps fetched models; None fetches a remote model each time.

    Raises:
        EnvironmentProblem: The URL's protocol needs a package that is not installed.
        ConfigError: Up and front along one line.
    """

    name = "shapenet"

    def __init__(
        self, path: str, up: Axis | None = None, front: Axis | None = None, cache: MeshCache | None = None
    ) -> None:
        self._files = SourceFiles(self.name, path)
        self._axes = {name: chosen_axes(up, front, default) for name, default in LAYOUTS.items()}
        self._cache = cache

    def list(self, classes: dict[str, int | None], seed: int) -> Entries:
        """Lists objects, class by class in the order asked for, by id within a class; see `Source.list`."""
        self._files.check_folder()
        if classes:
            found = {asked: self._find_class(synset_of(asked)) for asked in classes}
        else:
            folders = {name: self._find_class(name) for name in self._files.subfolders()}
            found = {class_of(name): folder for name, folder in folders.items() if folder.meshes}
        entries: Entries = []
        for asked, folder in found.items():
            if not folder.meshes:
                raise UsageError(
                    f"source shapenet: no class {asked!r} in {self._files.url}; "
                    f"folders there: {', '.join(map(class_of, self._files.subfolders())) or 'none'}"
                )
            count = classes.get(asked)
            synset = synset_of(asked)
            chosen = chosen_part(folder.meshes, count, seed, synset, f"source shapenet, class {asked}")
            prints = self._files.in_parallel(folder.fingerprint, chosen)
            entries += [
                _entry(class_of(synset), location, print_)
                for location, print_ in zip(chosen, prints, strict=True)
            ]
        return entries

    def fetch(self, entry: ObjectLocation, folder: Path) -> MeshInput:
        """Returns the mesh; a remote model is copied into `folder` with its materials and textures.

        Raises:
            FileNotFoundError, EnvironmentProblem, TransientError: See `Source.fetch`.
        """
        with self._files.blaming_the_folder():
            return self._fetch(path_of_stored(entry.location), entry.fingerprint, folder)

    def _fetch(self, location: str, fingerprint: str, folder: Path) -> MeshInput:
        model = PurePosixPath(*PurePosixPath(location).parts[:2])
        mesh = PurePosixPath(location).relative_to(model)
        found = self._files.provide(
            location,
            fingerprint,
            folder / "model",
            self._cache,
            lambda into: self._copy_model(location, str(model), into),
        )
        root = found / model if self._files.local else found
        up, front = self._axes.get(str(mesh), self._axes["models/model_normalized.obj"])
        return MeshInput(root / mesh, root, up, front)

    def _copy_model(self, location: str, model: str, folder: Path) -> None:
        sizes = {path: size or 0 for path, size in self._files.find(model).items() if _is_drawn(path)}
        if location not in sizes:
            raise FileNotFoundError(f"{location} is not in {self._files.url}")
        if sum(sizes.values()) > MAX_MODEL_BYTES:
            raise MeshError(
                "too_large", f"{model} holds {sum(sizes.values())} bytes, more than {MAX_MODEL_BYTES}"
            )
        self._files.copy(sizes, folder, below=model)

    def _find_class(self, synset: str) -> _ClassFolder:
        return _ClassFolder(self._files, synset)


class _ClassFolder:
    """The models of one class, found in one go.

    Attributes:
        meshes: Paths of the meshes, sorted by model. A model without a mesh has the path where the others
            have theirs, so that it is recorded as missing; a folder in which no model has one is no class.
    """

    def __init__(self, files: SourceFiles, synset: str) -> None:
        self._files = files
        # Of a remote folder one listing says everything; on a disk, a few file names are cheaper to ask for.
        self._sizes = None if files.local else files.find(synset)
        models = files.subfolders(synset) if self._sizes is None else _models(self._sizes)
        candidates = [[f"{synset}/{model}/{name}" for name in LAYOUTS] for model in models]
        found = [next(filter(self._is_there, paths), None) for paths in candidates]
        usual = Counter(path.split("/", 2)[2] for path in found if path).most_common(1)
        self.meshes: Names = []
        if usual:
            pairs = zip(models, found, strict=True)
            self.meshes = [path or f"{synset}/{model}/{usual[0][0]}" for model, path in pairs]
        if usual and None in found:
            LOGGER.warning("source shapenet: %s: %d models hold no mesh", synset, found.count(None))
        self._by_model: dict[str, dict[str, int | None]] = {}
        for path, size in (self._sizes or {}).items():
            self._by_model.setdefault("/".join(path.split("/")[:2]), {})[path] = size

    def fingerprint(self, location: str) -> str:
        """Hashes sizes of all files of the model, and head and tail of the mesh: cheap, and not the path."""
        model = "/".join(location.split("/")[:2])
        sizes = self._by_model[model] if self._sizes is not None else self._files.find(model)
        digest = hashlib.sha256()
        for path, size in sizes.items():
            digest.update(f"/{stored_name(path)}\0{self._files.known_size(path, size)}\n".encode())
        if location in sizes:
            for end in self._files.ends(location, self._files.known_size(location, sizes[location])):
                digest.update(end)
        return digest.hexdigest()

    def _is_there(self, path: str) -> bool:
        return self._files.is_there(path) if self._sizes is None else path in self._sizes


def chosen_part(locations: Names, count: int | None, seed: int, stream: str, what: str) -> Names:
    """Returns `count` of the locations, drawn by the seed, in their own order; None returns all.

    Args:
        locations: Sorted.
        count: How many.
        seed: The user's seed.
        stream: Makes classes draw independently of each other.
        what: Beginning of the message when there are too few.

    Raises:
        UsageError: There are fewer than `count`.
    """
    if count is None:
        return locations
    if count > len(locations):
        raise UsageError(f"{what}: {count} objects asked for, {len(locations)} are there")
    generator = np.random.default_rng([seed, int(hashlib.sha256(stream.encode()).hexdigest()[:8], 16)])
    chosen = generator.permutation(len(locations))[:count]
    return [locations[i] for i in sorted(chosen.tolist())]


def _models(sizes: dict[str, int | None]) -> Names:
    names = {path.split("/")[1] for path in sizes if path.count("/") >= 2}
    return sorted(name for name in names if not name.startswith("."))


def _is_drawn(path: str) -> bool:
    """Leaves out what a release holds beside mesh, materials and textures, which is most of its bytes."""
    return PurePosixPath(path).suffix.lower() not in _NOT_DRAWN and "/screenshots/" not in path


def _entry(class_name: str, location: str, fingerprint: str) -> ObjectEntry:
    folder = location.split("/")[1]
    model = folder if is_text(folder) else readable_name(folder)
    prefix = f"{class_name}-"
    object_id = model if model.startswith(prefix) else prefix + model
    return ObjectEntry(object_id, class_name, stored_name(location), fingerprint)
