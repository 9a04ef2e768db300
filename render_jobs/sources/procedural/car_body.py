"""The shell of a car: lower body with wheel arches, and the cabin above the belt line.

Both are box grids warped by a `CarSpec`. Parameters of the lower body: x in [-1, 1] across, v in [0, 1] from sill
to shoulder, z in metres. Parameters of the cabin: x in [-1, 1], v in [0, 1] from inside the body to the roof, u in
[0, 1] from windscreen to rear window. Materials are chosen by parameter, so windows and lamps are cells of the
surface itself, and nothing lies on top of it.
"""

from __future__ import annotations

import numpy as np

from render_jobs.sources.procedural.car_spec import CarSpec
from render_jobs.sources.procedural.mesh import Floats, Names, Part, ascending, box_grid, smooth_curve, smoothstep

_SIDE = ((0.0, 0.925), (0.10, 0.965), (0.36, 1.0), (0.60, 0.995), (0.80, 0.978), (0.93, 0.955), (1.0, 0.905))
"""Half-width of the body by relative height, as a fraction of the largest."""
_LINES_X = (0.2, 0.45, 0.64, 0.88)
_GLASS_EDGE = 0.88
_EMBEDDED = 0.07
"""How far the cabin reaches into the body, metres."""


def shoulder(spec: CarSpec, z: Floats) -> Floats:
    """Height of the upper edge of the body's side: bonnet, belt line, boot."""
    hood = spec.cowl - spec.front
    knots = [
        (spec.front, spec.nose),
        (spec.front + 0.25 * hood, spec.nose + 0.45 * (spec.belt - spec.nose)),
        (spec.cowl, spec.belt),
        (0.5 * (spec.cowl + spec.glass_rear), spec.belt + 0.5 * spec.wedge),
        (min(spec.glass_rear, spec.rear - 0.06), max(spec.belt, spec.tail) + 0.2 * spec.wedge),
        (spec.rear, spec.tail),
    ]
    return smooth_curve(z, knots)


def body_points(spec: CarSpec, x: Floats, v: Floats, z: Floats) -> Floats:
    """Where parameters of the lower body lie, [N, 3]."""
    low = spec.sill + 0.05 * _end_weight(spec, z) ** 2
    opened = smoothstep(_LINES_X[1], _LINES_X[2], np.abs(x))
    arched = low + opened * np.maximum(0.0, _arch_height(spec, z) - low)
    top = shoulder(spec, z)
    level = arched + v * (top - arched)
    level = np.where(v > spec.bands[4], low + v * (top - low), level)  # the shoulder does not bend over the wheels
    split = low + spec.bands[4] * (top - low)
    level = np.where(v <= spec.bands[4], arched + v / spec.bands[4] * (split - arched), level)
    height = (level - low) / (top - low)
    half = spec.half * smooth_curve(height, _SIDE) * _plan(spec, z)
    nearest = np.minimum(*(np.hypot(z - axle, level - spec.wheel_radius) for axle in spec.axles))
    half = half + spec.flare * (1 - smoothstep(spec.arch, 1.5 * spec.arch, nearest))
    crown = 0.05 * (1 - np.abs(x) ** 2.5) * np.where(v >= 1.0, 1.0, 0.0)
    lamp = smooth_curve(v, [(0.0, 0.0), (spec.bands[2], 1.0), (spec.bands[4], 1.0), (1.0, 0.0)])
    y = level + crown + spec.lamp_slant * lamp * x**2 * _end_weight(spec, z)
    y = _with_bed(spec, x, v, z, y)
    return np.column_stack([x * half, y, z + _end_shift(spec, x, v, z)])


def _arch_height(spec: CarSpec, z: Floats) -> Floats:
    """Height of the wheel arch's edge at z; below the sill away from the wheels."""
    heights = []
    for axle in spec.axles:
        inside = spec.arch**2 - (z - axle) ** 2
        heights.append(np.where(inside > -1e-9, spec.wheel_radius + np.sqrt(np.maximum(inside, 0.0)), -1.0))
    return np.maximum(*heights)


def _end_weight(spec: CarSpec, z: Floats) -> Floats:
    """1 at both ends of the car, falling to 0 at the near edges of the wheel arches."""
    ahead = (spec.axles[0] - 1.05 * spec.arch - z) / (spec.axles[0] - 1.05 * spec.arch - spec.front)
    behind = (z - spec.axles[1] - 1.05 * spec.arch) / (spec.rear - spec.axles[1] - 1.05 * spec.arch)
    return np.clip(np.maximum(ahead, behind), 0.0, 1.0)


