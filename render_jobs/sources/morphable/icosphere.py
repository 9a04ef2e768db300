"""A sphere of nearly equal triangles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def icosphere(level: int) -> tuple[Array, npt.NDArray[np.int32]]:
    """Returns the icosahedron with each triangle split into four `level` times, on the unit sphere.

    Returns:
        Vertices [10·4^level + 2, 3] and triangles [20·4^level, 3], counter-clockwise seen from outside.
    """
    g = (1.0 + 5.0**0.5) / 2.0
    points = [(-1, g, 0), (1, g, 0), (-1, -g, 0), (1, -g, 0), (0, -1, g), (0, 1, g)]
    points += [(0, -1, -g), (0, 1, -g), (g, 0, -1), (g, 0, 1), (-g, 0, -1), (-g, 0, 1)]
    around = [11, 5, 1, 7, 10]
    below = [4, 9, 8, 6, 2]  # the ring around vertex 3, each under an edge of the ring around vertex 0
    faces = []
    for i in range(5):
        a, b, c, d = around[i], around[(i + 1) % 5], below[i], below[(i + 1) % 5]
        faces += [(0, a, b), (a, below[i - 1], c), (a, c, b), (3, d, c)]
    vertices = np.array(points, dtype=np.float64)
    cells = np.array(faces, dtype=np.int64)
    for _ in range(level):
        vertices, cells = _split(vertices, cells)
    vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    return vertices, _outwards(vertices, cells).astype(np.int32)


def _split(vertices: Array, cells: npt.NDArray[np.int64]) -> tuple[Array, npt.NDArray[np.int64]]:
    edges = np.sort(np.concatenate([cells[:, [0, 1]], cells[:, [1, 2]], cells[:, [2, 0]]]), axis=1)
    unique, index = np.unique(edges, axis=0, return_inverse=True)
    middle = len(vertices) + index.reshape(3, -1)
    points = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    a, b, c = cells.T
    ab, bc, ca = middle
    fours = [np.stack(t, axis=1) for t in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))]
    return np.concatenate([points, points[unique].sum(axis=1)]), np.concatenate(fours)


def _outwards(vertices: Array, cells: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    a, b, c = (vertices[cells[:, i]] for i in range(3))
    inwards = np.einsum("ij,ij->i", np.cross(b - a, c - a), a) < 0
    return np.where(inwards[:, None], cells[:, [0, 2, 1]], cells)
