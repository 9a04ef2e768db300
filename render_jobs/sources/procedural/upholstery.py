"""Soft parts and legs that sofas and chairs share. Lengths in metres."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from render_jobs.sources.procedural.draw import Draw
from render_jobs.sources.procedural.mesh import Part
from render_jobs.sources.procedural.shapes import box, lathe, rod, rounded_box, tapered_box


def cushion(size: tuple[float, float, float], puff: float, material: str, radius: float = 0.05) -> Part:
    """A flat cushion centred at the origin whose upper and lower sides swell by `puff` in the middle."""
    part = rounded_box(size, radius, material, cuts=(3, 1, 3))
    half = np.array(size) / 2
    across = 1 - np.clip(np.abs(part.vertices / half), 0.0, 1.0) ** 2
    swell = puff * across[:, 0] * across[:, 2] * np.sign(part.vertices[:, 1])
    vertices = part.vertices.copy()
    vertices[:, 1] += swell
    return replace(part, vertices=vertices)


def pillow(size: float, material: str) -> Part:
    """A square throw pillow that stands in the x-y plane, thick in the middle and thin at its corners."""
    part = rounded_box((size, 0.06, size), 0.03, material, segments=1, cuts=(4, 1, 4))
    half = size / 2
    x, z = part.vertices[:, 0] / half, part.vertices[:, 2] / half
    vertices = part.vertices.copy()
    vertices[:, 1] *= 0.35 + 2.2 * np.sqrt(np.clip((1 - x**2) * (1 - z**2), 0.0, 1.0))
    vertices[:, 0] *= 1 - 0.10 * (1 - z**2)  # the edges run in between the corners
    vertices[:, 2] *= 1 - 0.10 * (1 - x**2)
    return replace(part, vertices=vertices).turned("x", 90.0)


LEG_STYLES: dict[str, float] = {"peg": 0.34, "block": 0.2, "metal": 0.16, "bun": 0.12, "plinth": 0.18}


def draw_leg_height(draw: Draw, style: str) -> float:
    """Height of legs of a style."""
    return draw.within(
        {"peg": (0.10, 0.20), "metal": (0.10, 0.18), "plinth": (0.04, 0.07)}.get(style, (0.05, 0.10))
    )


def legs(style: str, height: float, corners: list[tuple[float, float]], splay: float = 0.04) -> list[Part]:
    """Legs below the given (x, z) places, from the ground to slightly inside the body; material leg.

    Pegs lean outwards by `splay`. The style "plinth" is a block under the whole body instead.
    """
    xs, zs = [x for x, _ in corners], [z for _, z in corners]
    top = height + 0.02
    if style == "plinth":
        size = (max(xs) - min(xs) + 0.04, top, max(zs) - min(zs) + 0.04)
        return [box(size, "leg").moved(0.5 * (max(xs) + min(xs)), top / 2, 0.5 * (max(zs) + min(zs)))]
    parts = []
    middle_x, middle_z = 0.5 * (max(xs) + min(xs)), 0.5 * (max(zs) + min(zs))
    for x, z in corners:
        if style == "peg":
            foot = (x + splay * np.sign(x - middle_x), 0.0, z + splay * np.sign(z - middle_z))
            parts.append(rod(foot, (x, top, z), 0.018, "leg", 8, taper=1.8))
        elif style == "metal":
            parts.append(rod((x, 0.0, z), (x, top, z), 0.014, "leg", 8))
        elif style == "bun":
            profile = [(0.5, 0.0), (0.9, 0.25), (1.0, 0.55), (0.8, 0.9), (0.8, 1.0)]
            radius = min(0.05, 0.45 * top)
            parts.append(lathe([(r * radius, t * top) for r, t in profile], 12, "leg").moved(x=x, z=z))
        else:
            parts.append(tapered_box((0.055, top, 0.055), (1.4, 1.4), "leg").moved(x, top / 2, z))
    return parts
