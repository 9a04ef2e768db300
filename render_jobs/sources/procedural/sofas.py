"""Sofas: one to four seats, straight or with a chaise, in several arm, back and leg styles.

Distribution: 1 to 4 seats with 0.14, 0.34, 0.36, 0.16; a chaise with 0.28 from two seats on; arms box 0.26,
slim 0.20, rolled 0.20, sloped 0.18, pad 0.16 (a chaise has box or slim ones); back of cushions 0.55, tight
0.25, buttoned 0.20; leather with 0.2, buttoned ones with 0.45. Metres, y from the ground, the back towards
+z.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from render_jobs.sources.procedural import paint
from render_jobs.sources.procedural.draw import Draw
from render_jobs.sources.procedural.mesh import Mesh, Part
from render_jobs.sources.procedural.shapes import lathe, rounded_box
from render_jobs.sources.procedural.upholstery import LEG_STYLES, cushion, draw_leg_height, legs, pillow

_ARMS: dict[str, float] = {"box": 0.26, "slim": 0.20, "rolled": 0.20, "sloped": 0.18, "pad": 0.16}


@dataclass(frozen=True)
class SofaSpec:
    """One sofa, in metres. `chaise` is -1, 0 or 1: the side in x on which the seat reaches forward."""

    seats: int
    bench: bool
    inner_width: float
    depth: float
    seat_height: float
    leg_height: float
    leg_style: str
    base_height: float
    cushion_height: float
    back_height: float
    back_depth: float
    back_style: str
    back_lean_deg: float
    arm_style: str
    arm_width: float
    arm_height: float
    chaise: int
    chaise_depth: float
    puff: float
    roundness: float

    @property
    def half_inner(self) -> float:
        """Half of the width between the arms."""
        return self.inner_width / 2

    @property
    def half(self) -> float:
        """Half of the whole width."""
        return self.half_inner + self.arm_width

    @property
    def seat_width(self) -> float:
        """Width of one seat."""
        return self.inner_width / self.seats


def draw_sofa(draw: Draw) -> SofaSpec:
    """Draws the layout, then its proportions."""
    seats = draw.weighted({1: 0.14, 2: 0.34, 3: 0.36, 4: 0.16})
    chaise = draw.choice((-1, 1)) if seats > 1 and draw.chance(0.28) else 0
    arm_style = draw.choice(("box", "slim")) if chaise else draw.weighted(_ARMS)
    leg_style = draw.weighted(LEG_STYLES)
    leg_height = draw_leg_height(draw, leg_style)
    base_height = draw.uniform(0.14, 0.20) if leg_style != "plinth" else draw.uniform(0.20, 0.26)
    cushion_height = draw.uniform(0.12, 0.20)
    seat_height = leg_height + base_height + cushion_height
    rise = {"slim": (0.10, 0.22), "pad": (0.12, 0.2)}.get(arm_style, (0.14, 0.26))
    return SofaSpec(
        seats=seats,
        bench=draw.chance(0.2),
        inner_width=seats * draw.uniform(0.56, 0.74) + (0.08 if seats == 1 else 0.0),
        depth=draw.uniform(0.82, 1.02),
        seat_height=seat_height,
        leg_height=leg_height,
        leg_style=leg_style,
        base_height=base_height,
        cushion_height=cushion_height,
        back_height=seat_height + draw.uniform(0.30, 0.52),
        back_depth=draw.uniform(0.14, 0.22),
        back_style=draw.weighted({"cushions": 0.55, "tight": 0.25, "buttoned": 0.20}),
        back_lean_deg=draw.uniform(2.0, 12.0),
        arm_style=arm_style,
        arm_width=draw.within({"slim": (0.06, 0.10), "rolled": (0.16, 0.24)}.get(arm_style, (0.12, 0.24))),
        arm_height=seat_height + draw.within(rise),
        chaise=chaise,
        chaise_depth=draw.uniform(1.35, 1.65),
        puff=draw.uniform(0.0, 0.045),
        roundness=draw.uniform(0.03, 0.075),
    )


def build_sofa(k: int) -> Mesh:
    """Sofa number k."""
    draw = Draw("sofa", k)
    spec = draw_sofa(draw)
    mesh = Mesh()
    _paint(mesh, spec, Draw("sofa", k, "paint"))
    mesh.add("base", *_base(spec))
    mesh.add("seat", *_seat_cushions(spec))
    mesh.add("back", *_back(spec))
    for side in (-1, 1):
        mesh.add("arms", *_arm(spec, side))
    mesh.add("legs", *_legs(spec))
    mesh.add("pillows", *_pillows(spec, Draw("sofa", k, "pillows")))
    return mesh


def _paint(mesh: Mesh, spec: SofaSpec, draw: Draw) -> None:
    leather = draw.chance(0.45 if spec.back_style == "buttoned" else 0.2)
    fabric = paint.from_palette(draw, paint.LEATHER if leather else paint.FABRIC, 1.5)
    frame = fabric if draw.chance(0.75) else paint.from_palette(draw, paint.FABRIC + paint.WOOD, 1.5)
    metal = spec.leg_style == "metal" or draw.chance(0.15)
    mesh.colours |= {
        "fabric": frame,
        "cushion": paint.shaded(fabric, draw.uniform(1.0, 1.12)),
        "button": paint.shaded(fabric, 0.6),
        "leg": paint.from_palette(draw, paint.METAL if metal else paint.WOOD),
        "pillow_a": paint.from_palette(draw, paint.FABRIC, 2.0),
        "pillow_b": paint.from_palette(draw, paint.FABRIC, 2.0),
    }


def _chaise_span(spec: SofaSpec) -> tuple[float, float]:
    """The x range of the chaise's seat."""
    edge = spec.chaise * spec.half_inner
    inner = edge - spec.chaise * max(spec.seat_width, 0.62)
    return min(edge, inner), max(edge, inner)