def _plan(spec: CarSpec, z: Floats) -> Floats:
    """Half-width along the car as a fraction: rounded corners and a slight taper to both ends."""
    depth = np.clip((spec.corner - np.minimum(z - spec.front, spec.rear - z)) / spec.corner, 0.0, 1.0)
    rounding = 0.8 * spec.corner / spec.half * (1 - np.sqrt(1 - depth**2))
    return 1 - rounding - 0.03 * np.abs(z / spec.rear) ** 3


def _end_shift(spec: CarSpec, x: Floats, v: Floats, z: Floats) -> Floats:
    """How far front and rear faces give way from the plane ends: bow across, profile over the height; metres."""
    lip = spec.bands[1]
    front = smooth_curve(v, [(0, 0.10), (0.1, 0.02), (lip, 0.0), (lip + 0.05, 0.03), (0.8, 0.07), (1, 0.10 + spec.rake)])
    rear = smooth_curve(v, [(0, 0.12), (0.1, 0.03), (lip, 0.0), (lip + 0.05, 0.03), (0.85, 0.05), (1, 0.10)])
    forward = front + spec.bow * x**2
    backward = rear + 0.5 * spec.bow * x**2
    weight = _end_weight(spec, z)
    return np.where(z < 0, forward * weight, -backward * weight)


def _with_bed(spec: CarSpec, x: Floats, v: Floats, z: Floats, y: Floats) -> Floats:
    """Sinks the top of a pickup behind the cab to the floor of its bed."""
    if spec.bed_floor is None:
        return y
    start, stop = spec.glass_rear + 0.10, spec.rear - 0.12
    inside = (v >= 1.0) & (np.abs(x) < 0.9) & (z > start) & (z < stop)
    return np.where(inside, spec.bed_floor, y)


def body_part(spec: CarSpec, clad: bool, lamps: dict[str, float]) -> Part:
    """The lower body.

    Args:
        spec: The car.
        clad: Whether sills, arches and bumpers are of dark plastic.
        lamps: Half-widths across at which grille, intake, headlamps and tail lamps start or end, in [0, 1], and the
            lower band (0, 1, 2) of the tail lamps: keys grille, intake, head, tail, tail_band.
    """
    xs = [side * line for line in (*_LINES_X, 1.0) for side in (-1, 1)]
    if spec.bed_floor is not None:
        xs += [-0.905, 0.905]
    levels = [0.0, *spec.bands, 0.5 * (spec.bands[4] + 1.0), 1.0]
    grid = box_grid(sorted(xs), ascending(levels, 0.04), ascending(_lines_z(spec), 0.02))
    x, v, z = grid.points.T
    return grid.part(body_points(spec, x, v, z), _body_materials(spec, grid.side, grid.centres, clad, lamps))


def _lines_z(spec: CarSpec) -> list[float]:
    corner = [spec.corner * t for t in (0.0, 0.12, 0.4, 1.0)]
    lines = [spec.front + t for t in corner] + [spec.rear - t for t in corner]
    for axle in spec.axles:
        lines += [axle + spec.arch * float(np.cos(a)) for a in np.linspace(0, np.pi, 9)]
        lines += [axle - 1.04 * spec.arch, axle + 1.04 * spec.arch]
    lines += [spec.cowl, 0.5 * (spec.cowl + spec.front), 0.5 * (spec.axles[0] + spec.axles[1])]
    if spec.bed_floor is not None:
        for wall in (spec.glass_rear + 0.10, spec.rear - 0.12):
            lines = [line for line in lines if abs(line - wall) > 0.05 or line in (spec.front, spec.rear)]
            lines += [wall - 0.005, wall + 0.025]
    return lines


