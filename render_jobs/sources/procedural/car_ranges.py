"""Tables of the cars' body styles: how common each is, its ranges of proportions, its side windows."""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[float, float]

STYLES: dict[str, float] = {
    "sedan": 0.18,
    "hatchback": 0.16,
    "suv": 0.15,
    "coupe": 0.12,
    "pickup": 0.08,
    "wagon": 0.07,
    "van": 0.06,
    "offroad": 0.05,
    "micro": 0.04,
    "roadster": 0.04,
    "truck": 0.03,
    "bus": 0.02,
}
"""Style → probability (these sum to 1)."""


@dataclass(frozen=True)
class StyleRanges:
    """Ranges of one style; the meaning of the fields is that of `CarSpec`.

    `length`, `width`, `height`, `sill`, `wheel` in metres. `axle_front`, `axle_rear`, `cowl`, `roof_rear` and
    `glass_rear` are fractions of the length from the front; `screen` is one from the cowl, and so is the
    `glass_rear` of a pickup or truck from the end of its roof. `belt`, `nose` and `tail` are fractions of the
    height, `base` and `roof` of the width.
    """

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
        roof_rear=(0.65, 0.71), glass_rear=(0.80, 0.86), belt=(0.61, 0.66), nose=(0.47, 0.53),
        tail=(0.62, 0.68), base=(0.87, 0.90), roof=(0.66, 0.74),
    ),
    "hatchback": StyleRanges(
        length=(3.6, 4.3), width=(1.66, 1.82), height=(1.42, 1.60), sill=(0.19, 0.26), wheel=(0.31, 0.355),
        axle_front=(0.185, 0.205), axle_rear=(0.80, 0.825), cowl=(0.22, 0.28), screen=(0.12, 0.17),
        roof_rear=(0.84, 0.90), glass_rear=(0.945, 0.975), belt=(0.58, 0.64), nose=(0.46, 0.53),
        tail=(0.58, 0.64), base=(0.87, 0.90), roof=(0.68, 0.76),
    ),
    "suv": StyleRanges(
        length=(4.2, 5.0), width=(1.82, 2.0), height=(1.62, 1.84), sill=(0.27, 0.36), wheel=(0.37, 0.43),
        axle_front=(0.18, 0.205), axle_rear=(0.785, 0.815), cowl=(0.25, 0.30), screen=(0.08, 0.13),
        roof_rear=(0.88, 0.93), glass_rear=(0.955, 0.98), belt=(0.60, 0.65), nose=(0.52, 0.60),
        tail=(0.60, 0.65), base=(0.87, 0.91), roof=(0.70, 0.80),
    ),
    "offroad": StyleRanges(
        length=(3.7, 4.6), width=(1.78, 1.94), height=(1.78, 2.0), sill=(0.36, 0.46), wheel=(0.40, 0.46),
        axle_front=(0.18, 0.20), axle_rear=(0.79, 0.815), cowl=(0.27, 0.32), screen=(0.02, 0.05),
        roof_rear=(0.95, 0.97), glass_rear=(0.975, 0.985), belt=(0.60, 0.64), nose=(0.57, 0.61),
        tail=(0.60, 0.63), base=(0.88, 0.91), roof=(0.80, 0.86),
    ),
    "coupe": StyleRanges(
        length=(4.1, 4.75), width=(1.82, 2.0), height=(1.18, 1.34), sill=(0.13, 0.18), wheel=(0.335, 0.37),
        axle_front=(0.19, 0.215), axle_rear=(0.78, 0.81), cowl=(0.32, 0.40), screen=(0.14, 0.18),
        roof_rear=(0.62, 0.70), glass_rear=(0.84, 0.93), belt=(0.63, 0.68), nose=(0.44, 0.52),
        tail=(0.64, 0.72), base=(0.83, 0.88), roof=(0.60, 0.68),
    ),
    "roadster": StyleRanges(
        length=(3.8, 4.5), width=(1.70, 1.90), height=(1.20, 1.32), sill=(0.14, 0.19), wheel=(0.32, 0.36),
        axle_front=(0.185, 0.21), axle_rear=(0.785, 0.81), cowl=(0.34, 0.40), screen=(0.12, 0.16),
        roof_rear=(0.62, 0.68), glass_rear=(0.68, 0.74), belt=(0.64, 0.69), nose=(0.46, 0.54),
        tail=(0.62, 0.69), base=(0.80, 0.85), roof=(0.68, 0.74),
    ),
    "micro": StyleRanges(
        length=(2.8, 3.45), width=(1.52, 1.66), height=(1.46, 1.60), sill=(0.18, 0.23), wheel=(0.27, 0.31),
        axle_front=(0.19, 0.21), axle_rear=(0.80, 0.83), cowl=(0.16, 0.24), screen=(0.15, 0.21),
        roof_rear=(0.80, 0.88), glass_rear=(0.95, 0.975), belt=(0.56, 0.61), nose=(0.44, 0.50),
        tail=(0.56, 0.60), base=(0.87, 0.90), roof=(0.66, 0.74),
    ),
    "pickup": StyleRanges(
        length=(4.9, 5.6), width=(1.86, 2.05), height=(1.72, 1.92), sill=(0.32, 0.44), wheel=(0.38, 0.44),
        axle_front=(0.17, 0.195), axle_rear=(0.76, 0.79), cowl=(0.24, 0.28), screen=(0.07, 0.10),
        roof_rear=(0.47, 0.60), glass_rear=(0.02, 0.035), belt=(0.60, 0.65), nose=(0.55, 0.61),
        tail=(0.60, 0.66), base=(0.87, 0.90), roof=(0.70, 0.78),
    ),
    "wagon": StyleRanges(
        length=(4.5, 5.0), width=(1.78, 1.90), height=(1.42, 1.54), sill=(0.18, 0.23), wheel=(0.335, 0.375),
        axle_front=(0.175, 0.20), axle_rear=(0.775, 0.80), cowl=(0.26, 0.30), screen=(0.12, 0.15),
        roof_rear=(0.86, 0.91), glass_rear=(0.95, 0.975), belt=(0.60, 0.65), nose=(0.47, 0.53),
        tail=(0.60, 0.65), base=(0.87, 0.90), roof=(0.68, 0.74),
    ),
    "van": StyleRanges(
        length=(4.3, 5.3), width=(1.80, 2.02), height=(1.85, 2.25), sill=(0.22, 0.30), wheel=(0.34, 0.39),
        axle_front=(0.17, 0.20), axle_rear=(0.77, 0.81), cowl=(0.10, 0.17), screen=(0.10, 0.15),
        roof_rear=(0.94, 0.965), glass_rear=(0.975, 0.985), belt=(0.49, 0.55), nose=(0.37, 0.44),
        tail=(0.49, 0.54), base=(0.90, 0.93), roof=(0.76, 0.86),
    ),
    "truck": StyleRanges(
        length=(4.9, 6.0), width=(1.95, 2.15), height=(2.0, 2.2), sill=(0.34, 0.42), wheel=(0.40, 0.45),
        axle_front=(0.15, 0.17), axle_rear=(0.74, 0.78), cowl=(0.05, 0.12), screen=(0.03, 0.06),
        roof_rear=(0.31, 0.36), glass_rear=(0.005, 0.01), belt=(0.52, 0.56), nose=(0.47, 0.50),
        tail=(0.50, 0.53), base=(0.90, 0.93), roof=(0.80, 0.86),
    ),
    "bus": StyleRanges(
        length=(6.4, 7.6), width=(2.1, 2.3), height=(2.5, 2.8), sill=(0.28, 0.34), wheel=(0.44, 0.50),
        axle_front=(0.165, 0.19), axle_rear=(0.74, 0.78), cowl=(0.02, 0.035), screen=(0.02, 0.035),
        roof_rear=(0.975, 0.985), glass_rear=(0.985, 0.99), belt=(0.46, 0.50), nose=(0.42, 0.45),
        tail=(0.46, 0.50), base=(0.92, 0.94), roof=(0.82, 0.88),
    ),
}  # fmt: skip