def _base(spec: SofaSpec) -> list[Part]:
    y = spec.leg_height + spec.base_height / 2
    main = rounded_box(
        (2 * spec.half_inner + 0.02, spec.base_height, spec.depth - 0.03), 0.02, "fabric"
    ).moved(y=y)
    if not spec.chaise:
        return [main]
    low, high = _chaise_span(spec)
    reach = spec.chaise_depth - spec.depth
    block = rounded_box((high - low + 0.02, spec.base_height - 0.004, reach + 0.1), 0.02, "fabric")
    return [main, block.moved(0.5 * (low + high), y, -spec.depth / 2 - reach / 2 + 0.05)]


def _seat_cushions(spec: SofaSpec) -> list[Part]:
    low, high = -spec.half_inner, spec.half_inner
    front, back = -spec.depth / 2 - 0.015, spec.depth / 2 - spec.back_depth + 0.03
    spans = [(low, high, front)]
    if spec.chaise:
        start, stop = _chaise_span(spec)
        rest = (low, start) if spec.chaise > 0 else (stop, high)
        spans = [(*rest, front), (start, stop, spec.depth / 2 - spec.chaise_depth - 0.015)]
    parts = []
    for start, stop, edge in spans:
        count = 1 if spec.bench else max(1, round((stop - start) / spec.seat_width))
        width = (stop - start) / count
        for i in range(count):
            part = cushion(
                (width - 0.008, spec.cushion_height, back - edge), spec.puff, "cushion", spec.roundness
            )
            y = spec.leg_height + spec.base_height + spec.cushion_height / 2 - 0.01
            parts.append(part.moved(start + (i + 0.5) * width, y, 0.5 * (edge + back)))
    return parts


def _back(spec: SofaSpec) -> list[Part]:
    height = spec.back_height - spec.leg_height - 0.02
    width = 2 * spec.half - 0.02 if spec.arm_style in {"box", "rolled"} else 2 * spec.half_inner + 0.02
    lean = 0.5 * spec.back_lean_deg
    panel = rounded_box((width, height, spec.back_depth), spec.roundness, "fabric").moved(y=height / 2)
    place = {"y": spec.leg_height + 0.01, "z": spec.depth / 2 - spec.back_depth / 2}
    parts = [panel.turned("x", lean).moved(**place)]
    if spec.back_style == "cushions":
        return parts + _back_cushions(spec)
    if spec.back_style == "buttoned":
        button = lathe([(0.0, -0.012), (0.022, 0.0), (0.016, 0.008), (0.0, 0.011)], 8, "button").turned(
            "x", -90.0
        )
        columns = 3 * spec.seats
        pitch = 2 * spec.half_inner / columns
        for row in range(3):
            y = height - 0.09 - 0.11 * row
            for column in range(columns - row % 2):
                x = -spec.half_inner + (column + 0.5 + 0.5 * (row % 2)) * pitch
                parts.append(button.moved(x, y, -spec.back_depth / 2).turned("x", lean).moved(**place))
    return parts


