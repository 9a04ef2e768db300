"""What distinguishes one car from another: proportions drawn per body style.

Distribution of styles: see `STYLES`. Each style has its own range for every proportion; within a style all
are independent and uniform, unless the code says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from render_jobs.sources.procedural.car_ranges import RANGES, STYLES, WINDOWS, Range, StyleRanges
from render_jobs.sources.procedural.draw import Draw

TALL_BACK = frozenset({"suv", "offroad", "hatchback", "micro", "wagon", "van", "bus"})
"""Styles whose cabin reaches the tail."""


@dataclass(frozen=True)
class Pit:
    """An opening in the top: bed or cockpit. `edge` is a parameter x of the body, the rest metres."""

    start: float
    stop: float
    edge: float
    floor: float


@dataclass(frozen=True)
class CarSpec:
    """One car. Lengths in metres, y from the ground, z from the middle with the front at -length/2.

    Attributes:
        style: Body style.
        length: Overall length of the body.
        width: Width of the body without flares and mirrors.
        height: Of the roof.
        sill: Ground clearance.
        wheel_radius: Of the tyre.
        tyre_width: Of the tyre.
        axles: z of both axles.
        arch: Radius of the wheel arches.
        flare: How far the arches stand out.
        cowl: z at which the windscreen starts.
        roof_front: z at which the roof starts.
        roof_rear: z at which the roof ends.
        glass_rear: z at which the rear window ends.
        belt: Height of the body below the windscreen.
        nose: Height of the body at the front.
        tail: Height of the body at the rear.
        base_half: Half-width of the cabin at the belt.
        roof_half: Half-width of the cabin at the roof.
        corner: Depth over which the corners are rounded, seen from above.
        bow: How far the middle of the front stands ahead of its sides.
        wedge: How much the belt line rises to the rear.
        rake: How far the upper edge of the nose leans back.
        crease: Depth of the hollow below the body's shoulder, as a fraction of the half-width.
        lamp_slant: How much higher the outer ends of the lamps sit.
        roof_arc: How much the roof falls from its highest point to its ends.
        screen_bow: How far the middle of the windscreen stands ahead of its sides.
        bands: Levels of the body, in [0, 1], at which lip, bumper, grille and lamps begin and end.
        windows: Start and end of each side window, as fractions of the cabin's length.
        pit: Opening in the top, if any.
    """

    style: str
    length: float
    width: float
    height: float
    sill: float
    wheel_radius: float
    tyre_width: float
    axles: tuple[float, float]
    arch: float
    flare: float
    cowl: float
    roof_front: float
    roof_rear: float
    glass_rear: float
    belt: float
    nose: float
    tail: float
    base_half: float
    roof_half: float
    corner: float
    bow: float
    wedge: float
    rake: float
    crease: float
    lamp_slant: float
    roof_arc: float
    screen_bow: float
    bands: tuple[float, float, float, float, float]
    windows: tuple[Range, ...]
    pit: Pit | None

    @property
    def four_doors(self) -> bool:
        """Whether there are rear doors."""
        if self.style in {"coupe", "roadster", "micro", "truck", "bus"}:
            return False
        return len(self.windows) > (2 if self.style == "hatchback" else 1)

    @property
    def front(self) -> float:
        """Place of the foremost point along z."""
        return -self.length / 2

    @property
    def rear(self) -> float:
        """Place of the rearmost point along z."""
        return self.length / 2

    @property
    def half(self) -> float:
        """Half of the body's width, without flares and mirrors."""
        return self.width / 2


def draw_car(draw: Draw) -> CarSpec:
    """Draws a style, then its proportions."""
    style = draw.weighted(STYLES)
    r = RANGES[style]
    length, width, height = draw.within(r.length), draw.within(r.width), draw.within(r.height)
    wheel = draw.within(r.wheel)
    arch = wheel * draw.uniform(1.10, 1.20)
    cowl, screen, roof_rear, glass_rear = _draw_cabin(draw, r, style)
    belt = draw.within(r.belt) * height
    tail = belt + draw.uniform(-0.06, 0.01) if style in TALL_BACK else draw.within(r.tail) * height
    hood = cowl * length
    return CarSpec(
        style=style,
        length=length,
        width=width,
        height=height,
        sill=draw.within(r.sill),
        wheel_radius=wheel,
        tyre_width=draw.uniform(0.20, 0.25) + (0.04 if style in {"coupe", "pickup", "offroad"} else 0.0),
        axles=((draw.within(r.axle_front) - 0.5) * length, (draw.within(r.axle_rear) - 0.5) * length),
        arch=arch,
        flare=draw.uniform(0.0, 0.05),
        cowl=(cowl - 0.5) * length,
        roof_front=(cowl + screen - 0.5) * length,
        roof_rear=(roof_rear - 0.5) * length,
        glass_rear=(glass_rear - 0.5) * length,
        belt=belt,
        nose=draw.within(r.nose) * height,
        tail=tail,
        base_half=draw.within(r.base) * width / 2,
        roof_half=draw.within(r.roof) * width / 2,
        corner=draw.uniform(0.10, 0.26),
        bow=draw.uniform(0.05, 0.20) * min(1.0, 0.5 + hood),
        wedge=draw.uniform(-0.02, 0.05),
        rake=min(draw.uniform(0.08, 0.22), 0.3 * hood),
        crease=draw.uniform(0.0, 0.022),
        lamp_slant=draw.uniform(-0.02, 0.07),
        roof_arc=draw.uniform(0.02, 0.07),
        screen_bow=draw.uniform(0.06, 0.16) * min(1.0, 0.3 + 2 * screen * length),
        bands=(
            draw.uniform(0.09, 0.14),
            draw.uniform(0.26, 0.34),
            draw.uniform(0.40, 0.56),
            draw.uniform(0.62, 0.70),
            draw.uniform(0.78, 0.86),
        ),
        windows=_draw_windows(draw, style),
        pit=_pit(style, (cowl - 0.5) * length, (glass_rear - 0.5) * length, length, wheel + arch),
    )


def _draw_cabin(draw: Draw, r: StyleRanges, style: str) -> tuple[float, float, float, float]:
    """Draws cowl, length of the windscreen, rear end of the roof and of the rear window, as fractions."""
    cowl, screen = draw.within(r.cowl), draw.within(r.screen)
    roof_rear, glass_rear = draw.within(r.roof_rear), draw.within(r.glass_rear)
    if style in {"pickup", "truck"}:  # the cab's rear wall is nearly upright, wherever it stands
        glass_rear += roof_rear
    return cowl, screen, roof_rear, glass_rear


def _draw_windows(draw: Draw, style: str) -> tuple[Range, ...]:
    if style != "bus":
        return draw.choice(WINDOWS[style])
    count = draw.integer(5, 7)
    edges = [0.03 + 0.94 * i / count for i in range(count + 1)]
    return tuple((low, high - 0.012) for low, high in pairwise(edges))


def _pit(style: str, cowl: float, glass_rear: float, length: float, wheel_top: float) -> Pit | None:
    if style == "pickup":
        return Pit(glass_rear + 0.10, length / 2 - 0.13, 0.905, wheel_top + 0.045)
    if style == "roadster":
        return Pit(cowl + 0.16, glass_rear, 0.82, 0.45)
    return None
