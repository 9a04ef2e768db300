"""A head made by formulas: mean shape and colours, and the ways in which heads differ.

Millimetres, y up, z to the front, x to the head's left; the origin lies between the ears. A sphere of
triangles is pushed into shape by smooth bumps; every field below is one standard deviation. The numbers were
found by looking at renders, no person was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from render_jobs.sources.morphable.icosphere import icosphere

Array = npt.NDArray[np.float64]

SKIN, LIPS, HAIR = (0.80, 0.60, 0.50), (0.70, 0.36, 0.35), (0.24, 0.16, 0.11)
WHITE, IRIS, PUPIL, BROWS = (0.93, 0.92, 0.90), (0.33, 0.28, 0.22), (0.04, 0.03, 0.03), (0.26, 0.18, 0.13)
EYE, MOUTH_Y, NOSE_TIP_Y = (31.0, 24.0), -42.0, -10.0


@dataclass(frozen=True)
class Head:
    """The mean head and its variations.

    Attributes:
        vertices: [N, 3].
        cells: Triangles [T, 3].
        colours: sRGB [N, 3].
        shapes: Displacements [K, N, 3], one standard deviation each.
        paints: Changes of colour [K, N, 3].
        expressions: Displacements [K, N, 3].
    """

    vertices: Array
    cells: npt.NDArray[np.int32]
    colours: Array
    shapes: Array
    paints: Array
    expressions: Array


def build_head(level: int) -> Head:
    """Builds the head from a sphere of 10·4^level + 2 vertices."""
    sphere, cells = icosphere(level)
    sphere += np.array([0.0, 0.0, 0.35])  # seen from behind its centre: vertices gather in the face
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    vertices = _skull(sphere)
    flat = vertices.copy()  # where things are drawn: before nose and sockets are modelled
    vertices = vertices + _features(flat)
    hair = _hair(flat)
    vertices = vertices + 7.0 * hair[:, None] * sphere
    return Head(
        vertices, cells, _colours(flat, hair), _shapes(flat, hair), _paints(flat, hair), _expressions(flat)
    )


def _bump(at: Array, centre: tuple[float, ...], width: tuple[float, ...], mirror: bool = False) -> Array:
    """Returns a Gaussian [N] of x and y, on the front half only; of x, y and z with three numbers."""
    n = len(centre)
    squared: Array = (((at[:, :n] - np.array(centre)) / np.array(width)) ** 2).sum(axis=1)
    value: Array = np.exp(-0.5 * squared)
    if len(centre) == 2:
        value = value * _step(at[:, 2], 0.0, 30.0)
    if not mirror:
        return value
    return value + _bump(at, (-centre[0], *centre[1:]), width)


def _step(value: Array, start: float, end: float) -> Array:
    """Returns 0 before start, 1 after end, and a smooth rise between."""
    t = np.clip((value - start) / (end - start), 0.0, 1.0)
    risen: Array = t * t * (3.0 - 2.0 * t)
    return risen


def _along(weight: Array, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Array:
    moved: Array = weight[:, None] * np.array([x, y, z])
    return moved


def _apart(at: Array, weight: Array, mm: float) -> Array:
    """Moves both sides of the head away from each other."""
    side = np.tanh(at[:, 0] / 8.0)
    return _along(weight * side, x=mm)


def _skull(sphere: Array) -> Array:
    x, y, z = sphere.T
    low = _step(-y, 0.05, 0.95)
    front = _step(z, -0.1, 0.6)
    width = 76.0 * (1.0 - 0.11 * low) * (1.0 - 0.05 * front)
    face = (90.0 - 12.0 * _step(np.abs(x), 0.1, 0.7)) * (1.0 + 0.65 * low)
    depth = np.where(z > 0, face, 98.0 * (1.0 - 0.35 * low))
    height = np.where(y > 0, 112.0, 100.0)
    at = np.stack([x * width, y * height, z * depth], axis=1)
    neck = np.exp(-0.5 * ((at[:, 0] / 54.0) ** 2 + ((at[:, 2] + 28.0) / 29.0) ** 2)) * _step(-y, 0.55, 0.9)
    skull: Array = at + _along(neck, y=-62.0, z=-10.0) + _apart(at, neck * _step(-y, 0.6, 0.85), 12.0)
    return skull


def _features(at: Array) -> Array:
    ear = (77.0, 6.0, -12.0)
    z = (
        -9.0 * _bump(at, EYE, (15.0, 9.0), True)
        + 6.5 * _bump(at, EYE, (9.5, 6.5), True)
        + 4.5 * _bump(at, (26.0, 41.0), (19.0, 6.0), True)
        + 15.0 * _bump(at, (0.0, 12.0), (6.5, 22.0))
        + 19.0 * _bump(at, (0.0, NOSE_TIP_Y), (8.5, 9.5))
        + 8.0 * _bump(at, (10.5, NOSE_TIP_Y - 3.0), (5.5, 5.0), True)
        + 4.0 * _bump(at, (44.0, -4.0), (17.0, 14.0), True)
        + 8.0 * _bump(at, (0.0, MOUTH_Y), (22.0, 13.0))
        + 5.0 * _bump(at, (0.0, MOUTH_Y + 5.5), (15.0, 3.6))
        + 5.5 * _bump(at, (0.0, MOUTH_Y - 6.0), (14.0, 4.2))
        - 3.5 * _bump(at, (0.0, MOUTH_Y), (19.0, 1.8))
        - 4.0 * _bump(at, (0.0, MOUTH_Y - 16.0), (17.0, 5.0))
        + 9.0 * _bump(at, (0.0, -78.0), (17.0, 12.0))
    )
    ears = _bump(at, ear, (14.0, 17.0, 9.0), True)
    hollow = _bump(at, (ear[0], ear[1] + 1.0, ear[2] + 5.0), (14.0, 8.0, 4.0), True)
    return _along(z, z=1.0) + _along(ears, z=-9.0) + _apart(at, ears - 0.55 * hollow, 17.0)


def _hair(at: Array) -> Array:
    """Returns how much hair grows at each vertex, 0 to 1."""
    line = np.interp(
        at[:, 2], [-70.0, -35.0, -12.0, 15.0, 45.0, 80.0], [-62.0, -30.0, 34.0, 46.0, 60.0, 72.0]
    )
    return _step(at[:, 1] - line, -3.0, 4.0)


def _colours(at: Array, hair: Array) -> Array:
    colours = np.tile(np.array(SKIN), (len(at), 1))
    colours += _along(_bump(at, (42.0, -12.0), (17.0, 14.0), True), 0.05, -0.035, -0.03)
    colours += _along(_bump(at, (0.0, NOSE_TIP_Y), (10.0, 9.0)), 0.03, -0.02, -0.02)
    for weight, colour in _painted(at, hair):
        colours += weight[:, None] * (np.array(colour) - colours)
    return colours


def _painted(at: Array, hair: Array) -> list[tuple[Array, tuple[float, float, float]]]:
    """Returns what is painted over the skin, one over the other: how much, and which colour."""
    return [
        (_lips(at), LIPS),
        (_brows(at), BROWS),
        (_eyes(at, 11.5, 5.6), WHITE),
        (_eyes(at, 5.2, 5.2), IRIS),
        (_eyes(at, 2.4, 2.4), PUPIL),
        (hair, HAIR),
    ]


def _ellipse(
    at: Array, centre: tuple[float, float], half: tuple[float, float], mirror: bool = False
) -> Array:
    """Returns 1 inside an ellipse of the face, 0 outside, with an edge of a millimetre or two."""
    distance = np.hypot((at[:, 0] - centre[0]) / half[0], (at[:, 1] - centre[1]) / half[1])
    edge = 1.2 / min(half)
    inside = (1.0 - _step(distance, 1.0 - edge, 1.0 + edge)) * _step(at[:, 2], 0.0, 10.0)
    return np.maximum(inside, _ellipse(at, (-centre[0], centre[1]), half)) if mirror else inside


def _eyes(at: Array, half_width: float, half_height: float) -> Array:
    lids = _ellipse(at, EYE, (11.5, 5.6), True)
    return np.minimum(_ellipse(at, EYE, (half_width, half_height), True), lids)


def _lips(at: Array) -> Array:
    bow = 1.6 * np.cos(at[:, 0] / 5.0) * np.exp(-((at[:, 0] / 9.0) ** 2))
    moved = at + _along(np.ones(len(at)) * bow, y=0.5)
    return _ellipse(moved, (0.0, MOUTH_Y), (23.0, 8.5))


def _brows(at: Array) -> Array:
    arch = 4.0 * ((np.abs(at[:, 0]) - 30.0) / 16.0) ** 2
    return 0.9 * _ellipse(at + _along(arch, y=1.0), (30.0, 43.0), (17.0, 3.4), True)


def _shapes(at: Array, hair: Array) -> Array:
    low, top = _step(-at[:, 1], 10.0, 70.0), _step(at[:, 1], 40.0, 100.0)
    neck = _step(-at[:, 1], 95.0, 125.0)
    eyes = _bump(at, EYE, (15.0, 10.0), True)
    ears = _bump(at, (77.0, 6.0, -12.0), (16.0, 20.0, 12.0), True)
    return np.stack(
        [
            at * [0.045, 0.0, 0.0],
            at * [0.0, 0.04, 0.0],
            at * [0.0, 0.0, 0.045],
            low[:, None] * at * [0.09, 0.0, 0.02],
            top[:, None] * at * [0.05, 0.04, 0.02],
            _along(_bump(at, (0.0, -76.0), (24.0, 16.0)), y=-4.5),
            _along(_bump(at, (0.0, -74.0), (20.0, 16.0)), z=4.0),
            _along(_bump(at, (0.0, NOSE_TIP_Y), (9.0, 9.0)), y=-3.0, z=2.5),
            _along(_bump(at, (0.0, 4.0), (8.0, 20.0)), z=3.5),
            _apart(at, _bump(at, (0.0, NOSE_TIP_Y - 2.0), (14.0, 8.0)), 3.0),
            _along(_bump(at, (0.0, 22.0), (7.0, 10.0)), z=3.0),
            _apart(at, eyes, 2.2),
            eyes[:, None] * (at - [0.0, EYE[1], 0.0]) * [0.0, 0.20, 0.0],
            _along(eyes, z=-2.0),
            _along(_bump(at, (27.0, 42.0), (22.0, 7.0), True), z=2.5),
            _along(_bump(at, (30.0, 43.0), (20.0, 7.0), True), y=2.2),
            _along(_bump(at, (46.0, -30.0), (18.0, 20.0), True), z=4.0) + _apart(at, low, 1.5),
            _along(_bump(at, (48.0, 2.0), (16.0, 12.0), True), z=3.0),
            _along(_bump(at, (0.0, MOUTH_Y), (18.0, 8.0)), z=2.5),
            _bump(at, (0.0, MOUTH_Y), (24.0, 9.0))[:, None] * at * [0.10, 0.0, 0.0],
            _bump(at, (0.0, MOUTH_Y), (26.0, 11.0))[:, None] * (at - [0.0, MOUTH_Y, 0.0]) * [0.0, 0.16, 0.0],
            _along(_bump(at, (0.0, 70.0), (40.0, 22.0)), z=4.0),
            _apart(at, ears, 2.5) + _along(ears, z=-1.5),
            ears[:, None] * (at - [0.0, 6.0, 0.0]) * [0.0, 0.15, 0.0],
            neck[:, None] * at * [0.10, 0.0, 0.08],
            hair[:, None] * at * 0.02,
            _along(low, x=1.5),
            _along(_bump(at, (0.0, 0.0), (9.0, 22.0)), x=1.2),
        ]
    )


def _paints(at: Array, hair: Array) -> Array:
    over = np.clip(sum(weight for weight, _ in _painted(at, hair)), 0.0, 1.0)
    skin, lips, brows = 1.0 - over, _lips(at), _brows(at)
    iris = np.clip(_eyes(at, 5.2, 5.2) - _eyes(at, 2.4, 2.4), 0.0, 1.0)
    cheeks = _bump(at, (42.0, -14.0), (18.0, 15.0), True) * skin
    beard = _bump(at, (0.0, -62.0), (38.0, 26.0)) * skin
    mottle = np.sin(at[:, 0] / 9.0 + 1.0) * np.sin(at[:, 1] / 11.0) * np.sin(at[:, 2] / 13.0 + 2.0)
    return np.stack(
        [
            _along(skin + 0.5 * lips, -0.10, -0.098, -0.092),
            _along(skin, 0.018, -0.012, -0.014),
            _along(skin, 0.004, 0.0, -0.022),
            _along(cheeks, 0.018, -0.02, -0.016),
            _along(beard, -0.035, -0.02, -0.01),
            _along(lips, 0.04, -0.05, -0.04),
            _along(lips, -0.04, -0.04, -0.03),
            _along(hair + 0.6 * brows, 0.085, 0.065, 0.045),
            _along(hair + 0.4 * brows, 0.03, 0.002, -0.012),
            _along(iris, -0.12, 0.02, 0.14),
            _along(brows, 0.05, 0.05, 0.04),
            _along(mottle * skin, 0.012, 0.010, 0.008),
        ]
    )


def _expressions(at: Array) -> Array:
    corners, mouth = _bump(at, (22.0, MOUTH_Y), (9.0, 8.0), True), _bump(at, (0.0, MOUTH_Y), (20.0, 8.0))
    below = _bump(at, (0.0, -64.0), (34.0, 22.0))
    brows, eyes = _bump(at, (30.0, 43.0), (20.0, 8.0), True), _bump(at, EYE, (14.0, 7.0), True)
    return np.stack(
        [
            _along(corners, y=4.0, z=-2.0)
            + _apart(at, corners, 2.5)
            + _along(_bump(at, (44.0, -14.0), (14.0, 12.0), True), z=2.0),
            _along(below, y=-5.0, z=-1.5),
            _along(brows, y=3.5),
            eyes[:, None] * (at - [0.0, EYE[1], 0.0]) * [0.0, -0.25, 0.0],
            _along(mouth, z=3.5) - _apart(at, corners, 3.0),
        ]
    )
