"""Writes triangle meshes with vertex colours as binary PLY, which Blender reads faster than any text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_HEADER = """ply
format binary_little_endian 1.0
comment fpipe
element vertex {vertices}
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
element face {faces}
property list uchar int vertex_indices
end_header
"""


def write_ply(
    path: Path,
    vertices: npt.NDArray[np.floating[Any]],
    colours: npt.NDArray[np.uint8],
    cells: npt.NDArray[np.int32],
) -> None:
    """Writes a mesh.

    Args:
        path: The file.
        vertices: [N, 3].
        colours: [N, 3], sRGB.
        cells: [T, 3], 0-based.
    """
    points = np.empty(len(vertices), dtype=[("position", "<f4", 3), ("colour", "u1", 3)])
    points["position"], points["colour"] = vertices, colours
    faces = np.empty(len(cells), dtype=[("n", "u1"), ("vertices", "<i4", 3)])
    faces["n"], faces["vertices"] = 3, cells
    header = _HEADER.format(vertices=len(vertices), faces=len(cells))
    path.write_bytes(header.encode() + points.tobytes() + faces.tobytes())
