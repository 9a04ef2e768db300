"""Loudspeakers: bookshelf, tower, studio monitor, subwoofer, guitar cabinet, retro, sphere and column.

Distribution of kinds: bookshelf 0.24, tower 0.22, monitor 0.12, subwoofer 0.10, guitar 0.08, retro 0.10,
sphere 0.07, column 0.07 (a smart speaker). Boxes have one to five drivers in a chamfered front, in the body's
colour or another one, some behind a cloth grille, some on a stand. Metres, y from the ground, the front
towards -z.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from render_jobs.sources.procedural import paint
from render_jobs.sources.procedural.draw import Draw
from render_jobs.sources.procedural.mesh import Mesh, Rgb
from render_jobs.sources.procedural.shapes import box, lathe, rod, rounded_box, tapered_box
from render_jobs.sources.procedural.speaker_parts import Driver, baffle, driver_part, shell
from render_jobs.sources.procedural.upholstery import legs

KINDS: dict[str, float] = {
    "bookshelf": 0.24,
    "tower": 0.22,
    "monitor": 0.12,
    "subwoofer": 0.10,
    "guitar": 0.08,
    "retro": 0.10,
    "sphere": 0.07,
    "column": 0.07,
}
_CONES: tuple[Rgb, ...] = (
    (0.16, 0.16, 0.17), (0.85, 0.84, 0.80), (0.90, 0.72, 0.16), (0.74, 0.44, 0.24), (0.66, 0.68, 0.70),
    (0.30, 0.32, 0.36), (0.62, 0.16, 0.14), (0.20, 0.34, 0.50),
)  # fmt: skip
_CLOTH: tuple[Rgb, ...] = (
    (0.14, 0.14, 0.15), (0.30, 0.30, 0.32), (0.62, 0.58, 0.50), (0.76, 0.66, 0.48), (0.42, 0.28, 0.20),
    (0.22, 0.34, 0.42), (0.60, 0.28, 0.22), (0.72, 0.72, 0.70), (0.32, 0.42, 0.34), (0.80, 0.56, 0.22),
)  # fmt: skip
_BODY: tuple[Rgb, ...] = (
    (0.93, 0.93, 0.91), (0.15, 0.15, 0.16), (0.32, 0.33, 0.35), (0.70, 0.14, 0.14), (0.14, 0.28, 0.46),
    (0.16, 0.38, 0.34), (0.88, 0.62, 0.14), (0.82, 0.44, 0.20), (0.58, 0.66, 0.58), (0.86, 0.72, 0.68), (0.60, 0.70, 0.76),
    (0.40, 0.26, 0.44),
)  # fmt: skip
Rows = list[tuple[Driver | None, float]]


def build_speaker(k: int) -> Mesh:
    """Speaker number k."""
    draw = Draw("speaker", k)
    kind = draw.weighted(KINDS)
    mesh = Mesh()
    _paint(mesh, kind, Draw("speaker", k, "paint"))
    builders: dict[str, Callable[[Mesh, Draw], None]] = {
        "bookshelf": _bookshelf,
        "tower": _tower,
        "monitor": _monitor,
        "subwoofer": _subwoofer,
        "guitar": _guitar,
        "retro": _retro,
        "sphere": _sphere,
        "column": _column,
    }
    builders[kind](mesh, draw)
    return mesh


def _paint(mesh: Mesh, kind: str, draw: Draw) -> None:
    wooden = draw.chance(
        {"retro": 0.9, "monitor": 0.1, "guitar": 0.25, "column": 0.1, "sphere": 0.15}.get(kind, 0.5)
    )
    body = paint.from_palette(draw, paint.WOOD if wooden else _BODY, 1.5)
    plain = not wooden and draw.chance(0.55)
    front = body if plain else paint.from_palette(draw, _BODY[:4] + _BODY, 1.0)
    cone = paint.from_palette(draw, _CONES)
    mesh.colours |= {
        "body": body,
        "front": paint.shaded(front, 1.03),
        "cone": cone,
        "cap": paint.shaded(cone, 0.6) if draw.chance(0.5) else paint.grey(0.16),
        "surround": paint.grey(draw.uniform(0.07, 0.16)),
        "ring": paint.grey(draw.choice((0.10, 0.22, 0.60, 0.74))),
        "dome": draw.choice(((0.78, 0.66, 0.34), (0.16, 0.16, 0.17), (0.72, 0.73, 0.75), (0.62, 0.40, 0.28))),
        "port": paint.grey(0.05),
        "cloth": paint.from_palette(draw, _CLOTH, 1.5),
        "trim": paint.from_palette(draw, paint.METAL),
        "leg": paint.from_palette(draw, paint.WOOD if draw.chance(0.6) else paint.METAL),
        "dark": paint.grey(0.10),
    }


def _cabinet(
    mesh: Mesh, size: tuple[float, float, float], rows: Rows, corner: float, lift: float, depth: float
) -> None:
    """A box (width, height, depth) whose front holds drivers; foot at y = lift, front at z = -depth/2."""
    width, height, total = size
    lip = 0.0015
    body = shell((width - 2 * lip, height - 2 * lip, total - depth), corner, "body")
    mesh.add("body", body.moved(y=lift + lip, z=depth - total / 2))
    parts = baffle((width, height), rows, depth, corner, "front")
    mesh.add("front", *(part.moved(y=lift, z=-total / 2) for part in parts))


def _grille(mesh: Mesh, width: float, low: float, high: float, z: float) -> None:
    """A cloth panel in front of z, with a small badge."""
    size = (width, high - low, 0.022)
    mesh.add("grille", rounded_box(size, 0.009, "cloth").moved(y=0.5 * (low + high), z=z - 0.010))
    badge = box((0.16 * width, 0.012, 0.006), "trim")
    mesh.add("badge", badge.moved(y=low + 0.05 * (high - low) + 0.01, z=z - 0.022))


def _stand(mesh: Mesh, width: float, depth: float, height: float, draw: Draw) -> None:
    """A stand with a foot plate, one or two columns, and a top plate."""
    foot = rounded_box((1.15 * width, 0.02, 1.1 * depth), 0.006, "dark", segments=1)
    mesh.add(
        "stand", foot.moved(y=0.01), box((0.85 * width, 0.014, 0.8 * depth), "dark").moved(y=height - 0.006)
    )
    xs = (-0.22 * width, 0.22 * width) if draw.chance(0.4) else (0.0,)
    for x in xs:
        mesh.add(
            "stand",
            rod((x, 0.012, 0.0), (x, height - 0.006, 0.0), 0.022 if len(xs) > 1 else 0.032, "dark", 12),
        )


def _bookshelf(mesh: Mesh, draw: Draw) -> None:
    height = draw.uniform(0.27, 0.42)
    width, depth = height * draw.uniform(0.56, 0.74), height * draw.uniform(0.70, 1.0)
    woofer = min(0.40 * width, 0.23 * height)
    tweeter = woofer * draw.uniform(0.30, 0.46)
    rows: Rows = [
        (Driver("woofer", woofer), 2.5 * woofer),
        (Driver(draw.choice(("dome", "horn")), tweeter), 3.2 * tweeter),
    ]
    if draw.chance(0.35):
        rows.insert(0, (Driver("port", 0.35 * woofer), 1.0 * woofer))
    if draw.chance(0.2):
        rows.reverse()
    lift = draw.uniform(0.55, 0.75) if draw.chance(0.25) else 0.0
    _cabinet(mesh, (width, height, depth), rows, draw.uniform(0.004, 0.03), lift, 0.05)
    if lift:
        _stand(mesh, width, depth, lift + 0.002, draw)
    if draw.chance(0.2):
        _grille(mesh, 0.9 * width, lift + 0.05 * height, lift + draw.choice((0.6, 0.95)) * height, -depth / 2)


def _tower(mesh: Mesh, draw: Draw) -> None:
    height = draw.uniform(0.85, 1.25)
    width, depth = draw.uniform(0.17, 0.27), draw.uniform(0.24, 0.38)
    woofer = 0.40 * width
    tweeter = draw.uniform(0.026, 0.040)
    count = draw.integer(1, 3)
    rows: Rows = [(Driver("woofer", woofer), 2.6 * woofer)] * count
    middle: Rows = [(Driver("woofer", 0.75 * woofer), 2.0 * woofer)]
    rows += middle if draw.chance(0.5) else []
    rows += [(Driver(draw.choice(("dome", "dome", "horn")), tweeter), 3.6 * tweeter)]
    if draw.chance(0.25):  # tweeter between two midranges
        rows += middle
    if draw.chance(0.4):
        rows.insert(0, (Driver("port", 0.45 * woofer), 1.4 * woofer))
    used = sum(share for _, share in rows)
    height = max(height, used * 1.05)
    rows.insert(0, (None, height - used))
    lift = 0.035
    _cabinet(mesh, (width, height, depth), rows, draw.uniform(0.004, 0.035), lift, 0.05)
    if draw.chance(0.6):
        plinth = rounded_box((1.18 * width, 0.036, 1.1 * depth), 0.008, "dark", segments=1)
        mesh.add("plinth", plinth.moved(y=0.018))
    else:
        x, z = 0.42 * width, 0.42 * depth
        mesh.add("feet", *legs("block", lift, [(-x, -z), (x, -z), (-x, z), (x, z)]))
    if draw.chance(0.2):
        _grille(mesh, 0.92 * width, lift + 0.03, lift + draw.choice((0.62, 0.97)) * height, -depth / 2)


def _monitor(mesh: Mesh, draw: Draw) -> None:
    height = draw.uniform(0.26, 0.40)
    width, depth = height * draw.uniform(0.62, 0.74), height * draw.uniform(0.72, 0.9)
    woofer = min(0.40 * width, 0.25 * height)
    horn = woofer * draw.uniform(0.55, 0.72)
    rows: Rows = [
        (None, 0.45 * woofer),
        (Driver("woofer", woofer), 2.3 * woofer),
        (Driver("horn", horn), 2.3 * horn),
    ]
    _cabinet(mesh, (width, height, depth), rows, draw.uniform(0.012, 0.035), 0.0, 0.055)
    slot = rounded_box((0.62 * width, 0.06 * height, 0.012), 0.004, "port", segments=1)
    mesh.add("slot", slot.moved(y=0.075 * height, z=-depth / 2 + 0.0045))
    lamp = box((0.010, 0.010, 0.006), "trim").moved(0.38 * width, 0.12 * height, -depth / 2)
    mesh.add("lamp", lamp)


def _subwoofer(mesh: Mesh, draw: Draw) -> None:
    size = draw.uniform(0.30, 0.46)
    width, height, depth = size, size * draw.uniform(0.95, 1.15), size * draw.uniform(0.95, 1.15)
    woofer = Driver("woofer", draw.uniform(0.36, 0.41) * size)
    lift = 0.03
    _cabinet(mesh, (width, height, depth), [(woofer, 1.0)], draw.uniform(0.006, 0.04), lift, 0.075)
    x, z = 0.38 * width, 0.38 * depth
    for corner in ((-x, -z), (x, -z), (-x, z), (x, z)):
        foot = lathe([(0.022, 0.0), (0.026, lift + 0.01)], 10, "dark")
        mesh.add("feet", foot.moved(x=corner[0], z=corner[1]))
    if draw.chance(0.3):
        _grille(mesh, 0.9 * width, lift + 0.05 * height, lift + 0.95 * height, -depth / 2)


def _guitar(mesh: Mesh, draw: Draw) -> None:
    width = draw.uniform(0.50, 0.74)
    height, depth = width * draw.uniform(0.72, 1.02), draw.uniform(0.24, 0.34)
    lift, edge = 0.025, 0.045
    body = rounded_box((width, height, depth), 0.02, "body").moved(y=lift + height / 2)
    head = draw.uniform(0.13, 0.2) * height if draw.chance(0.6) else 0.0
    mesh.add("body", body)
    cloth = rounded_box((width - 2 * edge, height - 2 * edge - head, 0.02), 0.006, "cloth", segments=1)
    mesh.add("grille", cloth.moved(y=lift + (height - head) / 2, z=-depth / 2))
    if head:  # a combo amplifier's panel with knobs
        panel = box((width - 2 * edge, 0.62 * head, 0.016), "trim").moved(
            y=lift + height - 0.72 * head, z=-depth / 2
        )
        mesh.add("panel", panel)
        knob = lathe([(0.013, 0.0), (0.011, 0.022), (0.0, 0.023)], 10, "dark").turned("x", -90.0)
        count = draw.integer(4, 8)
        for i in range(count):
            x = (i + 0.5 - count / 2) / count * 0.8 * (width - 2 * edge)
            mesh.add("knobs", knob.moved(x, lift + height - 0.72 * head, -depth / 2 - 0.007))
    corner = rounded_box((0.05, 0.05, 0.05), 0.018, "dark", segments=1)
    for x in (-1, 1):
        for y in (0, 1):
            for z in (-1, 1):
                at = (x * (width / 2 - 0.021), lift + 0.021 + y * (height - 0.042), z * (depth / 2 - 0.021))
                mesh.add("corners", corner.moved(*at))
        mesh.add(
            "feet",
            *(
                box((0.04, lift + 0.01, 0.04), "dark").moved(x * 0.4 * width, 0.5 * lift, s * 0.3 * depth)
                for s in (-1, 1)
            ),
        )
    strap = rounded_box((0.26, 0.016, 0.03), 0.006, "dark", segments=1)
    mesh.add("handle", strap.moved(y=lift + height + 0.022))
    mesh.add("handle", *box((0.03, 0.036, 0.03), "trim").moved(x=0.12, y=lift + height + 0.012).both_sides())


def _retro(mesh: Mesh, draw: Draw) -> None:
    """A wooden box on slanted legs, half of its front behind cloth."""
    wide = draw.chance(0.5)
    width, height, depth = draw.uniform(0.36, 0.5), draw.uniform(0.5, 0.66), draw.uniform(0.28, 0.36)
    if wide:
        width, height = 1.3 * height, 0.9 * width
    lift = draw.uniform(0.12, 0.24)
    radius = draw.uniform(0.01, 0.05)
    body = rounded_box((width, height, depth), radius, "body", segments=3).moved(y=lift + height / 2)
    mesh.add("body", body)
    edge = 0.03 + 0.4 * radius
    split = draw.choice((0.0, 0.0, 0.25))
    cloth_size = (width - 2 * edge, (1 - split) * (height - 2 * edge), 0.024)
    mesh.add(
        "grille",
        rounded_box(cloth_size, 0.010, "cloth").moved(y=lift + edge + cloth_size[1] / 2, z=-depth / 2),
    )
    if split:
        y = lift + height - edge - 0.5 * split * (height - 2 * edge)
        for i in range(3):
            x = (i - 1) * 0.24 * width
            knob = lathe([(0.024, -0.01), (0.022, 0.02), (0.0, 0.022)], 14, "trim").turned("x", -90.0)
            mesh.add("knobs", knob.moved(x, y + 0.01, -depth / 2))
    elif draw.chance(0.7):
        woofer = Driver("woofer", 0.30 * min(cloth_size[0], cloth_size[1]))
        part = driver_part(woofer, 0.01).moved(y=lift + edge + 0.42 * cloth_size[1], z=-depth / 2 - 0.012)
        mesh.add("driver", part)
    x, z = width / 2 - 0.06, depth / 2 - 0.06
    mesh.add("legs", *legs("peg", lift, [(-x, -z), (x, -z), (-x, z), (x, z)], splay=0.05))


def _sphere(mesh: Mesh, draw: Draw) -> None:
    """A ball with a driver, on a ring or a stem with a foot."""
    radius = draw.uniform(0.11, 0.16)
    hole = radius * draw.uniform(0.52, 0.68)
    stem = draw.uniform(0.05, 0.22) if draw.chance(0.6) else draw.uniform(0.55, 0.8)
    cut = (radius**2 - hole**2) ** 0.5
    stop = float(np.arccos(cut / radius))
    angles = np.linspace(np.pi, stop, 14)
    profile = [(0.0, -radius)] + [(radius * float(np.sin(a)), radius * float(np.cos(a))) for a in angles[1:]]
    names = ["body"] * 13 + ["ring", "ring"]
    profile += [(0.98 * hole, cut - 0.02), (0.0, cut - 0.02)]
    y = stem + radius
    ball = lathe(profile, 24, names).turned("x", -90.0).moved(y=y)
    mesh.add("ball", ball)
    part = driver_part(Driver("woofer", 0.93 * hole), 0.03).moved(y=y, z=-cut)
    mesh.add("driver", part)
    foot = lathe([(0.75 * radius, 0.0), (0.75 * radius, 0.012), (0.3 * radius, 0.02)], 24, "trim")
    mesh.add("foot", foot, rod((0.0, 0.01, 0.0), (0.0, stem + 0.02, 0.0), 0.016, "trim", 10))
    if draw.chance(0.5):
        top = driver_part(Driver("dome", 0.28 * radius), 0.02)
        pod = lathe([(0.0, -0.5), (0.8, -0.35), (1.0, 0.0), (1.0, 0.5)], 16, "body").scaled(
            0.36 * radius, 0.9 * radius, 0.36 * radius
        )
        mesh.add(
            "tweeter",
            pod.turned("x", -90.0).moved(y=y + 1.22 * radius),
            top.moved(y=y + 1.22 * radius, z=-0.45 * radius),
        )


def _column(mesh: Mesh, draw: Draw) -> None:
    """A smart speaker: a cloth-covered column with a lit top, sometimes tapered."""
    radius, height = draw.uniform(0.055, 0.09), draw.uniform(0.12, 0.30)
    taper = draw.uniform(0.8, 1.05)
    edge = 0.012
    profile = [
        (0.93 * radius, 0.0), (radius, edge), (radius, 0.16 * height),
        (radius * (1 + taper) / 2, 0.5 * height),
        (radius * taper, 0.88 * height), (radius * taper, height - edge), (radius * taper - edge, height),
        (0.62 * radius * taper, height), (0.58 * radius * taper, height - 0.004),
    ]  # fmt: skip
    names = ["body", "body", "cloth", "cloth", "body", "body", "trim", "dark"]
    mesh.add("column", lathe(profile, 32, names))
    knob = lathe([(0.010, height - 0.006), (0.010, height + 0.002)], 12, "trim")
    mesh.add("buttons", knob)
    if draw.chance(0.4):
        shape = tapered_box((0.35 * radius, 0.012, 0.01), (1.0, 1.0), "trim")
        mesh.add("badge", shape.moved(y=0.08 * height, z=-radius + 0.002))