WINDOWS: dict[str, tuple[tuple[Range, ...], ...]] = {
    "sedan": (((0.06, 0.47), (0.51, 0.84)), ((0.06, 0.45), (0.48, 0.74), (0.77, 0.87))),
    "hatchback": (
        ((0.06, 0.50), (0.54, 0.80)),
        ((0.06, 0.56), (0.60, 0.86)),
        ((0.06, 0.46), (0.49, 0.72), (0.75, 0.90)),
    ),
    "suv": (((0.06, 0.38), (0.42, 0.68), (0.72, 0.93)), ((0.06, 0.46), (0.50, 0.84))),
    "offroad": (((0.05, 0.38), (0.43, 0.70), (0.75, 0.93)), ((0.05, 0.46), (0.53, 0.92))),
    "coupe": (((0.08, 0.76),), ((0.08, 0.60), (0.64, 0.80))),
    "roadster": (((0.08, 0.92),),),
    "micro": (((0.06, 0.54), (0.58, 0.86)), ((0.06, 0.62), (0.67, 0.84))),
    "pickup": (((0.09, 0.50), (0.55, 0.92)), ((0.09, 0.86),)),
    "wagon": (((0.06, 0.36), (0.39, 0.66), (0.69, 0.92)), ((0.06, 0.40), (0.43, 0.74), (0.77, 0.93))),
    "van": (
        ((0.06, 0.30),),
        ((0.06, 0.30), (0.34, 0.62), (0.66, 0.93)),
        ((0.06, 0.34), (0.38, 0.64)),
    ),
    "truck": (((0.10, 0.86),),),
}
"""Style → the possible sets of side windows, as fractions of the cabin's length; buses are drawn apart."""
