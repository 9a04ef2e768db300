"""Cabinets: sideboards, chests of drawers, wardrobes, nightstands, media units, display cabinets and hutches.

Distribution of kinds: sideboard 0.24, chest 0.2, wardrobe 0.15, nightstand 0.11, media 0.12, display 0.1,
hutch 0.08. A kind sets size and layout: columns of stacked doors, drawers, open shelves and glass. Fronts are
flat 0.45, framed 0.35 or ribbed 0.2; colours are all wood 0.35, all lacquer 0.3, wood with lacquered fronts
0.25, or blocks of colours 0.1. Metres, y from the ground, the front towards -z.
"""

from __future__ import annotations

from dataclasses import dataclass

from render_jobs.sources.procedural import paint
from render_jobs.sources.procedural.cabinet_fronts import Area, FrontStyle, front, glass_front, handle
from render_jobs.sources.procedural.draw import Draw
from render_jobs.sources.procedural.mesh import Mesh, Part
from render_jobs.sources.procedural.shapes import box, rounded_box, tapered_box
from render_jobs.sources.procedural.upholstery import LEG_STYLES, draw_leg_height, legs

Range = tuple[float, float]
Cell = tuple[float, str]
"""Share of the column's height, and what is there: door, doors, drawer, open, glass."""
Column = tuple[float, list[Cell]]
"""Share of the width, and the cells from the bottom up."""

KINDS: dict[str, float] = {
    "sideboard": 0.24,
    "chest": 0.20,
    "wardrobe": 0.15,
    "nightstand": 0.11,
    "media": 0.12,
    "display": 0.10,
    "hutch": 0.08,
}
_SIZES: dict[str, tuple[Range, Range, Range]] = {
    "sideboard": ((1.15, 1.90), (0.68, 0.92), (0.38, 0.50)),
    "chest": ((0.65, 1.30), (0.75, 1.25), (0.40, 0.52)),
    "wardrobe": ((0.90, 1.80), (1.80, 2.15), (0.52, 0.65)),
    "nightstand": ((0.40, 0.58), (0.45, 0.66), (0.36, 0.46)),
    "media": ((1.20, 1.90), (0.42, 0.58), (0.38, 0.48)),
    "display": ((0.75, 1.30), (1.50, 1.95), (0.36, 0.46)),
    "hutch": ((0.95, 1.50), (0.82, 0.92), (0.42, 0.50)),
}


@dataclass(frozen=True)
class CabinetSpec:
    """One cabinet; lengths in metres. `body_top` is the height below the top plate."""

    kind: str
    width: float
    body_top: float
    depth: float
    board: float
    leg_style: str
    leg_height: float
    top_thick: float
    overhang: float
    front: FrontStyle
    glazing_bars: bool
    columns: list[Column]
    upper: list[Column] | None
    upper_height: float


def build_cabinet(k: int) -> Mesh:
    """Cabinet number k."""
    draw = Draw("cabinet", k)
    spec = draw_cabinet(draw)
    mesh = Mesh()
    fronts = _paint(mesh, Draw("cabinet", k, "paint"))
    inside = Area(-spec.width / 2, spec.width / 2, spec.leg_height, spec.body_top)
    shades = Draw("cabinet", k, "shades")
    _add_unit(mesh, spec, inside, spec.columns, spec.depth, shades, fronts)
    size = (spec.width + 2 * spec.overhang, spec.top_thick, spec.depth + 2 * spec.overhang)
    top = rounded_box(size, 0.006, "top", segments=1).moved(y=spec.body_top + spec.top_thick / 2 - 0.001)
    mesh.add("top", top.moved(z=-0.5 * spec.overhang))
    _add_upper(mesh, spec, shades, fronts)
    x, z = spec.width / 2 - 0.05, spec.depth / 2 - 0.05
    mesh.add(
        "legs", *legs(spec.leg_style, spec.leg_height, [(-x, -z), (x, -z), (-x, z), (x, z)], splay=0.025)
    )
    return mesh


def draw_cabinet(draw: Draw) -> CabinetSpec:
    """Draws the kind, then size, layout and style."""
    kind = draw.weighted(KINDS)
    width, height, depth = (draw.within(bounds) for bounds in _SIZES[kind])
    leg_style = "plinth" if kind == "wardrobe" and draw.chance(0.6) else draw.weighted(LEG_STYLES)
    leg_height = draw_leg_height(draw, leg_style)
    upper_height = draw.uniform(0.70, 1.05) if kind == "hutch" else 0.0
    style = FrontStyle(
        panel=draw.weighted({"flat": 0.45, "shaker": 0.35, "ribbed": 0.2}),
        handle=draw.weighted({"knob": 0.32, "bar": 0.3, "cup": 0.14, "strip": 0.14, "none": 0.1}),
        frame=draw.uniform(0.04, 0.07),
        bar_length=draw.uniform(0.12, 0.34),
        gap=draw.uniform(0.007, 0.012),
    )
    return CabinetSpec(
        kind=kind,
        width=width,
        body_top=height,
        depth=depth,
        board=draw.uniform(0.018, 0.032),
        leg_style=leg_style,
        leg_height=leg_height,
        top_thick=draw.uniform(0.018, 0.045),
        overhang=draw.choice((0.004, 0.004, 0.015, 0.028)),
        front=style,
        glazing_bars=draw.chance(0.5),
        columns=_draw_layout(draw, kind, width),
        upper=[(1.0, [(1.0, draw.choice(("open", "glasses")))])] if kind == "hutch" else None,
        upper_height=upper_height,
    )


