"""Drivers, ports and the front of loudspeakers. Lengths in metres, front towards -z."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from render_jobs.sources.procedural.mesh import Floats, Part, box_grid
from render_jobs.sources.procedural.shapes import extruded, lathe

_CHAMFER = 0.2
"""Of the front's edges, as a fraction of its thickness."""
_SIDES = 24
"""Quads around a driver; a multiple of 8, so that plates with a hole have points at their corners."""


@dataclass(frozen=True)
class Driver:
    """Something round in the front: a "woofer", "dome", "horn" or "port"; `radius` is the hole's, metres."""

    kind: str
    radius: float


def driver_part(driver: Driver, depth: float) -> Part:
    """A driver with its axis along z, its hole in the plane z = 0, reaching back at most `depth`.

    Materials: ring, surround, cone, cap, dome, port.
    """
    r, d = driver.radius, 0.9 * depth
    back = [(r * 0.98, -d), (r * 0.98, -0.001), (r * 1.09, -0.001), (r * 1.09, 0.006)]
    backs = ["ring"] * 3
    if driver.kind == "woofer":
        deep = min(0.8 * d, 0.42 * r)
        inside = [
            (r * 0.99, 0.008),
            (r * 0.93, 0.012),
            (r * 0.86, 0.004),
            (r * 0.36, -deep),
            (r * 0.24, -0.6 * deep),
        ]
        names = ["ring", "surround", "surround", "cone", "cap", "cap"]
        inside.append((0.0, -0.45 * deep))
    elif driver.kind == "dome":
        inside = [
            (r * 0.70, 0.006),
            (r * 0.62, -0.1 * r),
            (r * 0.5, 0.08 * r),
            (r * 0.3, 0.22 * r),
            (0.0, 0.28 * r),
        ]
        names = ["ring", "surround", "dome", "dome", "dome"]
    elif driver.kind == "horn":
        deep = min(0.85 * d, 0.5 * r)
        inside = [
            (r * 0.95, 0.006),
            (r * 0.6, -0.65 * deep),
            (r * 0.3, -deep),
            (r * 0.2, -0.8 * deep),
            (0.0, -0.75 * deep),
        ]
        names = ["ring", "surround", "surround", "dome", "dome"]
    else:
        inside = [(r * 0.92, 0.006), (r * 0.80, -0.95 * d), (0.0, -0.95 * d)]
        names = ["ring", "port", "port"]
    return lathe([*back, *inside], _SIDES, [*backs, *names]).turned("x", -90.0)


Bounds = tuple[float, float, float, float]
"""x0, x1, y0, y1."""


def plate_with_hole(
    bounds: Bounds, face: Bounds, centre: tuple[float, float], radius: float, depth: float, material: str
) -> Part:
    """A rectangular plate with a round hole and chamfered edges.

    Args:
        bounds: Of the plate, whose back lies in z = `depth`.
        face: Of its front, which lies in z = 0.
        centre: Of the hole.
        radius: Of the hole.
        depth: Thickness.
        material: Of every face.
    """
    angle = 2 * np.pi * np.arange(_SIDES) / _SIDES
    round_line = np.column_stack([np.cos(angle), np.sin(angle)])
    circle = np.array(centre) + radius * round_line
    # Scaled to the square of half-width 1, the points at 45 degrees are its corners.
    square = round_line / np.abs(round_line).max(axis=1, keepdims=True)
    edge, front = _placed(square, bounds), _placed(square, face)
    loops = [(edge, depth), (edge, _CHAMFER * depth), (front, 0.0), (circle, 0.0), (circle, depth)]
    vertices = np.concatenate([np.column_stack([loop, np.full(_SIDES, z)]) for loop, z in loops])
    here, after = np.arange(_SIDES), (np.arange(_SIDES) + 1) % _SIDES
    faces = []
    for i in range(len(loops)):
        low, high = i * _SIDES, (i + 1) % len(loops) * _SIDES
        faces.append(np.stack([low + after, low + here, high + here, high + after], axis=1))
    quads = np.concatenate(faces)
    return Part(vertices, quads, np.full(len(quads), material))


