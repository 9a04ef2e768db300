"""The Basel Face Model 2009: a MATLAB 5 file with 199 components.

shapeMU (3N, 1), shapePC (3N, K), shapeEV (K, 1): micrometres, standard deviations; texMU, texPC, texEV the
same for colours in 0 to 255; tl (T, 3): triangles, counted from 1 and clockwise seen from outside.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from render_jobs.sources.morphable.checks import ModelFileError, check_shape, checked_cells, finite
from render_jobs.sources.morphable.model import LinearModel, MorphableModel
from storage.errors import EnvironmentProblem

_NAMES = [f"{part}{what}" for part in ("shape", "tex") for what in ("MU", "PC", "EV")] + ["tl"]
_COLOUR_SCALE = 1.0 / 255.0


def read_bfm2009(data: bytes, file: str, components: int | None, digest: str) -> MorphableModel:
    """Reads a model; it has no expressions.

    Args:
        data: Content of the file.
        file: Its name, for messages.
        components: Components to keep of each part, None for all.
        digest: Hash of the content.

    Raises:
        ModelFileError: Not MATLAB 5, something is missing, of wrong shape or not finite.
        EnvironmentProblem: scipy is not installed.
    """
    found = _load(data, file)
    shape = _part(found, file, "shape", components, 1.0)
    color = _part(found, file, "tex", components, _COLOUR_SCALE)
    wanted = f"[{shape.mean.size}, 1], as shapeMU"
    check_shape(file, "texMU", (color.mean.size,), wanted, color.mean.size == shape.mean.size)
    triangles = _numbers(found, file, "tl")
    check_shape(file, "tl", triangles.shape, "[T, 3]", triangles.ndim == 2 and triangles.shape[1] == 3)
    cells = checked_cells(file, "tl", triangles.astype(np.int64)[:, [0, 2, 1]] - 1, shape.mean.size // 3)
    return MorphableModel(shape, color, None, cells, digest)


def _load(data: bytes, file: str) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise EnvironmentProblem(
            "morphable models in .mat need scipy: install the render extra (pip install -e '.[render]')"
        ) from error
    if (
        data.startswith(b"MATLAB 7.3")
        or data[:8] == b"\x89HDF\r\n\x1a\n"
        or data[512:520] == b"\x89HDF\r\n\x1a\n"
    ):
        raise ModelFileError(
            file, "content", "is MATLAB 7.3; save it for version 5: save(name, '-struct', 'model', '-v7')"
        )
    try:
        found: dict[str, Any] = loadmat(io.BytesIO(data), variable_names=_NAMES)
    except Exception as error:  # scipy raises what its parser stumbles over
        raise ModelFileError(file, "content", f"is no MATLAB 5 file ({error})") from error
    return found


def _part(found: dict[str, Any], file: str, part: str, components: int | None, scale: float) -> LinearModel:
    mean = finite(file, f"{part}MU", _numbers(found, file, f"{part}MU")).ravel()
    check_shape(file, f"{part}MU", (mean.size,), "[3N, 1]", mean.size % 3 == 0 and mean.size >= 9)
    sigma = finite(file, f"{part}EV", _numbers(found, file, f"{part}EV")).ravel()
    basis = _numbers(found, file, f"{part}PC")
    wanted = f"[{mean.size}, {sigma.size}]"
    check_shape(file, f"{part}PC", basis.shape, wanted, basis.shape == (mean.size, sigma.size))
    k = sigma.size if components is None else min(components, sigma.size)
    directions = finite(file, f"{part}PC", basis[:, :k])
    directions *= np.float32(scale) * sigma[:k]
    return LinearModel(mean * np.float32(scale), directions)


def _numbers(found: dict[str, Any], file: str, name: str) -> npt.NDArray[Any]:
    values = found.get(name)
    if values is None:
        raise ModelFileError(file, name, "is missing")
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise ModelFileError(file, name, "holds something else than numbers")
    return values
