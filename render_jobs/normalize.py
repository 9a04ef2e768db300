"""Brings a mesh into the world frame: bounding box centred on the origin, diagonal 1, z up.

ShapeNet and most OBJ files are y-up. The rotation (x, y, z) → (x, −z, y) takes +y to +z and keeps x, so what
a file calls −z (the front of ShapeNet v2 models) looks along world +y.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

Y_UP_TO_Z_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


def mesh_to_world(vertices: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Returns the 4×4 map from a y-up mesh's coordinates to the world frame.

    Args:
        vertices: Coordinates of the vertices that faces use, [n, 3], finite.

    Returns:
        f32 [4, 4] on column vectors: rotation to z-up, one uniform scale, translation.

    Raises:
        ValueError: When the vertices are empty, not finite, or all at one place.
    """
    if len(vertices) == 0:
        raise ValueError("the mesh has no vertices")
    points = vertices.astype(np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    diagonal = float(np.linalg.norm(high - low))
    if not np.isfinite(diagonal):
        raise ValueError("the mesh has coordinates that are not finite")
    if not diagonal > 1e-12 * max(1.0, float(np.abs(points).max())):
        raise ValueError(f"the mesh has no extent: bounding-box diagonal {diagonal:g}")
    matrix = np.eye(4)
    matrix[:3, :3] = Y_UP_TO_Z_UP / diagonal
    matrix[:3, 3] = -matrix[:3, :3] @ ((low + high) / 2)
    return matrix.astype(np.float32)


def transform_points(matrix: FloatArray, points: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Applies a 4×4 affine map on column vectors to points [n, 3]."""
    wide = matrix.astype(np.float64)
    moved: npt.NDArray[np.float64] = points @ wide[:3, :3].T + wide[:3, 3]
    return moved
