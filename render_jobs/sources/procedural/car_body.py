"""The shell of a car: lower body with wheel arches, and the cabin above the belt line.

Both are box grids warped by a `CarSpec`. Parameters of the lower body: x in [-1, 1] across, v in [0, 1] from
sill to shoulder, z in metres. Parameters of the cabin: x in [-1, 1], v in [0, 1] from inside the body to the
roof, u in [0, 1] from windscreen to rear window. Materials are chosen by parameter, so windows and lamps are
cells of the surface itself, and nothing lies on top of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from render_jobs.sources.procedural.car_spec import CarSpec, Pit
from render_jobs.sources.procedural.mesh import (
    Floats,
    Grid,
    Names,
    Part,
    box_grid,
    merged_lines,
    smooth_curve,
    smoothstep,
)

_LINES_X = (0.2, 0.45, 0.64, 0.88)
_GLASS_EDGE = 0.88
_EMBEDDED = 0.07
"""How far the cabin reaches into the body, metres."""


def shoulder(spec: CarSpec, z: Floats) -> Floats:
    """Height of the upper edge of the body's side; it swells where a wheel needs room."""
    hood = spec.cowl - spec.front
    knots = [
        (spec.front, spec.nose),
        (spec.front + 0.25 * hood, spec.nose + 0.45 * (spec.belt - spec.nose)),
        (spec.cowl, spec.belt),
        (0.5 * (spec.cowl + spec.glass_rear), spec.belt + 0.5 * spec.wedge),
        (min(spec.glass_rear, spec.rear - 0.06), max(spec.belt, spec.tail) + 0.2 * spec.wedge),
        (spec.rear, spec.tail),
    ]
    line = smooth_curve(z, knots)
    needed = spec.wheel_radius + spec.arch + 0.07
    for axle in spec.axles:
        lowest = float(
            smooth_curve(np.array([axle - 0.5 * spec.arch, axle, axle + 0.5 * spec.arch]), knots).min()
        )
        swell = 1 - smoothstep(0.5 * spec.arch, 1.8 * spec.arch, np.abs(z - axle))
        line = line + max(0.0, needed - lowest) * swell
    return line


def _side_profile(spec: CarSpec, height: Floats) -> Floats:
    """Half-width of the body by relative height, as a fraction of the largest: tucked in below and above."""
    c = spec.crease
    knots = [(0.0, 0.925), (0.10, 0.965), (0.34, 1.0 - 0.6 * c), (0.58, 1.0 - c), (0.70, 1.0)]
    return smooth_curve(height, [*knots, (0.80, 0.985), (0.93, 0.958), (1.0, 0.905)])


def body_points(spec: CarSpec, x: Floats, v: Floats, z: Floats) -> Floats:
    """Where parameters of the lower body lie, [N, 3]."""
    low = spec.sill + 0.05 * _end_weight(spec, z) ** 2
    opened = smoothstep(_LINES_X[1], _LINES_X[2], np.abs(x))
    arched = low + opened * np.maximum(0.0, _arch_height(spec, z) - low)
    top = shoulder(spec, z)
    crest = spec.bands[4]  # above it levels bend over the wheels only where these come near
    split = np.maximum(low + crest * (top - low), arched + 0.03)
    level = np.where(
        v <= crest, arched + v / crest * (split - arched), split + (v - crest) / (1 - crest) * (top - split)
    )
    height = (level - low) / (top - low)
    half = spec.half * _side_profile(spec, height) * _plan(spec, z)
    nearest = np.minimum(*(np.hypot(z - axle, level - spec.wheel_radius) for axle in spec.axles))
    half = half + spec.flare * (1 - smoothstep(spec.arch, 1.5 * spec.arch, nearest))
    crown = 0.055 * (1 - np.abs(x) ** 2.5) * v**2
    lamp = smooth_curve(v, [(0.0, 0.0), (spec.bands[2], 1.0), (spec.bands[4], 1.0), (1.0, 0.0)])
    y = level + crown + spec.lamp_slant * lamp * x**2 * _end_weight(spec, z)
    y = _sunk(spec, x, v, z, y)
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
    return np.asarray(1 - rounding - 0.03 * np.abs(z / spec.rear) ** 3)


def _end_shift(spec: CarSpec, x: Floats, v: Floats, z: Floats) -> Floats:
    """How far front and rear give way from the plane ends, in metres: bow across, profile over the height."""
    lip = spec.bands[1]
    front = smooth_curve(
        v, [(0, 0.10), (0.1, 0.02), (lip, 0.0), (lip + 0.05, 0.02), (0.8, 0.04), (1, 0.06 + spec.rake)]
    )
    rear = smooth_curve(v, [(0, 0.12), (0.1, 0.03), (lip, 0.0), (lip + 0.05, 0.03), (0.85, 0.05), (1, 0.10)])
    forward = front + spec.bow * x**2
    backward = rear + 0.5 * spec.bow * x**2
    weight = _end_weight(spec, z)
    return np.where(z < 0, forward * weight, -backward * weight)


