"""Faces of a morphable model as a source: object k of a seed is one draw of standard-normal coefficients.

Faces are y up and look along +z of their file. The coefficients, in standard deviations, are recorded with
each object, and `coefficients_of` computes them again.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from render_jobs.mesh_file import MeshInput
from render_jobs.normalize import Axis
from render_jobs.sources.axes import chosen_axes
from render_jobs.sources.base import ObjectEntry, ObjectLocation
from render_jobs.sources.files import is_local
from render_jobs.sources.morphable.bfm2009 import read_bfm2009
from render_jobs.sources.morphable.model import Coefficients, MorphableModel, draw_coefficients, make_face
from render_jobs.sources.morphable.ply import write_ply
from render_jobs.sources.morphable.scalismo import read_scalismo
from render_jobs.sources.morphable.synthetic import synthetic_model
from storage.errors import UsageError
from storage.remote_files import RemoteFiles

CLASS_NAME = "face"
MAX_FILE_BYTES = 4 << 30


class MorphableSource:
    """Faces of one model.

    Args:
        path: The model: `.h5` in scalismo's layout or BFM 2009's `.mat`, local or an fsspec URL; None takes
            the built-in synthetic head.
        up: Axis that points up in the model, +y unless said otherwise.
        front: Axis that faces point to, +z unless said otherwise.
        components: Components used of each part; None uses all.
        sigma: Scale of the coefficients.
        expression: Whether to draw expressions.

    Raises:
        ConfigError: Up and front along one line.
    """

    name = "morphable"

    def __init__(
        self,
        path: str | None = None,
        up: Axis | None = None,
        front: Axis | None = None,
        components: int | None = None,
        sigma: float = 1.0,
        expression: bool = False,
    ) -> None:
        self._path = path
        self._axes = chosen_axes(up, front, ("y", "z"))
        self._components = components
        self._sigma = sigma
        self._expression = expression

    def list(self, classes: dict[str, int | None], seed: int) -> list[ObjectEntry]:
        """Lists the first n faces of the seed.

        Raises:
            UsageError: Another class than face, no count, or no readable model.
        """
        count = classes.get(CLASS_NAME)
        if set(classes) != {CLASS_NAME} or count is None:
            raise UsageError("source morphable is unlimited: say how many faces, as --classes face:1000")
        settings = f"{self._model().digest}/{self._components}/{self._sigma!r}/{self._expression}"
        return [
            ObjectEntry(
                f"{CLASS_NAME}-{k:06d}",
                CLASS_NAME,
                f"{seed}/{k}",
                hashlib.sha256(f"morphable/{settings}/{seed}/{k}".encode()).hexdigest(),
            )
            for k in range(count)
        ]

    def fetch(self, entry: ObjectLocation, folder: Path) -> MeshInput:
        """Writes the face as a PLY file with vertex colours.

        Raises:
            UsageError: No readable model, or an entry of another source.
            OSError: The folder cannot be written.
        """
        model = self._model()
        coefficients = self.coefficients_of(entry)
        vertices, colours = make_face(model, coefficients)
        path = folder / f"{entry.object_id}.ply"
        write_ply(path, vertices, colours, model.cells)
        recorded = {name: numbers.tolist() for name, numbers in coefficients.items()}
        return MeshInput(path, folder, *self._axes, info={"coefficients": recorded})

    def coefficients_of(self, entry: ObjectLocation) -> Coefficients:
        """Returns an object's coefficients by part, in standard deviations.

        Raises:
            UsageError: The entry names no face.
        """
        seed, slash, k = entry.location.partition("/")
        if not (slash and seed.isdecimal() and k.isdecimal()):
            raise UsageError(f"{entry.location!r} names no face: expected SEED/NUMBER, such as 0/12")
        return draw_coefficients(self._model(), int(seed), int(k), self._sigma)

    def _model(self) -> MorphableModel:
        if self._path is None:
            return _cut(self._components, self._expression)
        return load_model(self._path, self._components, self._expression)


def load_model(path: str, components: int | None = None, expression: bool = False) -> MorphableModel:
    """Reads a model's file, once per process and version of the file.

    Args:
        path: Local file or fsspec URL that ends with .h5, .hdf5 or .mat.
        components: Components to read of each part; None reads all.
        expression: Whether to read the expressions.

    Raises:
        UsageError: No such file, or it is no morphable model; the message names the file and the dataset.
        EnvironmentProblem: h5py or scipy is not installed, or the store refuses access.
        TransientError: A fault of the connection that may go away.
    """
    try:
        version = _version(path)
    except FileNotFoundError:
        raise UsageError(f"source morphable: there is no model {path}") from None
    return _load(path, version, components, expression)


@functools.lru_cache(maxsize=1)
def _load(path: str, version: str, components: int | None, expression: bool) -> MorphableModel:
    data = _read(path)
    digest = hashlib.sha256(data).hexdigest()
    ending = Path(path).suffix.lower()
    if ending in {".h5", ".hdf5"}:
        return read_scalismo(data, path, components, expression, digest)
    if ending == ".mat":
        if expression:
            raise UsageError(f"source morphable: {path}: BFM 2009 has no expressions")
        return read_bfm2009(data, path, components, digest)
    raise UsageError(f"source morphable: {path}: expected a file that ends with .h5, .hdf5 or .mat")


@functools.lru_cache(maxsize=1)
def _cut(components: int | None, expression: bool) -> MorphableModel:
    whole = synthetic_model()
    shape, color = whole.shape.first(components), whole.color.first(components)
    faces = whole.expression.first(components) if expression and whole.expression else None
    return MorphableModel(shape, color, faces, whole.cells, whole.digest)


def _version(path: str) -> str:
    """Returns what changes when the file changes."""
    if is_local(path):
        status = _local(path).stat()
        return f"{status.st_size}-{status.st_mtime_ns}"
    files, key = _remote(path)
    return str(files.size(key))


def _read(path: str) -> bytes:
    """Reads the whole file, so that what is hashed is what is used."""
    if is_local(path):
        if not _local(path).is_file():
            raise UsageError(f"source morphable: {path} is no file")
        _check_size(path, _local(path).stat().st_size)
        return _local(path).read_bytes()
    files, key = _remote(path)
    _check_size(path, files.size(key))
    return files.read(key)


def _check_size(path: str, n_bytes: int) -> None:
    if n_bytes > MAX_FILE_BYTES:
        raise UsageError(f"source morphable: {path} has {n_bytes} bytes, more than {MAX_FILE_BYTES}")


def _local(path: str) -> Path:
    return Path(path.removeprefix("file://"))


def _remote(path: str) -> tuple[RemoteFiles, str]:
    folder, _, key = path.rpartition("/")
    return RemoteFiles(folder, {}), key
