"""What is mounted on a car's shell: lamps, mirrors, plates, racks, spoilers, seats, cargo boxes."""

from __future__ import annotations

import numpy as np

from render_jobs.sources.procedural.car_body import body_points, cabin_points, shoulder
from render_jobs.sources.procedural.car_spec import CarSpec
from render_jobs.sources.procedural.draw import Draw
from render_jobs.sources.procedural.mesh import Part
from render_jobs.sources.procedural.shapes import box, lathe, ring, rod, rounded_box, tapered_box

Point = tuple[float, float, float]


def on_body(spec: CarSpec, x: float, v: float, z: float) -> Point:
    """The point of the lower body with these parameters."""
    point = body_points(spec, np.array([x]), np.array([v]), np.array([z]))[0]
    return float(point[0]), float(point[1]), float(point[2])


def on_cabin(spec: CarSpec, x: float, v: float, u: float) -> Point:
    """The point of the cabin with these parameters."""
    point = cabin_points(spec, np.array([x]), np.array([v]), np.array([u]))[0]
    return float(point[0]), float(point[1]), float(point[2])


def round_lamps(spec: CarSpec, draw: Draw) -> list[Part]:
    """Round headlamps, single or double, that look ahead from the nose."""
    radius = draw.uniform(0.085, 0.115) * min(1.3, spec.half / 0.88)
    double = draw.chance(0.3) and spec.style not in {"micro", "offroad"}
    profile = [(1.16, -0.12), (1.16, 0.03), (1.0, 0.05), (0.92, 0.03), (0.5, 0.055), (0.0, 0.065)]
    names = ["chrome", "chrome", "headlamp", "headlamp", "headlamp"]
    lamp = lathe([(r * radius, y) for r, y in profile], 12, names).turned("x", -90.0)
    parts: list[Part] = []
    for x in (0.76, 0.50) if double else (0.72,):
        at, y, z = on_body(spec, x, 0.5 * (spec.bands[2] + spec.bands[4]), spec.front)
        parts += lamp.moved(at, y, z + 0.015).both_sides()
    return parts


def mirrors(spec: CarSpec) -> list[Part]:
    """Both door mirrors, with their arms."""
    x, y, z = on_cabin(spec, 1.0, 0.26, spec.windows[0][0] + 0.03)
    shell = rounded_box((0.19, 0.13, 0.10), 0.04, "mirror", segments=1).moved(x + 0.15, y + 0.03, z)
    arm = box((0.12, 0.035, 0.05), "trim").moved(x + 0.05, y - 0.01, z)
    return [*shell.both_sides(), *arm.both_sides()]


def plates(spec: CarSpec, draw: Draw) -> list[Part]:
    """Number plates."""
    parts = []
    for z, v in ((spec.front, draw.uniform(0.33, 0.40)), (spec.rear, draw.uniform(0.40, 0.55))):
        _, y, at = on_body(spec, 0.0, v, z)
        parts.append(box((0.44, 0.11, 0.06), "plate").moved(y=y, z=at))
    return parts


def handles(spec: CarSpec) -> list[Part]:
    """Door handles."""
    parts: list[Part] = []
    for _, stop in spec.windows[: 2 if spec.four_doors else 1]:
        z = spec.cowl + (stop - 0.05) * (spec.glass_rear - spec.cowl)
        x, y, at = on_body(spec, 1.0, 0.88, z)
        parts += box((0.04, 0.03, 0.16), "handle").moved(x, y, at).both_sides()
    return parts


def exhausts(spec: CarSpec, both: bool) -> list[Part]:
    """One or two tail pipes."""
    y, z = spec.sill + 0.07, spec.rear - 0.015
    pipe = rod((0.42, y, z - 0.3), (0.42, y, z), 0.042, "chrome")
    return [*pipe.both_sides()] if both else [pipe]


def roof_rack(spec: CarSpec) -> list[Part]:
    """Two rails along the roof on short feet."""
    points = [on_cabin(spec, 0.9, 1.0, u) for u in (0.12, 0.4, 0.65, 0.9)]
    x = points[0][0]
    y = max(point[1] for point in points) + 0.05
    parts = [*rod((x, y, points[0][2]), (x, y, points[-1][2]), 0.022, "rail", 6).both_sides()]
    for point in points:
        height = y - point[1] + 0.03
        parts += box((0.04, height, 0.06), "rail").moved(x, y - height / 2, point[2]).both_sides()
    return parts