def _sunk(spec: CarSpec, x: Floats, v: Floats, z: Floats, y: Floats) -> Floats:
    """Heights with the opening in the top sunk to its floor."""
    if spec.pit is None:
        return y
    return np.where((v >= 1.0) & _in_pit(spec.pit, x, z), spec.pit.floor, y)


def _in_pit(pit: Pit, x: Floats, z: Floats) -> NDArray[np.bool_]:
    return (np.abs(x) < pit.edge - 0.005) & (z > pit.start) & (z < pit.stop)


@dataclass(frozen=True)
class FaceSpec:
    """Where lamps and openings lie on the ends of a car.

    `head_from`, `tail_from`, `grille`, `intake`: x at which lamps start, grille and intake end. `head_band`,
    `tail_band`, `grille_band`: indices into `CarSpec.bands` of the lower and upper edge. `clad`: sills,
    arches and bumpers of dark plastic; `valance`: a dark lower part of the rear; `cells`: whether headlamps
    are cells of the surface (else they are added as round parts).
    """

    grille: float
    grille_band: tuple[int, int]
    intake: float
    head_from: float
    head_band: tuple[int, int]
    tail_from: float
    tail_band: tuple[int, int]
    clad: bool
    valance: bool
    cells: bool


def body_part(spec: CarSpec, face: FaceSpec) -> Part:
    """The lower body, without lamps that are parts of their own."""
    xs = [side * line for line in (*_LINES_X, 1.0) for side in (-1, 1)]
    if spec.pit is not None:
        xs += [-spec.pit.edge, spec.pit.edge]
    levels = [0.0, *spec.bands, 0.5 * (spec.bands[4] + 1.0), 1.0]
    seams = door_seams(spec)
    grid = box_grid(sorted(xs), levels, _lines_z(spec, seams))
    x, v, z = grid.points.T
    return grid.part(body_points(spec, x, v, z), _body_materials(spec, grid, face, seams))


def door_seams(spec: CarSpec) -> list[float]:
    """Z of the gaps between doors, where no wheel arch is in the way."""
    span = spec.glass_rear - spec.cowl
    doors = spec.windows[: 2 if spec.four_doors else 1]
    seams = [spec.cowl + 0.05 * span + 0.06]
    seams += [spec.cowl + (stop + 0.02) * span for _, stop in doors]
    clear = 1.1 * spec.arch
    return [z for z in seams if all(abs(z - axle) > clear for axle in spec.axles)]


_SEAM = 0.009
"""Half the width of a door gap, metres."""


def _lines_z(spec: CarSpec, seams: list[float]) -> list[float]:
    corner = [spec.corner * t for t in (0.0, 0.12, 0.4, 1.0)]
    fixed = [spec.front + t for t in corner] + [spec.rear - t for t in corner]
    for axle in spec.axles:
        fixed += [axle + spec.arch * float(np.cos(a)) for a in np.linspace(0, np.pi, 9)]
        fixed += [axle - 1.03 * spec.arch, axle + 1.03 * spec.arch]
    fixed += [z + side for z in seams for side in (-_SEAM, _SEAM)]
    if spec.pit is not None:
        for wall in (spec.pit.start, spec.pit.stop):
            fixed = [line for line in fixed if abs(line - wall) > 0.05 or line in (spec.front, spec.rear)]
            fixed += [wall - 0.012, wall + 0.012]
    wanted = [
        spec.cowl,
        0.5 * (spec.cowl + spec.front),
        0.5 * (spec.axles[0] + spec.axles[1]),
        spec.glass_rear,
    ]
    return merged_lines(fixed, wanted, 0.03)


def _near(z: Floats, places: list[float]) -> NDArray[np.bool_]:
    return np.asarray(np.abs(z[:, None] - np.array(places)).min(axis=1, initial=1.0) < _SEAM)


