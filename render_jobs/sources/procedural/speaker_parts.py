"""Drivers, ports and the front of loudspeakers. Lengths in metres, front towards -z."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from render_jobs.sources.procedural.mesh import Part, box_grid
from render_jobs.sources.procedural.shapes import extruded, lathe

_SIDES = 24
"""Quads around a driver; a multiple of 8, so that plates with a hole have points at their corners."""


@dataclass(frozen=True)
class Driver:
    """Something round in the front: `kind` is "woofer", "dome", "horn" or "port"; `radius` that of the hole."""

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


def plate_with_hole(
    bounds: tuple[float, float, float, float],
    centre: tuple[float, float],
    radius: float,
    depth: float,
    material: str,
) -> Part:
    """A rectangular plate (x0, x1, y0, y1) with a round hole; its front lies in z = 0, its back in z = `depth`."""
    x0, x1, y0, y1 = bounds
    angle = 2 * np.pi * np.arange(_SIDES) / _SIDES
    cos, sin = np.cos(angle), np.sin(angle)
    circle = np.column_stack([centre[0] + radius * cos, centre[1] + radius * sin])
    reach = np.maximum(np.abs(cos), np.abs(sin))  # on a unit square, so the corners are hit at 45 degrees
    square = np.column_stack([cos / reach, sin / reach])
    edge = np.column_stack([x0 + (square[:, 0] + 1) / 2 * (x1 - x0), y0 + (square[:, 1] + 1) / 2 * (y1 - y0)])
    chamfer = 0.25 * depth
    loops = [(edge, depth), (edge, chamfer), (edge, 0.0), (circle, 0.0), (circle, depth)]
    vertices = np.concatenate([np.column_stack([loop, np.full(_SIDES, z)]) for loop, z in loops])
    here, after = np.arange(_SIDES), (np.arange(_SIDES) + 1) % _SIDES
    faces = []
    for i in range(len(loops)):
        low, high = i * _SIDES, (i + 1) % len(loops) * _SIDES
        faces.append(np.stack([low + after, low + here, high + here, high + after], axis=1))
    quads = np.concatenate(faces)
    return Part(vertices, quads, np.full(len(quads), material))


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
    total = sum(share for _, share in rows)
    parts, y = [], 0.0
    for driver, share in rows:
        top = y + share / total * height
        middle = 0.5 * (y + top)
        if driver:
            bounds = (-width / 2, width / 2, y, top)
            plate = plate_with_hole(bounds, (0.0, middle), driver.radius, depth, material)
            parts.append(driver_part(driver, depth).moved(y=middle))
        else:
            grid = box_grid((-width / 2, width / 2), (y, top), (0.0, 0.25 * depth, depth))
            plate = grid.part(grid.points.copy(), material)
        parts.append(_outlined(plate, size, corner, 0.2 * depth))
        y = top
    return parts


def _outlined(plate: Part, size: tuple[float, float], corner: float, chamfer: float) -> Part:
    """Rounds a plate's corners where they are those of the whole front, and pulls its front edge in there."""
    vertices = plate.vertices.copy()
    half, height = size[0] / 2, size[1]
    face = vertices[:, 2] == 0.0
    for chosen, margin in ((face, chamfer), (~face, 0.0)):
        points = vertices[chosen, :2]
        low, high = np.array([margin - half, margin]), np.array([half - margin, height - margin])
        points = np.clip(points, low, high)
        core = np.clip(points, low + corner, high - corner)
        out = points - core
        distance = np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
        vertices[chosen, :2] = core + out * np.minimum(1.0, corner / distance)
    return replace(plate, vertices=vertices)


def shell(size: tuple[float, float, float], corner: float, material: str) -> Part:
    """The box behind a front: width, height (from y = 0) and depth (from z = 0 backwards), with rounded corners."""
    width, height, depth = size
    middles = ((width / 2 - corner, height - corner, 0), (corner - width / 2, height - corner, 90))
    middles += ((corner - width / 2, corner, 180), (width / 2 - corner, corner, 270))
    outline = [
        (
            x + corner * float(np.cos(np.radians(start + turn))),
            y + corner * float(np.sin(np.radians(start + turn))),
        )
        for x, y, start in middles
        for turn in (0, 30, 60, 90)
    ]
    return extruded(outline, depth, material).moved(z=depth / 2)
