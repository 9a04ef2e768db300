"""What distinguishes one car from another: proportions drawn per body style, in metres and fractions.

Distribution: sedan 22%, hatchback 20%, SUV 18%, coupe 14%, pickup 10%, wagon 8%, van 8%. Each style has its own range
for every proportion; within a style all are independent and uniform, unless the code says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from render_jobs.sources.procedural.draw import Draw

STYLES: dict[str, float] = {
    "sedan": 0.22,
    "hatchback": 0.20,
    "suv": 0.18,
    "coupe": 0.14,
    "pickup": 0.10,
    "wagon": 0.08,
    "van": 0.08,
}

Range = tuple[float, float]


@dataclass(frozen=True)
class StyleRanges:
    """Ranges of one style. Lengths in metres; `cowl`, `roof_rear`, `glass_rear` and the axles as fractions of the length
    from the front; `screen` and `glass_rear` (from the tail) likewise; heights of the body as fractions of the height."""

    length: Range
    width: Range
    height: Range
    sill: Range
    wheel: Range
    axle_front: Range
    axle_rear: Range
    cowl: Range
    screen: Range
    roof_rear: Range
    glass_rear: Range
    belt: Range
    nose: Range
    tail: Range
    base: Range
    roof: Range


RANGES: dict[str, StyleRanges] = {
    "sedan": StyleRanges(
        length=(4.4, 5.1), width=(1.76, 1.92), height=(1.38, 1.50), sill=(0.18, 0.23), wheel=(0.335, 0.375),
        axle_front=(0.175, 0.20), axle_rear=(0.775, 0.80), cowl=(0.26, 0.31), screen=(0.12, 0.16),
        roof_rear=(0.65, 0.71), glass_rear=(0.80, 0.86), belt=(0.61, 0.66), nose=(0.47, 0.53), tail=(0.62, 0.68),
        base=(0.87, 0.90), roof=(0.66, 0.74),
    ),
    "hatchback": StyleRanges(
        length=(3.6, 4.3), width=(1.66, 1.82), height=(1.42, 1.60), sill=(0.19, 0.26), wheel=(0.31, 0.355),
        axle_front=(0.185, 0.205), axle_rear=(0.80, 0.825), cowl=(0.22, 0.28), screen=(0.12, 0.17),
        roof_rear=(0.84, 0.90), glass_rear=(0.945, 0.975), belt=(0.58, 0.64), nose=(0.46, 0.53), tail=(0.58, 0.64),
        base=(0.87, 0.90), roof=(0.68, 0.76),
    ),
    "suv": StyleRanges(
        length=(4.2, 5.0), width=(1.82, 2.0), height=(1.64, 1.88), sill=(0.27, 0.36), wheel=(0.36, 0.42),
        axle_front=(0.18, 0.205), axle_rear=(0.785, 0.815), cowl=(0.25, 0.30), screen=(0.08, 0.13),
        roof_rear=(0.88, 0.93), glass_rear=(0.955, 0.98), belt=(0.60, 0.65), nose=(0.52, 0.60), tail=(0.60, 0.65),
        base=(0.87, 0.91), roof=(0.70, 0.80),
    ),
    "coupe": StyleRanges(
        length=(4.1, 4.75), width=(1.82, 2.0), height=(1.16, 1.34), sill=(0.13, 0.18), wheel=(0.335, 0.37),
        axle_front=(0.19, 0.215), axle_rear=(0.78, 0.81), cowl=(0.32, 0.40), screen=(0.14, 0.18),
        roof_rear=(0.62, 0.70), glass_rear=(0.84, 0.93), belt=(0.63, 0.68), nose=(0.44, 0.52), tail=(0.64, 0.72),
        base=(0.83, 0.88), roof=(0.60, 0.68),
    ),
    "pickup": StyleRanges(
        length=(4.9, 5.6), width=(1.86, 2.05), height=(1.72, 1.95), sill=(0.32, 0.44), wheel=(0.38, 0.44),
        axle_front=(0.17, 0.195), axle_rear=(0.76, 0.79), cowl=(0.24, 0.28), screen=(0.07, 0.10),
        roof_rear=(0.47, 0.60), glass_rear=(0.02, 0.035), belt=(0.60, 0.65), nose=(0.55, 0.61), tail=(0.60, 0.66),
        base=(0.87, 0.90), roof=(0.70, 0.78),
    ),
    "wagon": StyleRanges(
        length=(4.5, 5.0), width=(1.78, 1.90), height=(1.42, 1.54), sill=(0.18, 0.23), wheel=(0.335, 0.375),
        axle_front=(0.175, 0.20), axle_rear=(0.775, 0.80), cowl=(0.26, 0.30), screen=(0.12, 0.15),
        roof_rear=(0.86, 0.91), glass_rear=(0.95, 0.975), belt=(0.60, 0.65), nose=(0.47, 0.53), tail=(0.60, 0.65),
        base=(0.87, 0.90), roof=(0.68, 0.74),
    ),
    "van": StyleRanges(
        length=(4.3, 5.3), width=(1.80, 2.02), height=(1.85, 2.30), sill=(0.22, 0.30), wheel=(0.33, 0.38),
        axle_front=(0.17, 0.20), axle_rear=(0.77, 0.81), cowl=(0.10, 0.17), screen=(0.10, 0.15),
        roof_rear=(0.94, 0.965), glass_rear=(0.975, 0.985), belt=(0.48, 0.55), nose=(0.36, 0.44), tail=(0.48, 0.54),
        base=(0.90, 0.93), roof=(0.76, 0.86),
    ),
}  # fmt: skip

WINDOWS: dict[str, tuple[tuple[Range, ...], ...]] = {
    "sedan": (((0.06, 0.47), (0.51, 0.84)), ((0.06, 0.45), (0.48, 0.74), (0.77, 0.87))),
    "hatchback": (((0.06, 0.50), (0.54, 0.80)), ((0.06, 0.56), (0.60, 0.86)), ((0.06, 0.46), (0.49, 0.72), (0.75, 0.90))),
    "suv": (((0.06, 0.38), (0.42, 0.68), (0.72, 0.93)), ((0.06, 0.46), (0.50, 0.84))),
    "coupe": (((0.08, 0.76),), ((0.08, 0.60), (0.64, 0.80))),
    "pickup": (((0.09, 0.50), (0.55, 0.92)), ((0.09, 0.86),)),
    "wagon": (((0.06, 0.36), (0.39, 0.66), (0.69, 0.92)), ((0.06, 0.40), (0.43, 0.74), (0.77, 0.93))),
    "van": (((0.06, 0.30),), ((0.06, 0.30), (0.34, 0.62), (0.66, 0.93)), ((0.06, 0.34), (0.38, 0.64))),
}
"""Per style the possible sets of side windows, as fractions of the cabin's length."""


