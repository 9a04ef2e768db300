"""Colours: the palettes that classes draw from, and small changes to a colour."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from render_jobs.sources.procedural.draw import Draw
from render_jobs.sources.procedural.mesh import Rgb

CAR_BRIGHT: tuple[Rgb, ...] = (
    (0.86, 0.12, 0.12), (0.72, 0.07, 0.13), (0.96, 0.42, 0.12), (0.98, 0.66, 0.13), (0.97, 0.84, 0.24),
    (0.68, 0.82, 0.22), (0.26, 0.64, 0.30), (0.12, 0.44, 0.33), (0.14, 0.62, 0.58), (0.38, 0.77, 0.86),
    (0.20, 0.57, 0.90), (0.14, 0.36, 0.78), (0.17, 0.24, 0.52), (0.48, 0.30, 0.68), (0.80, 0.26, 0.54),
    (0.95, 0.62, 0.64), (0.62, 0.34, 0.18), (0.60, 0.86, 0.76), (0.70, 0.82, 0.94), (0.92, 0.75, 0.55),
)  # fmt: skip
CAR_QUIET: tuple[Rgb, ...] = (
    (0.95, 0.95, 0.94), (0.84, 0.86, 0.88), (0.92, 0.88, 0.78), (0.72, 0.75, 0.78), (0.46, 0.49, 0.53),
    (0.20, 0.21, 0.23), (0.75, 0.71, 0.62), (0.60, 0.69, 0.76), (0.52, 0.58, 0.50),
)  # fmt: skip


def varied(draw: Draw, colour: Rgb, amount: float = 1.0) -> Rgb:
    """The colour with hue, saturation and brightness moved a little at random; `amount` 1 is about ±4%."""
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)
    hue = (hue + amount * draw.uniform(-0.015, 0.015)) % 1.0
    saturation = min(1.0, max(0.0, saturation * (1 + amount * draw.uniform(-0.1, 0.1))))
    value = min(0.97, max(0.03, value * (1 + amount * draw.uniform(-0.08, 0.08))))
    return colorsys.hsv_to_rgb(hue, saturation, value)


def from_palette(draw: Draw, palette: Sequence[Rgb], amount: float = 1.0) -> Rgb:
    """One colour of the palette, varied."""
    return varied(draw, draw.choice(palette), amount)


def grey(value: float) -> Rgb:
    """A neutral colour."""
    return value, value, value


def shaded(colour: Rgb, factor: float) -> Rgb:
    """The colour made darker (factor below 1) or brighter, clipped to 0.97."""
    red, green, blue = (min(0.97, channel * factor) for channel in colour)
    return red, green, blue


def mixed(first: Rgb, second: Rgb, share: float) -> Rgb:
    """A blend; `share` is that of the second colour."""
    red, green, blue = (a + share * (b - a) for a, b in zip(first, second, strict=True))
    return red, green, blue


FABRIC: tuple[Rgb, ...] = (
    (0.20, 0.34, 0.52), (0.12, 0.20, 0.34), (0.16, 0.42, 0.42), (0.24, 0.40, 0.28), (0.46, 0.50, 0.30),
    (0.76, 0.58, 0.20), (0.78, 0.40, 0.20), (0.64, 0.22, 0.18), (0.46, 0.13, 0.18), (0.74, 0.46, 0.46),
    (0.50, 0.32, 0.48), (0.62, 0.56, 0.70), (0.56, 0.66, 0.74), (0.60, 0.70, 0.60), (0.86, 0.82, 0.74),
    (0.74, 0.68, 0.60), (0.60, 0.54, 0.48), (0.62, 0.63, 0.65), (0.40, 0.42, 0.45), (0.22, 0.23, 0.26),
    (0.90, 0.88, 0.84), (0.85, 0.72, 0.62), (0.30, 0.62, 0.66), (0.88, 0.50, 0.42),
)  # fmt: skip
LEATHER: tuple[Rgb, ...] = (
    (0.45, 0.24, 0.13), (0.62, 0.36, 0.18), (0.28, 0.15, 0.10), (0.12, 0.11, 0.11), (0.80, 0.72, 0.60),
    (0.45, 0.10, 0.10), (0.15, 0.24, 0.20),
)  # fmt: skip
WOOD: tuple[Rgb, ...] = (
    (0.82, 0.66, 0.46), (0.74, 0.54, 0.34), (0.62, 0.41, 0.24), (0.52, 0.32, 0.18), (0.40, 0.24, 0.14),
    (0.28, 0.17, 0.11), (0.58, 0.30, 0.17), (0.86, 0.76, 0.60), (0.46, 0.36, 0.28),
)  # fmt: skip
METAL: tuple[Rgb, ...] = ((0.76, 0.77, 0.78), (0.14, 0.14, 0.15), (0.78, 0.64, 0.36), (0.55, 0.40, 0.28))
LACQUER: tuple[Rgb, ...] = (
    (0.93, 0.92, 0.89), (0.86, 0.86, 0.84), (0.22, 0.34, 0.46), (0.14, 0.22, 0.32), (0.30, 0.46, 0.42),
    (0.48, 0.58, 0.48), (0.20, 0.36, 0.28), (0.86, 0.66, 0.26), (0.80, 0.42, 0.26), (0.66, 0.24, 0.20),
    (0.86, 0.68, 0.64), (0.56, 0.68, 0.74), (0.36, 0.38, 0.42), (0.17, 0.17, 0.19), (0.70, 0.66, 0.58),
    (0.46, 0.34, 0.48),
)  # fmt: skip
