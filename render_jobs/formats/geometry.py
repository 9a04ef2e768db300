"""A mesh in arrays, as the readers of PLY, STL and glTF return it, and the checks that all of them need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from render_jobs.mesh_file import MeshError

Colour = tuple[float, float, float]

GREY: Colour = (0.6, 0.6, 0.6)
"""Linear colour of faces that have neither material nor colours."""


@dataclass(frozen=True)
class Texture:
    """A vetted picture.

    Attributes:
        path: File that Blender may open.
        extension: What lies beyond its edges, in Blender's words.
        interpolation: Between its pixels, in Blender's words.
    """

    path: Path
    extension: Literal["REPEAT", "EXTEND", "MIRROR"] = "REPEAT"
    interpolation: Literal["Linear", "Closest"] = "Linear"


@dataclass(frozen=True)
class Material:
    """Base colour of a surface: colour × texture × vertex colours, and opacity likewise.

    Attributes:
        name: For messages.
        colour: Linear.
        alpha: Opacity in [0, 1].
        texture: Multiplied with the colour.
        vertex_colours: Whether the vertices' colours are multiplied, too.
        texture_alpha: Whether opacity is multiplied with the texture's alpha.
        alpha_cutoff: Opacity becomes 0 below it and 1 from it on; None leaves it.
    """

    name: str
    colour: Colour = (1.0, 1.0, 1.0)
    alpha: float = 1.0
    texture: Texture | None = None
    vertex_colours: bool = False
    texture_alpha: bool = False
    alpha_cutoff: float | None = None


@dataclass(frozen=True)
class Geometry:
    """A polygon mesh in the file's coordinates.

    Attributes:
        vertices: f32 [n, 3].
        corners: i32 [c], the vertex of each corner, face after face.
        face_sizes: i32 [f], corners of each face.
        uvs: f32 [c, 2], v upwards, or None.
        colours: f32 [c, 4], linear, straight alpha, or None.
        face_materials: i32 [f], -1 for none.
        materials: The materials.
    """

    vertices: npt.NDArray[np.float32]
    corners: npt.NDArray[np.int32]
    face_sizes: npt.NDArray[np.int32]
    uvs: npt.NDArray[np.float32] | None = None
    colours: npt.NDArray[np.float32] | None = None
    face_materials: npt.NDArray[np.int32] | None = None
    materials: tuple[Material, ...] = ()


def checked_vertices(vertices: npt.NDArray[Any], name: str) -> npt.NDArray[np.float32]:
    """Returns vertices as f32.

    Raises:
        MeshError: kind bad_vertex: a coordinate is not finite or too large for 32 bits.
    """
    bad = ~(np.abs(vertices) <= np.finfo(np.float32).max)
    if bad.any():
        row = int(np.flatnonzero(bad.any(axis=1))[0])
        raise MeshError("bad_vertex", f"{name}, vertex {row}: not three finite coordinates: {vertices[row]}")
    return vertices.astype(np.float32)


def checked_corners(corners: npt.NDArray[Any], n_vertices: int, name: str) -> npt.NDArray[np.int32]:
    """Returns corners as i32.

    Raises:
        MeshError: kind no_faces when there are none, kind bad_index when one refers to no vertex.
    """
    if len(corners) == 0:
        raise MeshError("no_faces", f"{name} has no faces")
    low, high = corners.min(), corners.max()
    if not (low >= 0 and high < n_vertices):
        wrong = low if low < 0 else high
        raise MeshError("bad_index", f"{name}: a face refers to vertex {wrong}; there are {n_vertices}")
    return corners.astype(np.int32)


def srgb_to_linear(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Undoes the sRGB transfer function (IEC 61966-2-1) for values in [0, 1]."""
    low, high = values / 12.92, ((values + 0.055) / 1.055) ** 2.4
    return np.where(values <= 0.04045, low, high).astype(np.float32)
