"""Chairs: dining chairs, upholstered ones, armchairs with a shell, swivel chairs and bar stools.

Distribution: foot of four wooden legs 0.45, metal rods 0.2, sled 0.12, star with castors 0.13, pedestal 0.10;
back of slats 0.2, rungs 0.18, panel 0.24, cushion 0.2, shell 0.18; armrests with 0.3; bar height with 0.12.
Metres, y from the ground, the back towards +z.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from render_jobs.sources.procedural import paint
from render_jobs.sources.procedural.draw import Draw
from render_jobs.sources.procedural.mesh import Mesh, Part
from render_jobs.sources.procedural.shapes import box, lathe, rod, rounded_box
from render_jobs.sources.procedural.upholstery import cushion


@dataclass(frozen=True)
class ChairSpec:
    """One chair; lengths in metres. `back_lean` is how far the top of the back stands behind its foot."""

    foot: str
    back: str
    seat_width: float
    seat_depth: float
    seat_height: float
    seat_thick: float
    padded: bool
    back_height: float
    back_lean: float
    back_curve: float
    arms: bool
    leg_radius: float
    splay: float
    slats: int


def draw_chair(draw: Draw) -> ChairSpec:
    """Draws the kind of foot and back, then proportions."""
    foot = draw.weighted({"legs": 0.45, "rods": 0.20, "sled": 0.12, "star": 0.13, "pedestal": 0.10})
    back = draw.weighted({"slats": 0.20, "rungs": 0.18, "panel": 0.24, "cushion": 0.20, "shell": 0.18})
    bar = foot != "star" and draw.chance(0.12)
    return ChairSpec(
        foot=foot,
        back=back,
        seat_width=draw.uniform(0.40, 0.52),
        seat_depth=draw.uniform(0.39, 0.48),
        seat_height=draw.uniform(0.42, 0.48) + (draw.uniform(0.18, 0.30) if bar else 0.0),
        seat_thick=draw.uniform(0.025, 0.045),
        padded=back == "cushion" or draw.chance(0.4),
        back_height=draw.uniform(0.22, 0.34) if bar else draw.uniform(0.34, 0.54),
        back_lean=draw.uniform(0.04, 0.12),
        back_curve=draw.uniform(0.0, 0.06),
        arms=draw.chance(0.3),
        leg_radius=draw.uniform(0.015, 0.023),
        splay=draw.uniform(0.0, 0.07),
        slats=draw.integer(3, 6),
    )


def build_chair(k: int) -> Mesh:
    """Chair number k."""
    draw = Draw("chair", k)
    spec = draw_chair(draw)
    mesh = Mesh()
    _paint(mesh, spec, Draw("chair", k, "paint"))
    mesh.add("legs", *_foot(spec))
    mesh.add("seat", *_seat(spec))
    mesh.add("back", *_back(spec))
    if spec.arms:
        mesh.add("arms", *_arms(spec))
    return mesh


def _paint(mesh: Mesh, spec: ChairSpec, draw: Draw) -> None:
    painted = draw.chance(0.3)
    frame = paint.from_palette(draw, paint.LACQUER if painted else paint.WOOD, 1.5)
    metal = spec.foot in {"rods", "sled", "star", "pedestal"}
    shell = paint.from_palette(draw, paint.LACQUER + paint.FABRIC, 1.5)
    mesh.colours |= {
        "frame": shell if spec.back == "shell" or (metal and draw.chance(0.4)) else frame,
        "leg": paint.from_palette(draw, paint.METAL) if metal else frame,
        "fabric": paint.from_palette(draw, paint.LEATHER if draw.chance(0.2) else paint.FABRIC, 1.5),
        "dark": paint.grey(0.12),
    }


def _seat(spec: ChairSpec) -> list[Part]:
    size = (spec.seat_width, spec.seat_thick, spec.seat_depth)
    board = rounded_box(size, 0.4 * spec.seat_thick, "frame").moved(y=spec.seat_height - spec.seat_thick / 2)
    if not spec.padded:
        return [board]
    pad = cushion((0.96 * size[0], 0.055, 0.96 * size[2]), 0.012, "fabric", radius=0.024)
    return [board, pad.moved(y=spec.seat_height + 0.024)]


def _foot(spec: ChairSpec) -> list[Part]:
    top = spec.seat_height - 0.6 * spec.seat_thick
    if spec.foot in {"star", "pedestal"}:
        return _column(spec, top)
    x, z = spec.seat_width / 2 - 0.035, spec.seat_depth / 2 - 0.035
    splay = spec.splay
    if spec.foot == "sled":
        return [part for side in (-1, 1) for part in _runner(spec, side * x, z, top)]
    taper = 1.5 if spec.foot == "legs" else 1.0
    radius = spec.leg_radius / taper if spec.foot == "legs" else 0.011
    parts = [
        rod((sx * (x + splay), 0.0, sz * (z + splay)), (sx * x, top, sz * z), radius, "leg", 10, taper)
        for sx in (-1, 1)
        for sz in (-1, 1)
    ]
    if spec.seat_height > 0.55 or (spec.foot == "legs" and spec.slats % 2):  # stretchers
        share = 0.55
        low, out = top * (1 - share), splay * share
        for sx in (-1, 1):
            parts.append(rod((sx * (x + out), low, -z - out), (sx * (x + out), low, z + out), 0.010, "leg"))
        parts.append(rod((-x - out, low + 0.03, 0.0), (x + out, low + 0.03, 0.0), 0.009, "leg"))
    return parts


def _runner(spec: ChairSpec, x: float, z: float, top: float) -> list[Part]:
    """Two legs joined by a runner on the ground; balls close the joints."""
    radius = 0.012
    corners = [(x, top, -z), (x, radius, -z - spec.splay), (x, radius, z + spec.splay), (x, top, z)]
    parts = [rod(a, b, radius, "leg") for a, b in pairwise(corners)]
    ball = lathe([(0.0, -1.0), (0.7, -0.7), (1.0, 0.0), (0.7, 0.7), (0.0, 1.0)], 8, "leg")
    return parts + [ball.scaled(radius, radius, radius).moved(*corner) for corner in corners[1:3]]


def _column(spec: ChairSpec, top: float) -> list[Part]:
    """A column on a star with castors, or on a round plate."""
    parts = [rod((0.0, 0.04, 0.0), (0.0, top, 0.0), 0.026, "leg", 14)]
    if spec.foot == "pedestal":
        plate = [(0.24, 0.0), (0.24, 0.012), (0.05, 0.035), (0.03, 0.08)]
        return [*parts, lathe(plate, 28, "leg")]
    arm = box((0.045, 0.035, 0.28), "leg").moved(y=0.085, z=0.14)
    castor = lathe([(0.022, -0.018), (0.028, -0.010), (0.028, 0.010), (0.022, 0.018)], 10, "dark")
    castor = castor.turned("z", 90.0).moved(y=0.0285, z=0.27)
    fork = box((0.016, 0.05, 0.02), "dark").moved(y=0.055, z=0.27)
    for i in range(5):
        parts += [part.turned("y", 72.0 * i) for part in (arm, castor, fork)]
    return parts


def _leaned(spec: ChairSpec, part: Part) -> Part:
    """A part of an upright back (foot at y = 0, x from the middle) bent backwards and around the sitter."""
    vertices = part.vertices.copy()
    rise = np.clip(vertices[:, 1] / spec.back_height, -0.2, 1.2)
    across = vertices[:, 0] / (spec.seat_width / 2)
    vertices[:, 2] += spec.back_lean * rise * np.abs(rise) ** 0.3 - spec.back_curve * across**2 * np.clip(
        rise, 0, 1
    )
    z = spec.seat_depth / 2 - 0.03
    return replace(part, vertices=vertices + np.array([0.0, spec.seat_height - 0.01, z]))


def _back(spec: ChairSpec) -> list[Part]:
    width, height = 0.94 * spec.seat_width, spec.back_height
    cuts = (4, 3, 1)
    if spec.back == "shell":
        shell = rounded_box((width + 0.04, height, 0.022), 0.010, "frame", cuts=(6, 4, 1)).moved(y=height / 2)
        flared = shell.vertices.copy()
        flared[:, 0] *= 0.85 + 0.25 * np.sin(np.pi * np.clip(0.15 + 0.75 * flared[:, 1] / height, 0, 1))
        flared[:, 2] -= 0.9 * (np.abs(flared[:, 0]) / width) ** 2 * 0.4
        return [_leaned(spec, replace(shell, vertices=flared))]
    if spec.back in {"panel", "cushion"}:
        gap = 0.0 if spec.back == "cushion" else 0.28 * height
        panel = rounded_box((width, height - gap, 0.022), 0.010, "frame", cuts=cuts)
        parts = [_leaned(spec, panel.moved(y=gap + (height - gap) / 2))]
        if spec.back == "cushion":
            pad = cushion((0.96 * width, 0.05, 0.94 * height), 0.012, "fabric", radius=0.022).turned(
                "x", 90.0
            )
            return [*parts, _leaned(spec, pad.moved(y=height / 2, z=-0.028))]
        return parts + _posts(spec, 0.5 * height)
    parts = _posts(spec, height)
    rail = rounded_box((width, 0.06, 0.022), 0.010, "frame", segments=1, cuts=(4, 1, 1))
    parts.append(_leaned(spec, rail.moved(y=height - 0.025)))
    if spec.back == "rungs":
        for i in range(1, min(spec.slats, 4)):
            parts.append(_leaned(spec, rail.scaled(y=0.7).moved(y=height * (i / min(spec.slats, 4)))))
        return parts
    for i in range(spec.slats):
        x = (i - (spec.slats - 1) / 2) * 0.78 * width / spec.slats
        slat = rounded_box((0.028, height - 0.03, 0.012), 0.005, "frame", segments=1, cuts=(1, 3, 1))
        parts.append(_leaned(spec, slat.moved(x, (height - 0.03) / 2)))
    return parts


def _posts(spec: ChairSpec, height: float) -> list[Part]:
    post = rounded_box((0.032, height, 0.03), 0.012, "frame", segments=1, cuts=(1, 3, 1))
    part = _leaned(spec, post.moved(0.47 * spec.seat_width - 0.016, height / 2))
    return [*part.both_sides()]


def _arms(spec: ChairSpec) -> list[Part]:
    y, x = spec.seat_height + 0.20, spec.seat_width / 2 + 0.012
    front, back = -0.32 * spec.seat_depth, spec.seat_depth / 2 - 0.01
    rest = rounded_box((0.045, 0.026, back - front + 0.05), 0.011, "frame", segments=1)
    post = rod((x, spec.seat_height - 0.025, front + 0.01), (x, y, front + 0.01), 0.012, "leg")
    link = rod((x - 0.03, spec.seat_height - 0.02, back - 0.05), (x, y, back - 0.04), 0.012, "leg")
    parts = (rest.moved(x, y, 0.5 * (front + back)), post, link)
    return [side for part in parts for side in part.both_sides()]
