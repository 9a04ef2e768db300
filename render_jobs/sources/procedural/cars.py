"""Cars: twelve body styles with their own proportions, paint schemes, wheels and extras.

The distribution of shapes stands in `car_ranges`. Paint is bright with probability 0.65; 5% each of the
fitting styles are taxis and police cars; two-tone roofs, stripes, dark cladding, roof racks, spoilers, chrome
bumpers and round lamps come with the styles that they suit. Metres, y from the ground, the front towards -z.
"""

from __future__ import annotations

from render_jobs.sources.procedural import car_extras as extras
from render_jobs.sources.procedural import paint
from render_jobs.sources.procedural.car_body import FaceSpec, body_part, cabin_part, windscreen_part
from render_jobs.sources.procedural.car_spec import TALL_BACK, CarSpec, draw_car
from render_jobs.sources.procedural.car_wheels import draw_wheel, wheel_parts
from render_jobs.sources.procedural.draw import Draw
from render_jobs.sources.procedural.mesh import Mesh, Rgb

_PLAIN = frozenset({"truck", "bus", "roadster"})


def build_car(k: int) -> Mesh:
    """Car number k."""
    draw = Draw("car", k)
    spec = draw_car(draw)
    mesh = Mesh()
    livery = _draw_livery(spec, Draw("car", k, "livery"))
    _paint(mesh, spec, livery, Draw("car", k, "paint"))
    _add_shell(mesh, spec, draw)
    _add_wheels(mesh, spec, Draw("car", k, "wheels"))
    _add_extras(mesh, spec, livery, Draw("car", k, "extras"))
    return mesh


def _draw_livery(spec: CarSpec, draw: Draw) -> str:
    if spec.style in {"sedan", "hatchback", "wagon", "van"} and draw.chance(0.05):
        return "taxi"
    if spec.style in {"sedan", "suv", "coupe", "wagon"} and draw.chance(0.05):
        return "police"
    return "private"


def _paint(mesh: Mesh, spec: CarSpec, livery: str, draw: Draw) -> None:
    bright = draw.chance(0.65)
    body = paint.from_palette(draw, paint.CAR_BRIGHT if bright else paint.CAR_QUIET)
    second = paint.from_palette(draw, paint.CAR_QUIET[:4] if bright else paint.CAR_BRIGHT)
    two_tone = draw.chance(
        {"hatchback": 0.35, "micro": 0.5, "suv": 0.3, "van": 0.25, "bus": 0.6}.get(spec.style, 0.1)
    )
    striped = draw.chance({"coupe": 0.3, "hatchback": 0.12}.get(spec.style, 0.02))
    if livery == "taxi":
        body, two_tone, striped = (
            draw.choice(((0.97, 0.77, 0.10), (0.94, 0.90, 0.78), (0.12, 0.12, 0.13))),
            False,
            False,
        )
    elif livery == "police":
        body, second, two_tone, striped = (0.10, 0.11, 0.14), (0.95, 0.95, 0.94), True, False
    roof = second if two_tone else body
    mesh.colours |= _shell_colours(body, roof, second if striped else body, second if striped else roof, draw)
    mesh.colours["door"] = second if livery == "police" else body
    mesh.colours |= _fixed_colours(draw) | {
        "bed": paint.grey(draw.uniform(0.14, 0.3)) if spec.style == "pickup" else paint.grey(0.16),
        "seat": paint.from_palette(draw, paint.LEATHER),
        "cargo": second if draw.chance(0.5) else (0.93, 0.93, 0.91),
        "cargo_band": body,
        "cargo_door": paint.grey(0.75),
    }


def _shell_colours(body: Rgb, roof: Rgb, stripe: Rgb, roof_stripe: Rgb, draw: Draw) -> dict[str, Rgb]:
    dark = max(body) < 0.45
    glass = (0.42, 0.55, 0.64) if dark or draw.chance(0.35) else (0.13, 0.18, 0.23)
    return {
        "paint": body,
        "cabin": body,
        "roof": roof,
        "stripe": stripe,
        "roof_stripe": roof_stripe,
        "sill": paint.shaded(body, 0.72),
        "seam": paint.shaded(body, 0.45),
        "mirror": body if draw.chance(0.7) else paint.grey(0.12),
        "handle": paint.shaded(body, 0.8) if draw.chance(0.5) else paint.grey(0.75),
        "pillar": paint.grey(0.10) if draw.chance(0.6) else body,
        "line": paint.grey(draw.choice((0.12, 0.80))) if draw.chance(0.5) else body,
        "frame": paint.grey(0.12) if draw.chance(0.5) else body,
        "glass": paint.varied(draw, glass),
        "sunroof": paint.shaded(glass, 0.6),
    }


