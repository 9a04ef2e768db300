"""A morphable model in memory, and the faces that coefficients give.

A face is mean + directions · coefficients, for its vertices and for its colours; directions are scaled so
that a coefficient counts standard deviations. An expression, where a model has one, is a displacement that is
added to the shape. Lengths are the model's own, colours sRGB in [0, 1].
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

DECIMALS = 6
"""Coefficients are rounded to this many places before they are used, so that text holds them exactly."""


@dataclass(frozen=True)
class LinearModel:
    """One of a model's linear parts.

    Attributes:
        mean: f32 [3N], x y z (or r g b) of one vertex after the other.
        directions: f32 [3N, K], times one standard deviation each.
    """

    mean: FloatArray
    directions: FloatArray

    def at(self, coefficients: npt.NDArray[np.floating[Any]]) -> FloatArray:
        """Returns the values [N, 3] for coefficients [K], in standard deviations."""
        values = self.mean + self.directions @ coefficients.astype(np.float32)
        return values.reshape(-1, 3)

    def first(self, components: int | None) -> LinearModel:
        """Returns the model of the first components only; None for all."""
        return self if components is None else LinearModel(self.mean, self.directions[:, :components])


@dataclass(frozen=True)
class MorphableModel:
    """A face or head model.

    Attributes:
        shape: Vertices.
        color: Vertex colours.
        expression: Displacements of vertices, None when the model has none or it was not asked for.
        cells: Triangles, i32 [T, 3], 0-based, counter-clockwise seen from outside.
        digest: Hash of what the model was made from.
    """

    shape: LinearModel
    color: LinearModel
    expression: LinearModel | None
    cells: npt.NDArray[np.int32]
    digest: str

    @property
    def n_vertices(self) -> int:
        """Vertices of every face."""
        return self.shape.mean.size // 3

    def parts(self) -> dict[str, LinearModel]:
        """Returns the linear parts by name."""
        found = {"shape": self.shape, "color": self.color, "expression": self.expression}
        return {name: part for name, part in found.items() if part is not None}


Coefficients = dict[str, npt.NDArray[np.float64]]


def draw_coefficients(model: MorphableModel, seed: int, k: int, sigma: float = 1.0) -> Coefficients:
    """Draws the coefficients of object k, in standard deviations, by part.

    They depend on the seed, k and sigma alone: the first ones stay the same when more components are used.

    Args:
        model: Says which parts there are and how many components they have.
        seed: The dataset's seed of the source.
        k: Number of the object.
        sigma: Scale of the coefficients.
    """
    drawn = {}
    for name, part in model.parts().items():
        stream = int(hashlib.sha256(f"morphable/{name}".encode()).hexdigest()[:8], 16)
        numbers = np.random.default_rng([seed, k, stream]).standard_normal(part.directions.shape[1])
        drawn[name] = np.round(sigma * numbers, DECIMALS)
    return drawn


def make_face(model: MorphableModel, coefficients: Coefficients) -> tuple[FloatArray, npt.NDArray[np.uint8]]:
    """Returns vertices f32 [N, 3] and sRGB colours u8 [N, 3]; colours beyond [0, 1] are clipped."""
    vertices = model.shape.at(coefficients["shape"])
    if model.expression is not None and "expression" in coefficients:
        vertices = vertices + model.expression.at(coefficients["expression"])
    colours = np.clip(model.color.at(coefficients["color"]), 0.0, 1.0)
    return vertices, np.rint(255.0 * colours).astype(np.uint8)
