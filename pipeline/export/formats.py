"""How objects lie in files: one file per object (npy, safetensors, h5), or tar shards (webdataset).

Layouts are those that existing readers expect, as far as there are any:

- npy: a folder of [3F, K, K] arrays and `stats/{lower,upper}_bound.npy`, as in Neural Field Diffusion
  (CVPR 2023), whose readers take every array below the folder: nothing else may lie there.
- h5: `<split>/<number>.h5` with `triplane` [3, F, K, K] and `class_id`, as in Neural Processing of Tri-Plane
  Hybrid Neural Fields (ICLR 2024), whose readers sort files by that number: here the row.
"""

from __future__ import annotations

import importlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.export.folder import ExportFolder, safe_name
from storage.errors import EnvironmentProblem
from storage.records import PlanRow

TAR_BYTES = 128 * 2**20
H5_SPLIT = "train"


@dataclass(frozen=True)
class ExportedObject:
    """What is written of one object.

    Attributes:
        entry: its row of the plan.
        class_id: position of its class among the dataset's sorted classes.
        arrays: `planes` [3, F, K, K], or `micro` [3, F_mic, K, K] and `coefficients` [M].
    """

    entry: PlanRow
    class_id: int
    arrays: dict[str, NDArray[Any]]


class Layout(Protocol):
    """How objects become files."""

    @property
    def media_type(self) -> str:
        """MIME type of the files."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """Globs of all files."""

    @property
    def objects_per_file(self) -> int:
        """Objects of a batch, which are written together."""

    def names(self, number: int, batch: Sequence[PlanRow]) -> list[str]:
        """Returns the files of the batch of this number; a batch has `objects_per_file` objects or fewer."""

    def write(self, folder: ExportFolder, names: Sequence[str], objects: Iterable[ExportedObject]) -> None:
        """Writes the files of a batch."""


@dataclass(frozen=True)
class FilePerObject:
    """One or more files of every object; those that are there are kept.

    Attributes:
        media_type: MIME type of the files.
        patterns: globs of all files.
        names_of: the files of an object.
        encode: their contents.
    """

    media_type: str
    patterns: tuple[str, ...]
    names_of: Callable[[PlanRow], list[str]]
    encode: Callable[[ExportedObject], list[bytes]]
    objects_per_file: int = 1

    def names(self, number: int, batch: Sequence[PlanRow]) -> list[str]:
        """Returns the files of the only object of a batch."""
        return self.names_of(batch[0])

    def write(self, folder: ExportFolder, names: Sequence[str], objects: Iterable[ExportedObject]) -> None:
        """Writes what is missing."""
        for found in objects:
            for name, content in zip(names, self.encode(found), strict=True):
                if not folder.has(name):
                    folder.write(name, content)


@dataclass(frozen=True)
class TarShards:
    """Tar files of many objects, as webdataset reads them: an object's members share what is before the dot.

    Attributes:
        objects_per_file: objects of every shard but the last.
        media_type: MIME type of the shards.
        patterns: glob of all shards.
    """

    objects_per_file: int
    media_type: str = "application/x-tar"
    patterns: tuple[str, ...] = ("shard-*.tar",)

    def names(self, number: int, batch: Sequence[PlanRow]) -> list[str]:
        """Returns the shard of a batch."""
        return [f"shard-{number:06d}.tar"]

    def write(self, folder: ExportFolder, names: Sequence[str], objects: Iterable[ExportedObject]) -> None:
        """Writes the shard, object by object."""
        with folder.file(names[0]) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
            for found in objects:
                for name, content in _members(found).items():
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def make_layout(to: str, arrays: Sequence[str], object_bytes: int) -> Layout:
    """Makes the layout of one format.

    Args:
        to: one of LAYOUTS.
        arrays: names of the arrays of every object.
        object_bytes: their size.

    Raises:
        EnvironmentProblem: the format's library is not installed.
    """
    return LAYOUTS[to](arrays, object_bytes)


def _npy_layout(arrays: Sequence[str], object_bytes: int) -> Layout:
    def names(entry: PlanRow) -> list[str]:
        return [f"{name}/{_place(entry)}.npy" for name in arrays]

    def encode(found: ExportedObject) -> list[bytes]:
        return [npy_bytes(stacked(found.arrays[name])) for name in arrays]

    return FilePerObject("application/x-npy", tuple(f"{name}/*/*.npy" for name in arrays), names, encode)


def _safetensors_layout(arrays: Sequence[str], object_bytes: int) -> Layout:
    save = _library("safetensors.numpy", "train").save

    def encode(found: ExportedObject) -> list[bytes]:
        # One entry of metadata: the library writes several in any order, and files should be reproducible.
        about = {"object_id": found.entry.object_id}
        return [save({**found.arrays, "class_id": np.array(found.class_id, np.int64)}, about)]

    return FilePerObject(
        "application/x-safetensors",
        ("objects/*/*.safetensors",),
        lambda entry: [f"objects/{_place(entry)}.safetensors"],
        encode,
    )


def _h5_layout(arrays: Sequence[str], object_bytes: int) -> Layout:
    h5py = _library("h5py", "render")

    def encode(found: ExportedObject) -> list[bytes]:
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            for name, values in found.arrays.items():
                file["triplane" if values.ndim == 4 else name] = values
            file["class_id"] = np.int64(found.class_id)
            file.attrs.update({"object_id": found.entry.object_id, "class": found.entry.class_name})
        return [buffer.getvalue()]

    return FilePerObject(
        "application/x-hdf5", (f"{H5_SPLIT}/*.h5",), lambda entry: [f"{H5_SPLIT}/{entry.row}.h5"], encode
    )


def _tar_layout(arrays: Sequence[str], object_bytes: int) -> Layout:
    return TarShards(max(1, TAR_BYTES // object_bytes))


LAYOUTS: dict[str, Callable[[Sequence[str], int], Layout]] = {
    "npy": _npy_layout,
    "safetensors": _safetensors_layout,
    "h5": _h5_layout,
    "webdataset": _tar_layout,
}


def stacked(values: NDArray[Any]) -> NDArray[Any]:
    """Returns planes [3, F, K, K] as [3F, K, K], plane by plane, and anything else as it is."""
    return values.reshape(-1, *values.shape[2:]) if values.ndim == 4 else values


def npy_bytes(values: NDArray[Any]) -> bytes:
    """Returns a numpy file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def _members(found: ExportedObject) -> dict[str, bytes]:
    key = safe_name(found.entry.object_id, dots=False)
    about = {
        "object_id": found.entry.object_id,
        "class": found.entry.class_name,
        "class_id": found.class_id,
        "row": found.entry.row,
    }
    members = {f"{key}.{name}.npy": npy_bytes(values) for name, values in found.arrays.items()}
    return {**members, f"{key}.json": json.dumps(about).encode()}


def _place(entry: PlanRow) -> str:
    return f"{safe_name(entry.class_name)}/{safe_name(entry.object_id)}"


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise EnvironmentProblem(f"{package} is not installed: pip install -e '.[{extra}]'") from error