def spoiler(spec: CarSpec, draw: Draw) -> list[Part]:
    """A lip at the end of a hatchback's roof, else a wing or a lip on the boot."""
    if spec.style in {"hatchback", "suv", "micro"}:
        x, y, z = on_cabin(spec, 1.0, 0.93, 1.0)
        lip = rounded_box((1.9 * x, 0.06, 0.34), 0.03, "roof", 1).turned("x", -6.0)
        return [lip.moved(y=y - 0.01, z=z - 0.02)]
    z = spec.rear - 0.20
    y = float(shoulder(spec, np.array([z]))[0])
    if draw.chance(0.5):
        return [
            tapered_box((1.45 * spec.half, 0.09, 0.16), (0.95, 0.35), "paint").moved(y=y + 0.07, z=z + 0.08)
        ]
    rise = draw.uniform(0.15, 0.24)
    wing = rounded_box((1.62 * spec.half, 0.045, 0.26), 0.022, "paint", 1).turned("x", 4.0)
    post = box((0.05, rise + 0.08, 0.12), "trim").moved(0.5 * spec.half, y + 0.5 * rise - 0.04, z)
    return [wing.moved(y=y + rise, z=z + 0.02), *post.both_sides()]


def taxi_sign(spec: CarSpec) -> list[Part]:
    """A lit sign on the roof."""
    _, y, z = on_cabin(spec, 0.0, 1.0, 0.35)
    return [tapered_box((0.6, 0.2, 0.26), (0.8, 0.5), "sign").moved(y=y + 0.08, z=z)]


def light_bar(spec: CarSpec) -> list[Part]:
    """A red and blue light bar on the roof."""
    _, y, z = on_cabin(spec, 0.0, 1.0, 0.35)
    lamp = rounded_box((0.5, 0.13, 0.22), 0.04, "blue", segments=1).moved(0.29, y + 0.05, z)
    return [lamp, lamp.mirrored().painted("red"), box((0.12, 0.10, 0.18), "chrome").moved(y=y + 0.045, z=z)]


def chrome_bumpers(spec: CarSpec) -> list[Part]:
    """Separate bumper bars, bent like the ends of the body."""
    parts = []
    for z, sign in ((spec.front, -1.0), (spec.rear, 1.0)):
        bar = rounded_box((2.06 * spec.half, 0.12, 0.12), 0.05, "chrome", segments=1, cuts=(4, 1, 1))
        across = bar.vertices[:, 0] / spec.half
        bow = spec.bow if sign < 0 else 0.5 * spec.bow
        bend = -sign * (bow * across**2 + 0.06 * np.abs(across) ** 8)
        _, y, at = on_body(spec, 0.0, 0.24, z)
        bent = Part(bar.vertices + np.outer(bend, [0.0, 0.0, 1.0]), bar.faces, bar.materials)
        parts.append(bent.moved(y=y, z=at + sign * 0.015))
    return parts


def cockpit(spec: CarSpec) -> list[Part]:
    """Seats and steering wheel of an open car."""
    assert spec.pit is not None
    floor, x = spec.pit.floor, 0.42 * spec.half
    z = 0.45 * spec.pit.start + 0.55 * spec.pit.stop
    top = spec.belt + 0.16
    seat = rounded_box((0.46, 0.22, 0.5), 0.06, "seat", segments=1).moved(x, floor + 0.1, z - 0.1)
    back = rounded_box((0.44, top - floor, 0.14), 0.06, "seat", segments=1).turned("x", 12.0)
    head = rounded_box((0.26, 0.15, 0.10), 0.045, "seat", segments=1).turned("x", 12.0)
    wheel = ring(0.18, 0.14, 0.03, 14, "dark").turned("x", 65.0)
    parts = [*seat.both_sides(), wheel.moved(-x, spec.belt + 0.01, spec.pit.start + 0.16)]
    parts += back.moved(x, 0.5 * (floor + top), z + 0.22).both_sides()
    parts += head.moved(x, top + 0.05, z + 0.30).both_sides()
    return parts


def cargo_box(spec: CarSpec, draw: Draw) -> list[Part]:
    """The box of a delivery truck, with a band of colour."""
    start, stop = spec.glass_rear + 0.05, spec.rear - 0.04
    low = min(spec.belt, spec.tail) - 0.07
    top = spec.height * draw.uniform(1.02, 1.22)
    size = (2.04 * spec.half, top - low, stop - start)
    body = rounded_box(size, 0.05, "cargo", segments=1)
    band = box((size[0] + 0.012, 0.3 * size[1], 0.86 * size[2]), "cargo_band")
    door = box((0.88 * size[0], 0.84 * size[1], 0.02), "cargo_door")
    at = {"y": 0.5 * (low + top), "z": 0.5 * (start + stop)}
    return [body.moved(**at), band.moved(**at), door.moved(y=at["y"], z=stop + 0.002)]
