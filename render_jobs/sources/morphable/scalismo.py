"""Morphable models in scalismo's HDF5 layout, as the Basel Face Models 2017 and 2019 come in.

Groups shape, color and expression, each with model/mean (3N), model/pcaBasis (3N, K), model/pcaVariance (K);
triangles in shape/representer/cells (3, T), 0-based. From version 0.9 on, the basis is orthonormal; in 0.8
it is already multiplied by the standard deviations. Nothing outside the file is ever opened: a link that is
not a hard link, or a dataset whose data lie elsewhere, is refused.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from render_jobs.sources.morphable.checks import MAX_BYTES, ModelFileError, check_shape, checked_cells, finite
from render_jobs.sources.morphable.model import LinearModel, MorphableModel
from storage.errors import EnvironmentProblem

if TYPE_CHECKING:
    import h5py


def read_scalismo(
    data: bytes, file: str, components: int | None, expression: bool, digest: str
) -> MorphableModel:
    """Reads a model.

    Args:
        data: Content of the file.
        file: Its name, for messages.
        components: Components to read of each part, None for all.
        expression: Whether to read the expressions.
        digest: Hash of the content.

    Raises:
        ModelFileError: Not HDF5, something is missing, of wrong shape, not finite, or outside the file.
        EnvironmentProblem: h5py is not installed.
    """
    h5py = _h5py()
    try:
        opened = h5py.File(io.BytesIO(data), "r")
    except OSError as error:
        raise ModelFileError(file, "content", f"is not HDF5 ({error})") from error
    with opened:
        reader = _Reader(opened, file)
        shape = reader.part("shape", components)
        n_values = shape.mean.size
        color = reader.part("color", components, n_values)
        faces = reader.part("expression", components, n_values) if expression else None
        found = reader.array("shape/representer/cells")
        check_shape(
            file, "shape/representer/cells", found.shape, "[3, T]", found.ndim == 2 and len(found) == 3
        )
        cells = checked_cells(file, "shape/representer/cells", found.T, n_values // 3)
    return MorphableModel(shape, color, faces, cells, digest)


def write_scalismo(model: MorphableModel, path: Path, version: tuple[int, int] = (0, 9)) -> None:
    """Writes a model in the same layout.

    Args:
        model: Its directions must be orthogonal to each other, as principal components are.
        path: The new file.
        version: (0, 9), orthonormal basis, or (0, 8), basis times standard deviations.
    """
    h5py = _h5py()
    with h5py.File(path, "w") as file:
        for name, part in model.parts().items():
            sigma = np.linalg.norm(part.directions, axis=0)
            basis = (
                part.directions if version == (0, 8) else part.directions / np.where(sigma > 0, sigma, 1.0)
            )
            file[f"{name}/model/mean"] = part.mean
            file[f"{name}/model/pcaBasis"] = basis.astype(np.float32)
            file[f"{name}/model/pcaVariance"] = (sigma**2).astype(np.float32)
            file[f"{name}/model/noiseVariance"] = np.float32(0.0)
            file[f"{name}/representer/cells"] = model.cells.T.astype(np.uint32)
            file[f"{name}/representer/points"] = model.shape.mean.reshape(-1, 3).T
            file[f"{name}/version/majorVersion"], file[f"{name}/version/minorVersion"] = version


class _Reader:
    """Reads arrays of one open file."""

    def __init__(self, opened: h5py.File, file: str) -> None:
        self._opened = opened
        self._file = file

    def part(self, name: str, components: int | None, n_values: int | None = None) -> LinearModel:
        """Reads one linear part; `n_values` is what its mean must have."""
        mean = finite(self._file, f"{name}/model/mean", self.array(f"{name}/model/mean")).ravel()
        wanted = "[3N]" if n_values is None else f"[{n_values}], as shape/model/mean"
        fits = mean.size % 3 == 0 and mean.size >= 9 and n_values in (None, mean.size)
        check_shape(self._file, f"{name}/model/mean", (mean.size,), wanted, fits)
        variance = finite(self._file, f"{name}/model/pcaVariance", self.array(f"{name}/model/pcaVariance"))
        if variance.size and variance.min() < 0:
            raise ModelFileError(self._file, f"{name}/model/pcaVariance", f"holds {variance.min():g}")
        basis_name = f"{name}/model/pcaBasis"
        basis = self.dataset(basis_name)
        wanted = f"[{mean.size}, {variance.size}]"
        check_shape(self._file, basis_name, basis.shape, wanted, basis.shape == (mean.size, variance.size))
        k = variance.size if components is None else min(components, variance.size)
        directions = finite(self._file, basis_name, basis[:, :k])
        if self._version(name) >= (0, 9):
            directions *= np.sqrt(variance.ravel()[:k])
        return LinearModel(mean, directions)

    def array(self, name: str) -> npt.NDArray[Any]:
        """Reads a whole dataset."""
        return np.asarray(self.dataset(name)[()])

    def dataset(self, name: str) -> Any:
        """Returns a dataset of numbers that lies inside the file."""
        import h5py

        place = self._opened
        for step in name.split("/"):
            link = place.get(step, getlink=True) if isinstance(place, h5py.Group) else None
            if link is None:
                raise ModelFileError(self._file, name, f"is missing (there is no {step})")
            if not isinstance(link, h5py.HardLink):
                kind = type(link).__name__
                raise ModelFileError(self._file, name, f"is reached through a link ({step}, {kind}): refused")
            place = place[step]
        if not isinstance(place, h5py.Dataset):
            raise ModelFileError(self._file, name, "is a group, expected numbers")
        if place.external or place.is_virtual:
            raise ModelFileError(self._file, name, "keeps its data in other files: refused")
        if place.dtype.kind not in "fiu":
            raise ModelFileError(self._file, name, f"holds {place.dtype}, expected numbers")
        if place.size is None or place.size * place.dtype.itemsize > MAX_BYTES:
            raise ModelFileError(self._file, name, f"has shape {place.shape}: more than {MAX_BYTES} bytes")
        return place

    def _version(self, name: str) -> tuple[int, int]:
        """Returns the version that a part, or else the file, states."""
        stated = f"{name}/version" if f"{name}/version" in self._opened else "version"
        major, minor = (
            int(self.array(f"{stated}/{key}").ravel()[0]) for key in ("majorVersion", "minorVersion")
        )
        if not (0, 8) <= (major, minor) < (2, 0):
            raise ModelFileError(self._file, stated, f"is {major}.{minor}; 0.8 to 1.x can be read")
        return major, minor


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise EnvironmentProblem(
            "morphable models in .h5 need h5py: install the render extra (pip install -e '.[render]')"
        ) from error
    return h5py