def _fixed_colours(draw: Draw) -> dict[str, Rgb]:
    rim = draw.uniform(0.66, 0.88) if draw.chance(0.8) else draw.uniform(0.30, 0.42)
    return {
        "trim": paint.grey(draw.uniform(0.12, 0.22)),
        "rail": paint.grey(draw.choice((0.14, 0.70))),
        "dark": paint.grey(0.07),
        "under": paint.grey(0.08),
        "grille": paint.grey(draw.choice((0.09, 0.12, 0.15, 0.55))),
        "headlamp": (0.86, 0.90, 0.94) if draw.chance(0.75) else (0.97, 0.92, 0.70),
        "indicator": (0.96, 0.58, 0.14) if draw.chance(0.4) else (0.82, 0.85, 0.88),
        "taillamp": paint.varied(draw, (0.80, 0.06, 0.07)),
        "tyre": paint.grey(0.11),
        "rim": paint.grey(rim),
        "rim_dark": paint.grey(0.14),
        "chrome": paint.grey(0.80),
        "plate": (0.94, 0.94, 0.90) if draw.chance(0.7) else (0.95, 0.80, 0.25),
        "sign": (0.98, 0.92, 0.55),
        "blue": (0.12, 0.28, 0.90),
        "red": (0.90, 0.10, 0.10),
    }


def _draw_face(spec: CarSpec, draw: Draw) -> FaceSpec:
    tall = spec.style in TALL_BACK or spec.style in {"pickup", "truck"}
    clad = {"suv": 0.6, "offroad": 0.6, "pickup": 0.4, "truck": 0.6, "van": 0.3, "hatchback": 0.15}
    lamps = {
        "offroad": 0.7,
        "micro": 0.5,
        "roadster": 0.4,
        "pickup": 0.3,
        "hatchback": 0.2,
        "suv": 0.15,
        "van": 0.25,
    }
    return FaceSpec(
        grille=draw.choice((0.45, 0.45, 0.64, 0.2)),
        grille_band=draw.choice(((2, 3), (2, 3), (1, 3), (2, 4))),
        intake=draw.choice((0.64, 0.64, 0.45, 0.88)),
        head_from=draw.choice((0.64, 0.64, 0.45)),
        head_band=draw.choice(((2, 4), (2, 4), (3, 4), (2, 3))),
        tail_from=draw.choice((0.64, 0.64, 0.88 if tall else 0.45)),
        tail_band=draw.choice(((2, 4), (3, 4), (1, 4) if tall else (2, 3))),
        clad=draw.chance(clad.get(spec.style, 0.04)),
        valance=draw.chance(0.4),
        cells=not draw.chance(lamps.get(spec.style, 0.08)),
    )


def _add_shell(mesh: Mesh, spec: CarSpec, draw: Draw) -> None:
    face = _draw_face(spec, draw)
    mesh.add("body", body_part(spec, face))
    if spec.style == "roadster":
        mesh.add("windscreen", windscreen_part(spec))
    else:
        blind = spec.style == "truck" or (spec.style == "van" and len(spec.windows) < 3 and draw.chance(0.5))
        mesh.add("cabin", cabin_part(spec, not blind, spec.style not in _PLAIN and draw.chance(0.2)))
    if not face.cells:
        mesh.add("headlamps", *extras.round_lamps(spec, draw))


def _add_wheels(mesh: Mesh, spec: CarSpec, draw: Draw) -> None:
    parts = wheel_parts(draw_wheel(draw, spec.wheel_radius, spec.tyre_width, spec.style))
    x = spec.half - 0.5 * spec.tyre_width - 0.015 + 0.6 * spec.flare
    for axle in spec.axles:
        for part in parts:
            mesh.add("wheels", *part.moved(x=x, y=spec.wheel_radius, z=axle).both_sides())
    if spec.style == "offroad" and draw.chance(0.7):
        for part in parts:
            spare = part.scaled(0.9, 0.9, 0.9).turned("y", -90.0)
            mesh.add("spare", spare.moved(y=spec.sill + 0.75 * spec.wheel_radius + 0.32, z=spec.rear + 0.07))


def _add_extras(mesh: Mesh, spec: CarSpec, livery: str, draw: Draw) -> None:
    style = spec.style
    mesh.add("mirrors", *extras.mirrors(spec))
    mesh.add("plates", *extras.plates(spec, draw))
    if style != "bus":
        mesh.add("handles", *extras.handles(spec))
    if draw.chance(0.5):
        mesh.add("exhaust", *extras.exhausts(spec, draw.chance(0.5)))
    if style in {"suv", "wagon", "offroad"} and draw.chance(0.55):
        mesh.add("rack", *extras.roof_rack(spec))
    if draw.chance({"coupe": 0.45, "hatchback": 0.3, "sedan": 0.12, "suv": 0.2}.get(style, 0.0)):
        mesh.add("spoiler", *extras.spoiler(spec, draw))
    if draw.chance(
        {"pickup": 0.35, "offroad": 0.2, "roadster": 0.3, "micro": 0.3, "sedan": 0.1}.get(style, 0.0)
    ):
        mesh.add("bumpers", *extras.chrome_bumpers(spec))
    if style == "roadster":
        mesh.add("cockpit", *extras.cockpit(spec))
    if style == "truck":
        mesh.add("cargo", *extras.cargo_box(spec, draw))
    if livery == "taxi":
        mesh.add("sign", *extras.taxi_sign(spec))
    elif livery == "police":
        mesh.add("lightbar", *extras.light_bar(spec))
