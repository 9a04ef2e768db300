"""Cars: seven body styles with their own proportions, paint schemes, wheels and extras.

The distribution of shapes is described in `car_spec`; paint is bright with probability 0.62, two-tone roofs, stripes,
dark cladding, roof racks, spoilers, taxi signs and light bars come with the styles they suit.
"""

from __future__ import annotations

import numpy as np

from render_jobs.sources.procedural import paint
from render_jobs.sources.procedural.car_body import FaceSpec, body_part, body_points, cabin_part, cabin_points, shoulder
from render_jobs.sources.procedural.car_spec import CarSpec, draw_car
from render_jobs.sources.procedural.car_wheels import draw_wheel, wheel_parts
from render_jobs.sources.procedural.draw import Draw
from render_jobs.sources.procedural.mesh import Mesh, Part
from render_jobs.sources.procedural.shapes import box, lathe, rod, rounded_box, tapered_box


def build_car(k: int) -> Mesh:
    """Car number k, in metres, standing on y = 0, its front towards -z."""
    draw = Draw("car", k)
    spec = draw_car(draw)
    mesh = Mesh()
    _paint(mesh, spec, Draw("car", k, "paint"))
    _add_shell(mesh, spec, draw)
    _add_wheels(mesh, spec, draw)
    _add_details(mesh, spec, Draw("car", k, "details"))
    return mesh


def _paint(mesh: Mesh, spec: CarSpec, draw: Draw) -> None:
    bright = draw.chance(0.62)
    body = paint.from_palette(draw, paint.CAR_BRIGHT if bright else paint.CAR_QUIET)
    second = paint.from_palette(draw, paint.CAR_QUIET if bright else paint.CAR_BRIGHT)
    two_tone = draw.chance({"hatchback": 0.35, "suv": 0.3, "van": 0.25}.get(spec.style, 0.1))
    roof = second if two_tone else body
    striped = draw.chance({"coupe": 0.3, "hatchback": 0.12}.get(spec.style, 0.02))
    rim = paint.grey(draw.uniform(0.62, 0.85)) if draw.chance(0.75) else paint.grey(draw.uniform(0.28, 0.4))
    glass = paint.varied(draw, (0.10, 0.15, 0.20) if draw.chance(0.6) else (0.26, 0.36, 0.44))
    mesh.colours |= {
        "paint": body,
        "sill": paint.shaded(body, 0.72),
        "seam": paint.shaded(body, 0.45),
        "stripe": second if striped else body,
        "roof": roof,
        "roof_stripe": second if striped else roof,
        "cabin": body,
        "pillar": paint.grey(0.08) if draw.chance(0.6) else body,
        "glass": glass,
        "sunroof": paint.shaded(glass, 0.7),
        "trim": paint.grey(draw.uniform(0.10, 0.20)),
        "dark": paint.grey(0.06),
        "under": paint.grey(0.07),
        "bed": paint.grey(draw.uniform(0.12, 0.3)),
        "grille": paint.grey(0.10) if draw.chance(0.6) else paint.grey(0.55),
        "headlamp": (0.93, 0.95, 0.97) if draw.chance(0.75) else (0.97, 0.90, 0.66),
        "taillamp": paint.varied(draw, (0.78, 0.05, 0.06)),
        "tyre": paint.grey(0.09),
        "rim": rim,
        "rim_dark": paint.grey(0.10),
        "chrome": paint.grey(0.78),
        "plate": (0.94, 0.94, 0.90) if draw.chance(0.7) else (0.95, 0.80, 0.25),
        "orange": (0.95, 0.50, 0.10),
        "sign": (0.97, 0.88, 0.30),
        "blue": (0.12, 0.25, 0.85),
        "red": (0.85, 0.08, 0.08),
    }


def _draw_face(spec: CarSpec, draw: Draw) -> FaceSpec:
    tall = spec.style in {"suv", "pickup", "van", "wagon"}
    return FaceSpec(
        grille=draw.choice((0.45, 0.45, 0.64, 0.2)),
        grille_band=draw.choice(((2, 3), (2, 3), (1, 3), (2, 4))),
        intake=draw.choice((0.64, 0.64, 0.45, 0.88)),
        head_from=draw.choice((0.64, 0.64, 0.45)),
        head_band=draw.choice(((2, 4), (2, 4), (3, 4), (2, 3))),
        tail_from=draw.choice((0.64, 0.64, 0.88 if tall else 0.45)),
        tail_band=draw.choice(((2, 4), (3, 4), (1, 4) if tall else (2, 3))),
        clad=draw.chance({"suv": 0.6, "pickup": 0.4, "van": 0.3, "hatchback": 0.15}.get(spec.style, 0.04)),
        valance=draw.chance(0.4),
        cells=not draw.chance({"pickup": 0.3, "hatchback": 0.3, "suv": 0.25, "van": 0.2}.get(spec.style, 0.12)),
    )


def _add_shell(mesh: Mesh, spec: CarSpec, draw: Draw) -> None:
    face = _draw_face(spec, draw)
    mesh.add("body", body_part(spec, face))
    blind = spec.style == "van" and len(spec.windows) < 3
    mesh.add("cabin", cabin_part(spec, not (blind and draw.chance(0.5)), draw.chance(0.2)))
    if not face.cells:
        mesh.add("headlamps", *_round_lamps(spec, draw))