@dataclass(frozen=True)
class CarSpec:
    """One car. Lengths in metres, y from the ground, z from the middle with the front at -length/2."""

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
    lamp_slant: float
    roof_arc: float
    screen_bow: float
    bands: tuple[float, float, float, float, float]
    windows: tuple[Range, ...]
    bed_floor: float | None

    @property
    def four_doors(self) -> bool:
        """Whether there are rear doors."""
        return self.style != "coupe" and len(self.windows) > 1 and not (self.style == "hatchback" and len(self.windows) < 3)

    @property
    def front(self) -> float:
        """z of the foremost point."""
        return -self.length / 2

    @property
    def rear(self) -> float:
        """z of the rearmost point."""
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
    cowl = draw.within(r.cowl)
    roof_rear = draw.within(r.roof_rear)
    glass_rear = draw.within(r.glass_rear) + (roof_rear if style == "pickup" else 0.0)
    wheel = draw.within(r.wheel)
    belt = draw.within(r.belt) * height
    tail = belt + draw.uniform(-0.06, 0.01) if style in {"suv", "hatchback", "wagon", "van"} else draw.within(r.tail) * height
    arch = wheel * draw.uniform(1.10, 1.20)
    lower = draw.uniform(0.26, 0.34)
    grille = draw.uniform(0.40, 0.56)
    return CarSpec(
        style=style,
        length=length,
        width=width,
        height=height,
        sill=draw.within(r.sill),
        wheel_radius=wheel,
        tyre_width=draw.uniform(0.20, 0.25) + (0.04 if style in {"coupe", "pickup"} else 0.0),
        axles=((draw.within(r.axle_front) - 0.5) * length, (draw.within(r.axle_rear) - 0.5) * length),
        arch=arch,
        flare=draw.uniform(0.0, 0.05),
        cowl=(cowl - 0.5) * length,
        roof_front=(cowl + draw.within(r.screen) - 0.5) * length,
        roof_rear=(roof_rear - 0.5) * length,
        glass_rear=(glass_rear - 0.5) * length,
        belt=belt,
        nose=draw.within(r.nose) * height,
        tail=tail,
        base_half=draw.within(r.base) * width / 2,
        roof_half=draw.within(r.roof) * width / 2,
        corner=draw.uniform(0.10, 0.26),
        bow=draw.uniform(0.05, 0.20),
        wedge=draw.uniform(-0.02, 0.05),
        rake=draw.uniform(0.06, 0.20),
        lamp_slant=draw.uniform(-0.02, 0.07),
        roof_arc=draw.uniform(0.02, 0.07),
        screen_bow=draw.uniform(0.06, 0.16),
        bands=(draw.uniform(0.09, 0.14), lower, grille, draw.uniform(0.62, 0.70), draw.uniform(0.78, 0.86)),
        windows=draw.choice(WINDOWS[style]),
        bed_floor=wheel + arch + draw.uniform(0.03, 0.06) if style == "pickup" else None,
    )