def _body_materials(spec: CarSpec, grid: Grid, face: FaceSpec, seams: list[float]) -> Names:
    side, x, v, z = grid.side, np.abs(grid.centres[:, 0]), grid.centres[:, 1], grid.centres[:, 2]
    lip, lower = spec.bands[:2]
    nose, back, flank = side == "-z", side == "+z", (side == "+x") | (side == "-x")
    wrap = 0.4 * spec.corner
    at_front, at_back = nose | (flank & (z < spec.front + wrap)), back | (flank & (z > spec.rear - wrap))
    near_end = nose | back | (flank & (np.minimum(z - spec.front, spec.rear - z) < 1.1 * spec.corner))

    def band(edges: tuple[int, int]) -> NDArray[np.bool_]:
        return (v > spec.bands[edges[0]]) & (v < spec.bands[edges[1]])

    rules = [
        (side == "-y", "under"),
        (nose & (x < face.intake) & (v > lip) & (v < lower), "dark"),
        (back & (x < 0.64) & (v < lower) & face.valance, "dark"),
        (near_end & (v < lip), "trim"),
        (nose & (x < face.grille) & band(face.grille_band), "grille"),
        (flank & at_front & band(face.head_band) & face.cells, "indicator"),
        (nose & (x > face.head_from) & band(face.head_band) & face.cells, "headlamp"),
        (at_back & (x > face.tail_from) & band(face.tail_band), "taillamp"),
        (flank & (v < lip), "trim" if face.clad else "sill"),
        (near_end & (v < lower) & face.clad, "trim"),
        (flank & (v > lip) & _near(z, seams), "seam"),
    ]
    if spec.pit is not None:
        rules.append(((side == "+y") & _in_pit(spec.pit, x, z), "bed"))
    if seams:
        rules.append((flank & (z > seams[0]) & (z < seams[-1]), "door"))
    striped = (x < 0.2) & ((side == "+y") | ((nose | back) & (v > spec.bands[4])))
    rules.append((striped, "stripe"))
    return np.asarray(np.select([rule for rule, _ in rules], [name for _, name in rules], "paint"))


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
    vs = [0.0, low - 0.045, low, 0.5 * (low + high), high, 0.90, 0.965, 1.0]
    edges = [edge for window in spec.windows for edge in window]
    grid = box_grid(sorted(xs), vs, merged_lines([0.0, 1.0, 0.025, 0.975, *edges], [0.2, 0.4, 0.6, 0.8], 0.1))
    x, v, u = grid.points.T
    cx, cv, cu = np.abs(grid.centres[:, 0]), grid.centres[:, 1], grid.centres[:, 2]
    flank = (grid.side == "+x") | (grid.side == "-x")
    pane = (cv > low) & (cv < high)
    window = np.any([(cu > start) & (cu < stop) for start, stop in spec.windows], axis=0)
    rules = [
        ((grid.side == "-z") & pane & (cx < _GLASS_EDGE), "glass"),
        ((grid.side == "+z") & pane & (cx < _GLASS_EDGE) & rear_glass, "glass"),
        (flank & pane & window, "glass"),
        (
            flank & (cv < low) & (cv > low - 0.045) & (cu > spec.windows[0][0]) & (cu < spec.windows[-1][1]),
            "line",
        ),
        (flank & pane & (cu > spec.windows[0][0]) & (cu < spec.windows[-1][1]), "pillar"),
        ((grid.side == "+y") & (cx < 0.55) & (cu > 0.15) & (cu < spec.windows[0][1]) & sunroof, "sunroof"),
        ((cv > high) & (cx < 0.2) & ~flank, "roof_stripe"),
        (cv > high, "roof"),
    ]
    materials = np.select([rule for rule, _ in rules], [name for _, name in rules], "cabin")
    return grid.part(cabin_points(spec, x, v, u), np.asarray(materials))


def _glass_range(spec: CarSpec) -> tuple[float, float]:
    """V at which windows start and end."""
    rise = spec.height - spec.belt + _EMBEDDED
    return (_EMBEDDED + 0.055) / rise, 0.82


def windscreen_part(spec: CarSpec) -> Part:
    """The windscreen of an open car: a framed pane where the front of the cabin would be."""
    low, high = _glass_range(spec)
    xs = [side * line for line in (0.45, _GLASS_EDGE, 1.0) for side in (-1, 1)]
    grid = box_grid(sorted(xs), [0.0, low, 0.5 * (low + high), high - 0.08, high], [0.0, 1.0])
    x, v, behind = grid.points.T
    vertices = cabin_points(spec, x, v, np.zeros_like(x)) + 0.035 * behind[:, None] * np.array(
        [0.0, 0.0, 1.0]
    )
    pane = (
        (np.abs(grid.centres[:, 0]) < _GLASS_EDGE)
        & (grid.centres[:, 1] > low)
        & (grid.centres[:, 1] < high - 0.08)
    )
    return grid.part(vertices, np.where(pane & ((grid.side == "-z") | (grid.side == "+z")), "glass", "frame"))
