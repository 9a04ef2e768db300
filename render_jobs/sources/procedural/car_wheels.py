"""Wheels: a tyre and a rim, in several designs. Axis along x, the outer face towards +x."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from render_jobs.sources.procedural.draw import Draw
from render_jobs.sources.procedural.mesh import Part
from render_jobs.sources.procedural.shapes import extruded, lathe


@dataclass(frozen=True)
class WheelSpec:
    """A wheel in metres; `design` is "spokes", "twin", "disc" or "cap"."""

    radius: float
    width: float
    rim: float
    design: str
    spokes: int


def draw_wheel(draw: Draw, radius: float, width: float, style: str) -> WheelSpec:
    """Draws a rim for a tyre; working vehicles tend to plain discs."""
    plain = style in {"van", "pickup"}
    design = draw.weighted(
        {"spokes": 0.5, "twin": 0.2, "disc": 0.35 if plain else 0.15, "cap": 0.25 if plain else 0.1}
    )
    rim = draw.uniform(0.60, 0.68) if plain else draw.uniform(0.64, 0.76)
    spokes = draw.choice((5, 6)) if design == "twin" else draw.choice((5, 5, 5, 6, 7, 8))
    return WheelSpec(radius, width, rim * radius, design, spokes)


def wheel_parts(spec: WheelSpec, segments: int = 18) -> list[Part]:
    """Tyre and rim centred at the origin; materials tyre, rim, rim_dark."""
    half, r = spec.width / 2, spec.radius
    tyre = [
        (spec.rim, -0.96 * half), (0.95 * r, -half), (r, -0.62 * half), (r, 0.62 * half), (0.95 * r, half),
        (spec.rim, 0.96 * half), (0.93 * spec.rim, 0.80 * half),
    ]  # fmt: skip
    names = ["tyre", "tyre", "tyre", "tyre", "tyre", "rim"]
    if spec.design == "disc":
        tyre += [
            (0.62 * spec.rim, 0.55 * half),
            (0.45 * spec.rim, 0.80 * half),
            (0.2 * spec.rim, 0.80 * half),
        ]
        names += ["rim", "rim", "rim_dark"]
    elif spec.design == "cap":
        tyre += [(0.55 * spec.rim, 0.98 * half), (0.18 * spec.rim, 1.04 * half)]
        names += ["rim", "rim"]
    else:
        tyre += [(0.88 * spec.rim, 0.40 * half)]
        names += ["rim_dark"]
    parts = [lathe(tyre, segments, [*names])]
    if spec.design in {"spokes", "twin"}:
        parts += _spokes(spec)
    return [part.turned("z", -90.0) for part in parts]


def _spokes(spec: WheelSpec) -> list[Part]:
    """Flat spokes and a hub, in the frame of the lathe (axis y)."""
    half, rim = spec.width / 2, spec.rim
    hub = lathe([(0.26 * rim, 0.35 * half), (0.26 * rim, 0.76 * half), (0.18 * rim, 0.84 * half)], 8, "rim")
    parts = [hub]
    wide, narrow = (0.10 * rim, 0.065 * rim) if spec.design == "twin" else (0.17 * rim, 0.11 * rim)
    outline = [
        (0.12 * rim, -wide),
        (0.925 * rim, -narrow * 1.2),
        (0.925 * rim, narrow * 1.2),
        (0.12 * rim, wide),
    ]
    spoke = extruded(outline, 0.30 * half, "rim").turned("x", -90.0).moved(y=0.62 * half)
    offsets = (-9.0, 9.0) if spec.design == "twin" else (0.0,)
    for angle in np.arange(spec.spokes) * 360.0 / spec.spokes:
        parts += [spoke.turned("y", float(angle) + offset) for offset in offsets]
    return parts
