"""What a model's arrays must look like, whatever file they come from."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from storage.errors import UsageError

MAX_BYTES = 8 << 30
"""What one array of a model may take in memory: 40 times BFM's largest."""


class ModelFileError(UsageError):
    """A file that is no morphable model; names file and dataset."""

    def __init__(self, file: str, dataset: str, problem: str) -> None:
        super().__init__(f"morphable model {file}: {dataset} {problem}")


def finite(file: str, dataset: str, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Returns the values as f32; raises ModelFileError on NaN and infinity."""
    numbers = np.ascontiguousarray(values, dtype=np.float32)
    if not np.isfinite(numbers).all():
        raise ModelFileError(file, dataset, "holds numbers that are not finite")
    return numbers


def checked_cells(file: str, dataset: str, cells: npt.NDArray[Any], n_vertices: int) -> npt.NDArray[np.int32]:
    """Returns triangles i32 [T, 3]; raises ModelFileError when they name vertices that do not exist."""
    if cells.size == 0:
        raise ModelFileError(file, dataset, "holds no triangles")
    low, high = int(cells.min()), int(cells.max())
    if low < 0 or high >= n_vertices:
        raise ModelFileError(
            file, dataset, f"names vertices {low} to {high}, but the model has {n_vertices}, counted from 0"
        )
    return np.ascontiguousarray(cells, dtype=np.int32)


def check_shape(file: str, dataset: str, found: tuple[int, ...], wanted: str, fits: bool) -> None:
    """Raises ModelFileError unless `fits`."""
    if not fits:
        raise ModelFileError(file, dataset, f"has shape {list(found)}, expected {wanted}")
