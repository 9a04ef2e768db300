"""Loudspeakers of other kinds: guitar cabinet, retro, sphere, smart speaker.

Metres, y from the ground, the front towards -z.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from render_jobs.sources.procedural.draw import Draw
from render_jobs.sources.procedural.mesh import Mesh, Part
from render_jobs.sources.procedural.shapes import box, lathe, rod, rounded_box, tapered_box
from render_jobs.sources.procedural.speaker_parts import Driver, driver_part
from render_jobs.sources.procedural.upholstery import legs


def add_guitar_cabinet(mesh: Mesh, draw: Draw) -> None:
    """A guitar amplifier's cabinet: cloth, metal corners, a handle, and often a panel with knobs."""
    width = draw.uniform(0.50, 0.74)
    height, depth = width * draw.uniform(0.72, 1.02), draw.uniform(0.24, 0.34)
    lift, edge = 0.025, 0.045
    head = draw.uniform(0.13, 0.2) * height if draw.chance(0.6) else 0.0
    mesh.add("body", rounded_box((width, height, depth), 0.02, "body").moved(y=lift + height / 2))
    cloth = rounded_box((width - 2 * edge, height - 2 * edge - head, 0.02), 0.006, "cloth", segments=1)
    mesh.add("grille", cloth.moved(y=lift + (height - head) / 2, z=-depth / 2))
    if head:
        size = (width - 2 * edge, 0.62 * head, 0.016)
        panel = _knob_panel(size, draw.integer(4, 8))
        mesh.add("panel", *(part.moved(y=lift + height - 0.72 * head, z=-depth / 2) for part in panel))
    for x, y, z in product((-1, 1), (0, 1), (-1, 1)):
        corner = rounded_box((0.05, 0.05, 0.05), 0.018, "dark", segments=1)
        place = (x * (width / 2 - 0.021), lift + 0.021 + y * (height - 0.042), z * (depth / 2 - 0.021))
        mesh.add("corners", corner.moved(*place))
    foot = box((0.04, lift + 0.01, 0.04), "dark").moved(0.4 * width, 0.5 * lift)
    mesh.add("feet", *foot.moved(z=-0.3 * depth).both_sides(), *foot.moved(z=0.3 * depth).both_sides())
    top = lift + height
    mesh.add("handle", rounded_box((0.26, 0.016, 0.03), 0.006, "dark", segments=1).moved(y=top + 0.022))
    mesh.add("handle", *box((0.03, 0.036, 0.03), "trim").moved(x=0.12, y=top + 0.012).both_sides())


def _knob_panel(size: tuple[float, float, float], count: int) -> list[Part]:
    """A panel centred at the origin with a row of knobs in front."""
    knob = lathe([(0.013, 0.0), (0.011, 0.022), (0.0, 0.023)], 10, "dark").turned("x", -90.0)
    xs = [(i + 0.5 - count / 2) / count * 0.8 * size[0] for i in range(count)]
    return [box(size, "trim"), *(knob.moved(x=x, z=-0.007) for x in xs)]


def add_retro(mesh: Mesh, draw: Draw) -> None:
    """A wooden box on slanted legs, its front behind cloth."""
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


def add_sphere(mesh: Mesh, draw: Draw) -> None:
    """A ball with a driver, on a short or long stem with a foot."""
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


def add_column(mesh: Mesh, draw: Draw) -> None:
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