def _body_materials(spec: CarSpec, side: Names, centres: Floats, clad: bool, lamps: dict[str, float]) -> Names:
    x, v, z = np.abs(centres[:, 0]), centres[:, 1], centres[:, 2]
    lip, lower, middle, upper, top = spec.bands
    nose, back, flank = side == "-z", side == "+z", (side == "+x") | (side == "-x")
    wrap = 0.4 * spec.corner
    at_front, at_back = nose | (flank & (z < spec.front + wrap)), back | (flank & (z > spec.rear - wrap))
    tail_low = (lower, middle, upper)[int(lamps["tail_band"])]
    rules = [
        (side == "-y", "under"),
        (nose & (x < lamps["intake"]) & (v > lip) & (v < lower), "dark"),
        (at_front & (v < lip), "trim"),
        (nose & (x < lamps["grille"]) & (v > middle) & (v < upper), "grille"),
        (at_front & (x > lamps["head"]) & (v > middle) & (v < top) & (v > lamps["head_low"]), "headlamp"),
        (at_back & (x > lamps["tail"]) & (v > tail_low) & (v < top), "taillamp"),
        (at_back & (v < lip), "trim"),
        (flank & (v < lip), "trim" if clad else "sill"),
        ((nose | back | flank & ((z < spec.front + 1.1 * spec.corner) | (z > spec.rear - 1.1 * spec.corner)))
         & (v < lower) & clad, "trim"),
    ]  # fmt: skip
    default = np.where((side == "+y") & (x < 0.2), "stripe", "paint")
    if spec.bed_floor is not None:
        in_bed = (side == "+y") & (x < 0.9) & (z > spec.glass_rear + 0.10) & (z < spec.rear - 0.12)
        rules.append((in_bed, "bed"))
    return np.asarray(np.select([rule for rule, _ in rules], [name for _, name in rules], default))


def cabin_points(spec: CarSpec, x: Floats, v: Floats, u: Floats) -> Floats:
    """Where parameters of the cabin lie, [N, 3]."""
    round_from, radius = 0.80, 0.10
    t = np.clip((v - round_from) / (1 - round_from), 0.0, 1.0)
    inset = radius * (1 - np.sqrt(1 - t**2))
    base_z = spec.cowl + u * (spec.glass_rear - spec.cowl)
    roof_z = spec.roof_front + u * (spec.roof_rear - spec.roof_front)
    lean = 1.15 * v - 0.15 * v**2
    z = base_z + lean * (roof_z - base_z)
    z = z + (1 - 2 * u) * 1.6 * inset  # both ends roll into the roof
    z = z + spec.screen_bow * x**2 * (1 - u) ** 4 * (1 - 0.5 * v) - 0.06 * x**2 * u**4
    base_y = shoulder(spec, base_z) - _EMBEDDED
    roof_y = spec.height - spec.roof_arc * (2 * u - 0.8) ** 2 - 0.05
    y = base_y + v * (roof_y - base_y) + 0.05 * (1 - x**2) * v**2
    narrow = 1 - 0.06 * (1 - u) ** 6 - 0.07 * u**5
    half = (spec.base_half + (spec.roof_half - spec.base_half) * v**1.25) * narrow - inset
    return np.column_stack([x * half, y, z])


def cabin_part(spec: CarSpec, rear_glass: bool, sunroof: bool) -> Part:
    """The cabin with its windows; materials glass, pillar, paint, roof, sunroof."""
    low, high = _glass_range(spec)
    xs = [s * line for line in (0.2, 0.55, _GLASS_EDGE, 1.0) for s in (-1, 1)]
    vs = [0.0, low, 0.5 * (low + high), high, 0.90, 0.965, 1.0]
    us = [0.0, 1.0, 0.025, 0.975] + [edge for window in spec.windows for edge in window]
    grid = box_grid(sorted(xs), ascending(vs, 0.02), ascending(us, 0.015))
    x, v, u = grid.points.T
    cx, cv, cu = np.abs(grid.centres[:, 0]), grid.centres[:, 1], grid.centres[:, 2]
    flank = (grid.side == "+x") | (grid.side == "-x")
    pane = (cv > low) & (cv < high)
    window = np.any([(cu > start) & (cu < stop) for start, stop in spec.windows], axis=0)
    rules = [
        ((grid.side == "-z") & pane & (cx < _GLASS_EDGE), "glass"),
        ((grid.side == "+z") & pane & (cx < _GLASS_EDGE) & rear_glass, "glass"),
        (flank & pane & window, "glass"),
        (flank & pane & (cu > spec.windows[0][0]) & (cu < spec.windows[-1][1]), "pillar"),
        ((grid.side == "+y") & (cx < 0.55) & (cu > 0.15) & (cu < spec.windows[0][1]) & sunroof, "sunroof"),
        ((grid.side == "+y") & (cx < 0.2), "roof_stripe"),
        (cv > high, "roof"),
    ]
    materials = np.select([rule for rule, _ in rules], [name for _, name in rules], "cabin")
    return grid.part(cabin_points(spec, x, v, u), np.asarray(materials))


def _glass_range(spec: CarSpec) -> tuple[float, float]:
    """v at which windows start and end."""
    rise = spec.height - spec.belt + _EMBEDDED
    return (_EMBEDDED + 0.045) / rise, 0.82