def _draw_layout(draw: Draw, kind: str, width: float) -> list[Column]:
    if kind == "chest":
        rows = draw.integer(3, 6)
        grow = draw.uniform(0.0, 0.18)
        stack: list[Cell] = [(1.0 + grow * (rows - i), "drawer") for i in range(rows)]
        if width > 1.0 and draw.chance(0.7):
            return [(1.0, stack), (1.0, list(stack))]
        return [(1.0, [*stack[:-1], (stack[-1][0], "drawers")] if draw.chance(0.4) else stack)]
    if kind == "wardrobe":
        count = max(2, round(width / draw.uniform(0.42, 0.55)))
        low = draw.weighted({"none": 0.45, "drawer": 0.4, "two": 0.15})
        foot: list[Cell] = {
            "none": [],
            "drawer": [(0.2, "drawer")],
            "two": [(0.16, "drawer"), (0.16, "drawer")],
        }[low]
        columns: list[Column] = [(1.0, [*foot, (1.0, "door")]) for _ in range(count)]
        if count > 2 and draw.chance(0.35):
            columns[draw.integer(0, count - 1)] = (0.8, [(0.3, "drawer"), (0.3, "drawer"), (1.0, "shelves")])
        return columns
    if kind == "nightstand":
        stacks: tuple[list[Cell], ...] = (
            [(1.0, "drawer"), (1.0, "drawer")],
            [(1.2, "open"), (0.8, "drawer")],
            [(1.0, "drawer")] * 3,
            [(1.6, "door"), (0.8, "drawer")],
            [(1.0, "drawer"), (0.9, "open")],
        )
        return [(1.0, draw.choice(stacks))]
    if kind == "display":
        low_part: Cell = draw.choice(((0.5, "doors"), (0.35, "drawer"), (0.6, "doors")))
        return [(1.0, [low_part, (1.3, draw.choice(("glasses", "glasses", "shelves")))])]
    if kind == "media":
        options = ("door", "drawer", "open", "open")
        count = 3 if width > 1.4 else 2
        side, middle = draw.choice(options), draw.choice(("open", "drawer", "slot"))
        ends = (
            [_media_stack(draw, side) for _ in range(2)]
            if draw.chance(0.3)
            else [_media_stack(draw, side)] * 2
        )
        return [(1.0, ends[0]), (draw.uniform(0.9, 1.5), _media_stack(draw, middle)), (1.0, ends[1])][:count]
    return _draw_sideboard(draw, width)


def _media_stack(draw: Draw, what: str) -> list[Cell]:
    if what == "slot":
        return [(1.0, "drawer"), (0.7, "open")]
    return [(1.0, what)] * (2 if what == "drawer" and draw.chance(0.5) else 1)


def _draw_sideboard(draw: Draw, width: float) -> list[Column]:
    count = max(2, round(width / draw.uniform(0.4, 0.56)))
    stacks: tuple[list[Cell], ...] = (
        [(1.0, "door")],
        [(1.0, "door")],
        [(1.0, "drawer")] * 3,
        [(2.2, "door"), (0.8, "drawer")],
        [(1.0, "open"), (1.0, "open")],
        [(1.0, "drawer"), (1.0, "drawer"), (1.2, "open")],
    )
    outer, inner = draw.choice(stacks[:4]), draw.choice(stacks)
    share = draw.uniform(0.8, 1.4)
    middle: list[Column] = [(share, inner)] * (count - 2)
    if draw.chance(0.25):  # asymmetric
        return [(1.0, draw.choice(stacks)), *middle, (1.0, outer)]
    return [(1.0, outer), *middle, (1.0, outer)]


def _paint(mesh: Mesh, draw: Draw) -> list[str]:
    """Sets the colours; returns the materials that fronts take in turn."""
    scheme = draw.weighted({"wood": 0.35, "lacquer": 0.3, "mixed": 0.25, "blocks": 0.1})
    wood = paint.from_palette(draw, paint.WOOD, 1.5)
    lacquer = paint.from_palette(draw, paint.LACQUER, 1.5)
    carcass = lacquer if scheme == "lacquer" else wood
    face = wood if scheme == "wood" else lacquer
    own_top = draw.chance(0.3)
    mesh.colours |= {
        "carcass": carcass,
        "inside": paint.shaded(carcass, 0.75),
        "shadow": paint.shaded(carcass, 0.4),
        "front": paint.shaded(face, draw.uniform(0.94, 1.06)),
        "front_b": paint.from_palette(draw, paint.LACQUER, 1.5),
        "front_c": paint.from_palette(draw, paint.LACQUER, 1.5),
        "top": paint.from_palette(draw, paint.WOOD) if own_top else paint.shaded(carcass, 1.04),
        "leg": paint.from_palette(draw, paint.METAL) if draw.chance(0.3) else paint.shaded(wood, 0.8),
        "handle": paint.from_palette(draw, paint.METAL if draw.chance(0.75) else paint.WOOD),
        "pane": paint.varied(draw, (0.66, 0.78, 0.82) if draw.chance(0.6) else (0.34, 0.44, 0.50)),
    }
    for name in ("front", "front_b", "front_c"):
        mesh.colours[f"{name}_deep"] = paint.shaded(mesh.colours[name], 0.86)
    return ["front", "front_b", "front_c"] if scheme == "blocks" else ["front"]