def _back_cushions(spec: SofaSpec) -> list[Part]:
    rise = spec.back_height - spec.seat_height + 0.03
    count = 1 if spec.bench and spec.seats < 3 else spec.seats
    width = spec.inner_width / count
    thick = 0.16
    parts = []
    for i in range(count):
        part = cushion((width - 0.008, thick, rise), spec.puff + 0.015, "cushion", 0.06).turned("x", 90.0)
        part = part.moved(y=rise / 2).turned("x", spec.back_lean_deg)
        z = spec.depth / 2 - spec.back_depth - 0.4 * thick
        parts.append(part.moved(-spec.half_inner + (i + 0.5) * width, spec.seat_height - 0.015, z))
    return parts


def _arm(spec: SofaSpec, side: int) -> list[Part]:
    """The arm on one side, built at x = 0 and then moved."""
    height = spec.arm_height - spec.leg_height
    long = spec.chaise == side and spec.arm_style == "box"
    depth = (spec.chaise_depth if long else spec.depth) + 0.01
    z = (spec.depth - depth) / 2 + 0.005
    middle = side * (spec.half_inner + spec.arm_width / 2)
    if spec.arm_style == "pad":  # an upholstered pad on a slim panel
        panel = rounded_box((0.6 * spec.arm_width, height - 0.05, depth - 0.04), 0.02, "fabric")
        pad = cushion((spec.arm_width, 0.11, depth), 0.01, "cushion", 0.045)
        parts = [panel.moved(y=height / 2 - 0.025), pad.moved(y=height - 0.055)]
    elif spec.arm_style == "rolled":
        radius = 0.58 * spec.arm_width
        panel = rounded_box((0.8 * spec.arm_width, height - radius, depth), 0.02, "fabric")
        profile = [(0.8, -0.5), (1.0, -0.49), (1.0, 0.49), (0.8, 0.5)]
        roll = lathe([(r * radius, t * (depth + 0.03)) for r, t in profile], 16, "fabric").turned("x", 90.0)
        parts = [
            panel.moved(y=(height - radius) / 2),
            roll.moved(x=side * 0.1 * spec.arm_width, y=height - radius),
        ]
    else:
        panel = rounded_box((spec.arm_width, height, depth), 0.6 * spec.roundness, "fabric", cuts=(1, 1, 3))
        if spec.arm_style == "sloped":
            panel = _sloped(panel, 0.42 * (spec.arm_height - spec.seat_height))
        parts = [panel.moved(y=height / 2)]
    return [part.moved(middle, spec.leg_height, z) for part in parts]


def _sloped(panel: Part, drop: float) -> Part:
    """An arm whose upper edge falls by `drop` to the front."""
    vertices = panel.vertices.copy()
    forward = (vertices[:, 2].max() - vertices[:, 2]) / np.ptp(vertices[:, 2])
    upper = np.clip(vertices[:, 1] / vertices[:, 1].max(), 0.0, 1.0)
    vertices[:, 1] -= drop * forward**1.5 * upper
    return replace(panel, vertices=vertices)


def _legs(spec: SofaSpec) -> list[Part]:
    x, z = spec.half - 0.08, spec.depth / 2 - 0.08
    corners = [(-x, -z), (x, -z), (-x, z), (x, z)]
    parts = legs(spec.leg_style, spec.leg_height, corners)
    if spec.chaise:
        low, high = _chaise_span(spec)
        far = spec.depth / 2 - spec.chaise_depth + 0.08
        inset = [(low + 0.06, far), (high - 0.06, far)]
        if spec.leg_style == "plinth":
            inset += [(low + 0.06, -z), (high - 0.06, -z)]
        parts += legs(spec.leg_style, spec.leg_height - 0.002, inset, splay=0.0)
    return parts


def _pillows(spec: SofaSpec, draw: Draw) -> list[Part]:
    if not draw.chance(0.6):
        return []
    places = [-1, 1] if spec.seats > 1 and draw.chance(0.6) else [draw.choice((-1, 1))]
    parts = []
    front = spec.depth / 2 - spec.back_depth - (0.18 if spec.back_style == "cushions" else 0.04)
    for side in places:
        size = draw.uniform(0.34, 0.44)
        part = pillow(size, draw.choice(("pillow_a", "pillow_b"))).moved(y=size / 2 - 0.02)
        part = part.turned("x", draw.uniform(14.0, 22.0)).turned("y", -side * draw.uniform(5.0, 25.0))
        x = side * (spec.half_inner - 0.5 * size - draw.uniform(0.0, 0.06)) if spec.seats > 1 else 0.0
        parts.append(part.moved(x, spec.seat_height, front - 0.13))
    return parts