def _placed(square: Floats, bounds: Bounds) -> Floats:
    """Points of the square [-1, 1]^2 stretched to a rectangle."""
    x0, x1, y0, y1 = bounds
    low, high = np.array([x0, y0]), np.array([x1, y1])
    return np.asarray(low + (square + 1) / 2 * (high - low))


def _closed_plate(bounds: Bounds, face: Bounds, depth: float, material: str) -> Part:
    """A plate like `plate_with_hole`, without the hole."""
    grid = box_grid((-1.0, 1.0), (-1.0, 1.0), (0.0, _CHAMFER * depth, depth))
    square, z = grid.points[:, :2], grid.points[:, 2]
    flat = np.where((z == 0.0)[:, None], _placed(square, face), _placed(square, bounds))
    return grid.part(np.column_stack([flat, z]), material)


def baffle(
    size: tuple[float, float],
    rows: Sequence[tuple[Driver | None, float]],
    depth: float,
    corner: float,
    material: str,
) -> list[Part]:
    """A front of plates stacked from the bottom, each with one driver or closed, and the drivers.

    Args:
        size: Width and height; the front is centred in x and starts at y = 0.
        rows: Driver (None for a closed plate) and share of the height.
        depth: Thickness; the front lies in z = 0.
        corner: Radius of the four corners of the outline.
        material: Of the plates.
    """
    width, height = size
    chamfer = _CHAMFER * depth
    total = sum(share for _, share in rows)
    parts, y = [], 0.0
    for i, (driver, share) in enumerate(rows):
        top = y + share / total * height
        bounds = (-width / 2, width / 2, y, top)
        low = y + (chamfer if i == 0 else 0.0)
        high = top - (chamfer if i == len(rows) - 1 else 0.0)
        face = (chamfer - width / 2, width / 2 - chamfer, low, high)
        middle = 0.5 * (y + top)
        if driver:
            room = 0.5 * min(width, top - y) - 1.2 * chamfer
            driver = replace(driver, radius=min(driver.radius, room / 1.09))
            plate = plate_with_hole(bounds, face, (0.0, middle), driver.radius, depth, material)
            parts.append(driver_part(driver, depth).moved(y=middle))
        else:
            plate = _closed_plate(bounds, face, depth, material)
        parts.append(_rounded_outline(plate, size, corner, chamfer))
        y = top
    return parts


def _rounded_outline(plate: Part, size: tuple[float, float], corner: float, chamfer: float) -> Part:
    """A plate whose corners are rounded where they are those of the whole front."""
    margin = np.where(plate.vertices[:, 2:] == 0.0, chamfer, 0.0)
    low = np.array([-size[0] / 2, 0.0]) + margin + corner
    high = np.array([size[0] / 2, size[1]]) - margin - corner
    points = plate.vertices[:, :2]
    core = np.clip(points, low, high)
    out = points - core
    distance = np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
    flat = core + out * np.minimum(1.0, corner / distance)
    return replace(plate, vertices=np.column_stack([flat, plate.vertices[:, 2]]))


def shell(size: tuple[float, float, float], corner: float, material: str) -> Part:
    """The box behind a front: width, height from y = 0, depth from z = 0 backwards; corners rounded."""
    width, height, depth = size
    x, y = width / 2 - corner, height - corner
    middles = [(x, y, 0.0), (-x, y, 90.0), (-x, corner, 180.0), (x, corner, 270.0)]
    outline = [
        (
            x + corner * float(np.cos(np.radians(start + turn))),
            y + corner * float(np.sin(np.radians(start + turn))),
        )
        for x, y, start in middles
        for turn in (0, 30, 60, 90)
    ]
    return extruded(outline, depth, material).moved(z=depth / 2)