def _add_unit(
    mesh: Mesh,
    spec: CabinetSpec,
    area: Area,
    columns: list[Column],
    depth: float,
    draw: Draw,
    fronts: list[str],
) -> None:
    """A carcass with its columns; its front edge lies at z = -depth/2."""
    board = spec.board
    x, y = area.middle
    side = box((board, area.height, depth), "carcass").moved(y=y)
    mesh.add("carcass", side.moved(x=area.x0 + board / 2), side.moved(x=area.x1 - board / 2))
    back = box((area.width - board, area.height - 0.006, 0.012), "inside").moved(x, y, depth / 2 - 0.009)
    mesh.add("carcass", back)
    inner = Area(area.x0 + board / 2, area.x1 - board / 2, area.y0 + board / 2, area.y1 - board / 2)
    for end in (inner.y0, inner.y1):
        mesh.add("carcass", _shelf(inner.x0, inner.x1, end, depth, board, 0.003))
    slots = inner.split([share for share, _ in columns], across=True)
    for i, (slot, (_, cells)) in enumerate(zip(slots, columns, strict=True)):
        if i:
            upright = box((board, inner.height, depth - 0.016), "carcass")
            mesh.add("carcass", upright.moved(slot.x0, inner.middle[1], 0.003))
        parts_of = slot.split([share for share, _ in cells], across=False)
        for j, (cell, (_, what)) in enumerate(zip(parts_of, cells, strict=True)):
            if j:
                mesh.add("carcass", _shelf(cell.x0, cell.x1, cell.y0, depth, board, 0.006))
            opens = "right" if i < len(columns) / 2 else "left"
            for part in _cell_parts(spec, cell, what, opens, depth, draw, fronts):
                mesh.add("fronts", part)


def _shelf(x0: float, x1: float, y: float, depth: float, board: float, recess: float) -> Part:
    """A board between two places; `recess` keeps its edges off those of its neighbours."""
    part = box((x1 - x0, board - 0.001, depth - 0.012 - recess), "carcass")
    return part.moved(0.5 * (x0 + x1), y, recess - 0.5 * (recess - 0.006))


def _cell_parts(
    spec: CabinetSpec, cell: Area, what: str, opens: str, depth: float, draw: Draw, fronts: list[str]
) -> list[Part]:
    """What fills one cell, moved to the front of its unit."""
    style = spec.front
    parts: list[Part] = []
    if what in {"open", "shelves"}:
        count = 1 if what == "open" and cell.height < 0.5 else max(2, round(cell.height / 0.34))
        for shelf in cell.split([1.0] * count, across=False)[1:]:
            parts.append(_shelf(cell.x0, cell.x1, shelf.y0, depth, 0.8 * spec.board, 0.012))
        return parts
    pair = what in {"doors", "drawers", "glasses"} or (what == "door" and cell.width > 0.66)
    leaves = cell.split([1.0, 1.0], across=True) if pair else [cell]
    for i, leaf in enumerate(leaves):
        side = ("right", "left")[i] if pair else opens
        if what == "glasses":
            parts += glass_front(leaf, style, spec.glazing_bars)
        else:
            parts += front(leaf, style, draw.choice(fronts))
        parts += handle(leaf, style, "drawer" if what in {"drawer", "drawers"} else side)
    return [part.moved(z=-depth / 2) for part in parts]


def _add_upper(mesh: Mesh, spec: CabinetSpec, draw: Draw, fronts: list[str]) -> None:
    """The shelf unit of a hutch, or the cornice of a tall cabinet."""
    if spec.upper is not None:
        low = spec.body_top + spec.top_thick - 0.004
        area = Area(-spec.width / 2 + 0.02, spec.width / 2 - 0.02, low, low + spec.upper_height)
        upper = Mesh()
        depth = 0.62 * spec.depth
        _add_unit(upper, spec, area, spec.upper, depth, draw, fronts)
        for name, part in upper.parts:
            mesh.add(name, part.moved(z=(spec.depth - depth) / 2 - 0.01))
        lid = box((area.width + 0.05, 0.03, depth + 0.04), "top")
        mesh.add("top", lid.moved(y=area.y1 + 0.012, z=(spec.depth - depth) / 2 - 0.02))
    elif spec.kind == "wardrobe" and spec.overhang > 0.01:
        cornice = tapered_box((spec.width, 0.06, spec.depth), (1.05, 1.1), "top")
        mesh.add("top", cornice.moved(y=spec.body_top + spec.top_thick + 0.025, z=-0.01))
