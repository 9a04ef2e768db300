"""Drivers, ports and the front of loudspeakers. Lengths in metres, front towards -z."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from render_jobs.sources.procedural.mesh import Part
from render_jobs.sources.procedural.shapes import lathe

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
        inside = [(r * 0.99, 0.008), (r * 0.93, 0.012), (r * 0.86, 0.004), (r * 0.36, -deep), (r * 0.24, -0.6 * deep)]
        names = ["ring", "surround", "surround", "cone", "cap", "cap"]
        inside.append((0.0, -0.45 * deep))
    elif driver.kind == "dome":
        inside = [(r * 0.70, 0.006), (r * 0.62, -0.1 * r), (r * 0.5, 0.08 * r), (r * 0.3, 0.22 * r), (0.0, 0.28 * r)]
        names = ["ring", "surround", "dome", "dome", "dome"]
    elif driver.kind == "horn":
        deep = min(0.85 * d, 0.5 * r)
        inside = [(r * 0.95, 0.006), (r * 0.6, -0.65 * deep), (r * 0.3, -deep), (r * 0.2, -0.8 * deep), (0.0, -0.75 * deep)]
        names = ["ring", "surround", "surround", "dome", "dome"]
    else:
        inside = [(r * 0.92, 0.006), (r * 0.80, -0.95 * d), (0.0, -0.95 * d)]
        names = ["ring", "port", "port"]
    return lathe([*back, *inside], _SIDES, [*backs, *names]).turned("x", -90.0)


def plate_with_hole(
    bounds: tuple[float, float, float, float], centre: tuple[float, float], radius: float, depth: float, material: str
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
        faces.append(np.stack([low + after, low + here, high + here, high + after], axis=1)[:, ::-1])
    quads = np.concatenate(faces)[:, ::-1]
    return Part(vertices, quads, np.full(len(quads), material))


def baffle(
    size: tuple[float, float], rows: Sequence[tuple[Driver | None, float]], depth: float, chamfer: float, material: str
) -> list[Part]:
    """A front of plates stacked from the bottom, each with one driver or closed, and the drivers.

    Args:
        size: Width and height; the front is centred in x and starts at y = 0.
        rows: Driver (None for a closed plate) and share of the height.
        depth: Thickness; the front lies in z = 0.
        chamfer: Of the outer front edge.
        material: Of the plates.
    """
    width, height = size
    total = sum(share for _, share in rows)
    parts, y = [], 0.0
    for driver, share in rows:
        top = y + share / total * height
        middle = 0.5 * (y + top)
        radius = driver.radius if driver else 0.3 * min(width, top - y)
        plate = plate_with_hole((-width / 2, width / 2, y, top), (0.0, middle), radius, depth, material)
        parts.append(_chamfered(plate, size, chamfer))
        if driver:
            parts.append(driver_part(driver, depth).moved(y=middle))
        else:
            plug = lathe([(1.01 * radius, 0.0), (1.01 * radius, 0.9 * depth)], _SIDES, material).turned("x", 90.0)
            parts.append(plug.moved(y=middle, z=0.0005))
        y = top
    return parts


def _chamfered(plate: Part, size: tuple[float, float], chamfer: float) -> Part:
    """Pulls the front outline of a plate in where it is the outline of the whole front."""
    vertices = plate.vertices.copy()
    face = vertices[:, 2] == 0.0
    half, height = size[0] / 2, size[1]
    vertices[face, 0] = np.clip(vertices[face, 0], chamfer - half, half - chamfer)
    vertices[face, 1] = np.clip(vertices[face, 1], chamfer, height - chamfer)
    return replace(plate, vertices=vertices)
