"""Brings a mesh into the world frame: bounding box centred, diagonal 1, +z up, front +y.

Which axes of a file point up and to the front is a property of its source. Of a ShapeNet v2 model (y up,
front −z) the rotation (x, y, z) → (x, −z, y) keeps x.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

Axis = Literal["x", "-x", "y", "-y", "z", "-z"]


def axis_vector(axis: Axis) -> npt.NDArray[np.float64]:
    """Returns the unit vector [3] of an axis."""
    vector = np.zeros(3)
    vector["xyz".index(axis[-1])] = -1.0 if axis[0] == "-" else 1.0
    return vector


def frame_rotation(up: Axis, front: Axis) -> npt.NDArray[np.float64]:
    """Returns the rotation [3, 3] that takes a file's up axis to +z and its front to +y.

    Raises:
        ValueError: When both lie along the same axis.
    """
    if up[-1] == front[-1]:
        raise ValueError(f"up axis {up} and front axis {front} lie along one line")
    z, y = axis_vector(up), axis_vector(front)
    return np.stack([np.cross(y, z), y, z])


def mesh_to_world(vertices: npt.NDArray[np.floating[Any]], up: Axis = "y", front: Axis = "-z") -> FloatArray:
    """Returns the 4×4 map from a mesh file's coordinates to the world frame.

    Args:
        vertices: Coordinates of the vertices that faces use, [n, 3], finite.
        up: The file's axis that becomes +z.
        front: The file's axis that becomes +y.

    Returns:
        f32 [4, 4] on column vectors: rotation, one uniform scale, translation.

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
    matrix[:3, :3] = frame_rotation(up, front) / diagonal
    matrix[:3, 3] = -matrix[:3, :3] @ ((low + high) / 2)
    return matrix.astype(np.float32)


def is_crowded(vertices_world: npt.NDArray[np.floating[Any]]) -> bool:
    """Whether half of the vertices [n, 3] lie at one place, within a hundredth of a mesh of diagonal 1.

    That alone is no fault; but when nothing of the mesh is visible, strays far away are the reason.
    """
    low, high = np.percentile(vertices_world, (25, 75), axis=0)
    return bool(np.linalg.norm(high - low) < 0.01)


def transform_points(matrix: FloatArray, points: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Applies a 4×4 affine map on column vectors to points [n, 3]."""
    wide = matrix.astype(np.float64)
    moved: npt.NDArray[np.float64] = points @ wide[:3, :3].T + wide[:3, 3]
    return moved