def _round_lamps(spec: CarSpec, draw: Draw) -> list[Part]:
    """Round headlamps, single or double, that look ahead from the nose."""
    radius = draw.uniform(0.085, 0.12)
    double = draw.chance(0.3)
    profile = [(1.15, -0.1), (1.15, 0.03), (0.98, 0.05), (0.9, 0.035), (0.0, 0.07)]
    lamp = lathe([(r * radius, y) for r, y in profile], 14, ["chrome", "chrome", "headlamp", "headlamp"])
    lamp = lamp.turned("x", -90.0)
    parts: list[Part] = []
    for x in (0.74, 0.48) if double else (0.72,):
        at, y, z = _on_body(spec, x, 0.5 * (spec.bands[2] + spec.bands[4]), spec.front)
        parts += lamp.moved(at, y, z - 0.015).both_sides()
    return parts


def _add_wheels(mesh: Mesh, spec: CarSpec, draw: Draw) -> None:
    parts = wheel_parts(draw_wheel(draw, spec.wheel_radius, spec.tyre_width, spec.style))
    x = spec.half - 0.5 * spec.tyre_width - 0.015 + 0.6 * spec.flare
    for axle in spec.axles:
        for part in parts:
            mesh.add("wheels", *part.moved(x=x, y=spec.wheel_radius, z=axle).both_sides())


def _on_body(spec: CarSpec, x: float, v: float, z: float) -> tuple[float, float, float]:
    point = body_points(spec, np.array([x]), np.array([v]), np.array([z]))[0]
    return float(point[0]), float(point[1]), float(point[2])


def _on_cabin(spec: CarSpec, x: float, v: float, u: float) -> tuple[float, float, float]:
    point = cabin_points(spec, np.array([x]), np.array([v]), np.array([u]))[0]
    return float(point[0]), float(point[1]), float(point[2])


def _add_details(mesh: Mesh, spec: CarSpec, draw: Draw) -> None:
    mesh.add("mirrors", *_mirror(spec))
    for z, v in ((spec.front, draw.uniform(0.34, 0.4)), (spec.rear, draw.uniform(0.4, 0.55))):
        _, y, at = _on_body(spec, 0.0, v, z)
        mesh.add("plates", box((0.46, 0.11, 0.06), "plate").moved(y=y, z=at))
    for handle in _handles(spec):
        mesh.add("handles", *handle.both_sides())
    if spec.style in {"suv", "wagon"} and draw.chance(0.6):
        mesh.add("rack", *_rack(spec))
    if draw.chance({"coupe": 0.4, "hatchback": 0.3, "sedan": 0.1}.get(spec.style, 0.0)):
        mesh.add("spoiler", *_spoiler(spec))
    if draw.chance(0.5):
        pipe = rod((0.42, spec.sill + 0.06, spec.rear - 0.3), (0.42, spec.sill + 0.06, spec.rear - 0.01), 0.045, "chrome")
        mesh.add("exhaust", *(pipe.both_sides() if draw.chance(0.5) else (pipe,)))
    if spec.style in {"sedan", "hatchback", "van", "wagon"} and draw.chance(0.08):
        _, y, z = _on_cabin(spec, 0.0, 1.0, 0.35)
        mesh.add("sign", tapered_box((0.6, 0.2, 0.26), (0.8, 0.5), "sign").moved(y=y + 0.08, z=z))
    elif spec.style in {"sedan", "suv", "van"} and draw.chance(0.08):
        mesh.add("lightbar", *_light_bar(spec))


def _mirror(spec: CarSpec) -> tuple[Part, Part]:
    x, y, z = _on_cabin(spec, 1.0, 0.26, spec.windows[0][0] + 0.03)
    shell = rounded_box((0.20, 0.13, 0.11), 0.045, "paint").moved(x + 0.14, y + 0.02, z)
    return shell.both_sides()


def _handles(spec: CarSpec) -> list[Part]:
    handles = []
    for _, stop in spec.windows[: 2 if spec.four_doors else 1]:
        z = spec.cowl + (stop - 0.05) * (spec.glass_rear - spec.cowl)
        x, y, at = _on_body(spec, 1.0, 0.86, z)
        handles.append(rounded_box((0.05, 0.035, 0.17), 0.015, "chrome", 1).moved(x, y, at))
    return handles


def _rack(spec: CarSpec) -> list[Part]:
    points = [_on_cabin(spec, 0.9, 1.0, u) for u in (0.12, 0.4, 0.65, 0.9)]
    x = points[0][0]
    y = max(point[1] for point in points) + 0.05
    parts = list(rod((x, y, points[0][2]), (x, y, points[-1][2]), 0.022, "trim", 6).both_sides())
    for point in points:
        height = y - point[1] + 0.03
        parts += box((0.04, height, 0.06), "trim").moved(x, y - height / 2, point[2]).both_sides()
    return parts


def _spoiler(spec: CarSpec) -> list[Part]:
    if spec.style == "hatchback":
        x, y, z = _on_cabin(spec, 1.0, 0.93, 1.0)
        lip = rounded_box((1.9 * x, 0.06, 0.34), 0.03, "roof", 1).turned("x", -6.0)
        return [lip.moved(y=y - 0.01, z=z - 0.02)]
    z = spec.rear - 0.20
    y = float(shoulder(spec, np.array([z]))[0])
    wing = rounded_box((1.62 * spec.half, 0.05, 0.26), 0.025, "paint", 1).turned("x", 4.0)
    post = box((0.05, 0.30, 0.12), "trim").moved(0.5 * spec.half, y + 0.06, z)
    return [wing.moved(y=y + 0.20, z=z + 0.02), *post.both_sides()]


def _light_bar(spec: CarSpec) -> list[Part]:
    _, y, z = _on_cabin(spec, 0.0, 1.0, 0.35)
    left = rounded_box((0.5, 0.12, 0.22), 0.04, "blue").moved(-0.27, y + 0.04, z)
    right = rounded_box((0.5, 0.12, 0.22), 0.04, "red").moved(0.27, y + 0.04, z)
    return [left, right, lathe([(0.09, 0.0), (0.09, 0.12)], 8, "chrome").moved(y=y, z=z)]
