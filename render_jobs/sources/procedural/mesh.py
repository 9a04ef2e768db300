"""What shapes are made of: parts (quads with a material each), parameter grids to warp, and the whole mesh.

Conventions: y is up, the front of an object looks along -z (as in ShapeNetCore v2), x is to its left when it
is seen from the front. Faces wind counter-clockwise seen from outside. Lengths are in any unit: the writer
scales objects to bounding-box diagonal 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Names = NDArray[np.str_]
Rgb = tuple[float, float, float]
"""sRGB in [0, 1]."""


@dataclass(frozen=True)
class Part:
    """A closed surface: vertices [N, 3], quads [Q, 4] (a triangle repeats its last index), materials [Q]."""

    vertices: Floats
    faces: Ints
    materials: Names

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Part:
        """The part shifted by (x, y, z)."""
        return replace(self, vertices=self.vertices + np.array([x, y, z]))

    def scaled(self, x: float = 1.0, y: float = 1.0, z: float = 1.0) -> Part:
        """The part scaled by positive factors."""
        return replace(self, vertices=self.vertices * np.array([x, y, z]))

    def turned(self, axis: str, angle_deg: float) -> Part:
        """The part turned about the axis "x", "y" or "z" through the origin, right-handed."""
        first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
        cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
        vertices = self.vertices.copy()
        vertices[:, first] = cos * self.vertices[:, first] - sin * self.vertices[:, second]
        vertices[:, second] = sin * self.vertices[:, first] + cos * self.vertices[:, second]
        return replace(self, vertices=vertices)

    def mirrored(self) -> Part:
        """The mirror image in the plane x = 0, with the winding put right."""
        return replace(self, vertices=self.vertices * np.array([-1.0, 1.0, 1.0]), faces=_reversed(self.faces))

    def both_sides(self) -> tuple[Part, Part]:
        """The part and its mirror image in the plane x = 0."""
        return self, self.mirrored()

    def painted(self, material: str) -> Part:
        """The part with one material everywhere."""
        return replace(self, materials=np.full(len(self.faces), material))


def _reversed(faces: Ints) -> Ints:
    """Faces with opposite winding that keep the form in which a triangle repeats its last index."""
    return np.where((faces[:, 2] == faces[:, 3])[:, None], faces[:, [1, 0, 2, 3]], faces[:, ::-1])


@dataclass
class Mesh:
    """Named parts and the sRGB colours of their materials."""

    parts: list[tuple[str, Part]] = field(default_factory=list)
    colours: dict[str, Rgb] = field(default_factory=dict)

    def add(self, name: str, *parts: Part) -> None:
        """Appends parts under one group name."""
        self.parts.extend((name, part) for part in parts)

    @property
    def vertices(self) -> Floats:
        """All vertices, part after part, [N, 3]."""
        return np.concatenate([part.vertices for _, part in self.parts])


@dataclass(frozen=True)
class Grid:
    """The surface of a box cut along given lines, to be warped and painted by its parameters.

    `points` [N, 3] are the parameters of the vertices, `centres` [Q, 3] those of the middles of the quads,
    and `side` [Q] names the side of the box that a quad belongs to: "+x", "-x", "+y", "-y", "+z" or "-z".
    """

    points: Floats
    faces: Ints
    side: Names
    centres: Floats

    def part(self, vertices: Floats, materials: Names | str) -> Part:
        """A part with warped vertices [N, 3] and a material per quad, or one for all."""
        names = np.full(len(self.faces), materials) if isinstance(materials, str) else materials
        return Part(vertices, self.faces, names)


def box_grid(xs: Sequence[float], ys: Sequence[float], zs: Sequence[float]) -> Grid:
    """The surface of the box that the ascending lines span, as one welded, closed grid of quads."""
    lines = [np.asarray(line, dtype=np.float64) for line in (xs, ys, zs)]
    assert all((np.diff(line) > 0).all() for line in lines), "grid lines must ascend"
    shape = tuple(len(line) for line in lines)
    inner = np.zeros(shape, dtype=bool)
    inner[1:-1, 1:-1, 1:-1] = True
    index = np.full(shape, -1, dtype=np.int64)
    index[~inner] = np.arange((~inner).sum())
    points = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1)[~inner]
    faces, sides = [], []
    for axis in range(3):
        for end, sign in ((-1, "+"), (0, "-")):
            sheet = np.moveaxis(index, axis, 0)[end]
            if axis == 1:  # the remaining axes come as (x, z); outward needs (z, x)
                sheet = sheet.T
            quads = np.stack(
                [sheet[:-1, :-1], sheet[1:, :-1], sheet[1:, 1:], sheet[:-1, 1:]], axis=-1
            ).reshape(-1, 4)
            faces.append(quads if sign == "+" else quads[:, ::-1])
            sides.append(np.full(len(quads), f"{sign}{'xyz'[axis]}"))
    quads = np.concatenate(faces)
    return Grid(points, quads, np.concatenate(sides), points[quads].mean(axis=1))


def smooth_curve(at: Floats, knots: Sequence[tuple[float, float]]) -> Floats:
    """Monotone cubic through the knots (x ascending, y), constant beyond the ends.

    Tangents are harmonic means of the neighbouring slopes (Fritsch and Butland 1984), so nothing overshoots.
    """
    x, y = np.array(knots, dtype=np.float64).T
    step = np.diff(x)
    slope = np.diff(y) / step
    product = slope[:-1] * slope[1:]
    total = np.where(product > 0, slope[:-1] + slope[1:], 1.0)
    tangent = np.concatenate([slope[:1], np.where(product > 0, 2 * product / total, 0.0), slope[-1:]])
    clipped = np.clip(at, x[0], x[-1])
    k = np.clip(np.searchsorted(x, clipped, side="right") - 1, 0, len(step) - 1)
    t = (clipped - x[k]) / step[k]
    rise = y[k] * (1 - t) ** 2 * (1 + 2 * t) + y[k + 1] * t**2 * (3 - 2 * t)
    return np.asarray(rise + step[k] * t * (1 - t) * ((1 - t) * tangent[k] - t * tangent[k + 1]))


def smoothstep(low: float, high: float, at: Floats) -> Floats:
    """0 below `low`, 1 above `high`, a smooth ramp between."""
    t = np.clip((at - low) / (high - low), 0.0, 1.0)
    return t * t * (3 - 2 * t)


def merged_lines(fixed: Sequence[float], wanted: Sequence[float], gap: float) -> list[float]:
    """All fixed lines and those wanted ones that keep `gap` from every line taken before, ascending."""
    lines = list(fixed)
    for line in wanted:
        if min(abs(line - other) for other in lines) >= gap and min(fixed) < line < max(fixed):
            lines.append(line)
    return sorted(lines)
