"""Loudspeakers in boxes with a front full of drivers: bookshelf, tower, studio monitor, subwoofer.

Metres, y from the ground, the front towards -z.
"""

from __future__ import annotations

from render_jobs.sources.procedural.draw import Draw
from render_jobs.sources.procedural.mesh import Mesh
from render_jobs.sources.procedural.shapes import box, lathe, rod, rounded_box
from render_jobs.sources.procedural.speaker_parts import Driver, baffle, shell
from render_jobs.sources.procedural.upholstery import legs

Rows = list[tuple[Driver | None, float]]
"""Drivers from the bottom up (None: a closed part of the front) and their shares of the height."""


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


def add_bookshelf(mesh: Mesh, draw: Draw) -> None:
    """A two-way box, on a stand with probability 0.25."""
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
        _grille(mesh, 0.9 * width, lift + 0.02 * height, lift + 0.985 * height, -depth / 2)


def add_tower(mesh: Mesh, draw: Draw) -> None:
    """A tall box with two to six drivers, on a plinth or on feet."""
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
        _grille(mesh, 0.92 * width, lift + 0.03, lift + 0.985 * height, -depth / 2)


def add_monitor(mesh: Mesh, draw: Draw) -> None:
    """A studio monitor: horn, woofer, and a slot below them."""
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


def add_subwoofer(mesh: Mesh, draw: Draw) -> None:
    """A cube on feet with one large woofer."""
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
        _grille(mesh, 0.9 * width, lift + 0.02 * height, lift + 0.98 * height, -depth / 2)
