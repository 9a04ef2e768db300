"""OBJ files that Blender's importer cannot take: many materials keep it busy, long lines end its work.

Plain colours become colours of corners, so that one material per opacity is enough. Slower per face than the
importer, and for such files only. Faces whose corners do not exist are left out, as the importer does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from render_jobs.formats.geometry import (
    GREY,
    Geometry,
    Material,
    checked_corners,
    checked_vertices,
    srgb_to_linear,
)

# The colour that the importer gives to materials that no library defines.
_UNDEFINED = Material("undefined", colour=(0.8, 0.8, 0.8))


def read_obj(text: bytes, looks: dict[bytes, Material], name: str) -> Geometry:
    """Reads vertices, faces, texture coordinates and materials; nothing else.

    Args:
        text: The file, its vertices checked.
        looks: Materials by name.
        name: Of the file, for messages.

    Raises:
        MeshError: kinds bad_vertex, no_faces.
    """
    reader = _Reader(looks)
    for line in text.splitlines():
        if line[:1] != b"#":
            reader.take(line.split())
    return reader.geometry(name)


class _Reader:
    def __init__(self, looks: dict[bytes, Material]) -> None:
        self._looks = looks
        self._look: Material | None = None
        self._vertices: list[list[float]] = []
        self._vertex_colours: dict[int, list[float]] = {}
        self._coordinates: list[list[float]] = []
        self._corners: list[int] = []
        self._uvs: list[list[float]] = []
        self._sizes: list[int] = []
        self._face_looks: list[Material | None] = []

    def take(self, words: list[bytes]) -> None:
        keyword = words[0] if words else b""
        if keyword == b"v":
            if len(words) > 6:
                self._vertex_colours[len(self._vertices)] = _numbers(words[4:7])
            self._vertices.append([float(word) for word in words[1:4]])
        elif keyword == b"vt":
            self._coordinates.append(_numbers(words[1:3]) if len(words) > 2 else [0.0, 0.0])
        elif keyword == b"usemtl":
            self._look = self._looks.get(b" ".join(words[1:]), _UNDEFINED)
        elif keyword == b"f" and len(words) > 3:
            self._face(words[1:])

    def _face(self, words: list[bytes]) -> None:
        corners, uvs = [], []
        for word in words:
            parts = word.split(b"/")
            vertex = _index(parts[0], len(self._vertices))
            if vertex is None:
                return
            corners.append(vertex)
            uv = _index(parts[1], len(self._coordinates)) if len(parts) > 1 else None
            uvs.append([0.0, 0.0] if uv is None else self._coordinates[uv])
        self._corners += corners
        self._uvs += uvs
        self._sizes.append(len(corners))
        self._face_looks.append(self._look)

    def geometry(self, name: str) -> Geometry:
        if self._vertex_colours and not self._looks:  # then they are all that there is
            self._face_looks = [None] * len(self._face_looks)
        materials: dict[Material, int] = {}
        numbers = [
            -1 if look is None else materials.setdefault(_shared(look), len(materials))
            for look in self._face_looks
        ]
        colours = np.ones((len(self._face_looks), 4), dtype=np.float32)
        colours[:, :3] = np.array([look.colour if look else GREY for look in self._face_looks]).reshape(-1, 3)
        sizes = np.array(self._sizes, dtype=np.int32)
        corners = np.array(self._corners, dtype=np.int64)
        vertices = checked_vertices(np.array(self._vertices, dtype=np.float64).reshape(-1, 3), name)
        return Geometry(
            vertices=vertices,
            corners=checked_corners(corners, len(vertices), name),
            face_sizes=sizes,
            uvs=np.array(self._uvs, dtype=np.float32).reshape(-1, 2),
            colours=self._with_vertex_colours(np.repeat(colours, sizes, axis=0), corners, sizes)
            if materials or self._vertex_colours
            else None,
            face_materials=np.array(numbers, dtype=np.int32),
            materials=tuple(materials),
        )

    def _with_vertex_colours(
        self, colours: npt.NDArray[np.float32], corners: npt.NDArray[np.int64], sizes: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """Gives faces without material their vertices' colours; a vertex without is white, as imported."""
        if self._vertex_colours:
            own = np.ones((len(self._vertices), 3))
            own[list(self._vertex_colours)] = list(self._vertex_colours.values())
            plain = np.repeat([look is None for look in self._face_looks], sizes)
            colours[plain, :3] = srgb_to_linear(np.clip(np.nan_to_num(own), 0.0, 1.0))[corners[plain]]
        return colours


def _shared(look: Material) -> Material:
    """Returns the material that all looks of one texture, or all plain ones, of one opacity share."""
    if look.texture is not None:
        return Material("textured", alpha=look.alpha, texture=look.texture)
    return Material("plain", alpha=look.alpha, vertex_colours=True)


def _index(word: bytes, n: int) -> int | None:
    """Returns a 0-based index for a 1-based one, or one from the end; None when it is out of range."""
    try:
        index = int(word)
    except ValueError:
        return None
    index = index - 1 if index > 0 else index + n
    return index if 0 <= index < n else None


def _numbers(words: list[bytes]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        return [0.0] * len(words)
