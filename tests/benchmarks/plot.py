"""A plain line plot as PNG, drawn with Pillow: for benchmarks, so that they need no plotting package."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH_PX, HEIGHT_PX = 900, 560
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 40, 60
# Okabe and Ito's palette: told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C00")

Curves = Mapping[str, Sequence[tuple[float, float]]]


def save_plot(path: Path, curves: Curves, x_label: str, y_label: str) -> None:
    """Draw curves of (x, y) points, x from 0, with one legend entry each at the right.

    Raises:
        ValueError: If there is no point.
    """
    points = [point for curve in curves.values() for point in curve]
    if not points:
        raise ValueError("there is nothing to plot")
    x_ticks = ticks(0.0, max(x for x, _ in points))
    y_ticks = ticks(min(y for _, y in points), max(y for _, y in points))
    image = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return (
            LEFT + across * (WIDTH_PX - LEFT - RIGHT),
            HEIGHT_PX - BOTTOM - up * (HEIGHT_PX - TOP - BOTTOM),
        )

    for y in y_ticks:
        draw.line([place(x_ticks[0], y), place(x_ticks[-1], y)], fill="#dddddd")
        draw.text((LEFT - 8, place(0, y)[1]), f"{y:g}", fill="#333333", font=font, anchor="rm")
    for x in x_ticks:
        draw.text((place(x, 0)[0], HEIGHT_PX - BOTTOM + 8), f"{x:g}", fill="#333333", font=font, anchor="mt")
    draw.text((place(x_ticks[-1] / 2, 0)[0], HEIGHT_PX - 12), x_label, fill="black", font=font, anchor="mb")
    draw.text((8, 10), y_label, fill="black", font=font)
    for index, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        placed = [place(*point) for point in curve]
        draw.line(placed, fill=colour, width=2)
        for x, y in placed:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        entry = (WIDTH_PX - RIGHT + 16, TOP + 22 * index + 10)
        draw.line([entry, (entry[0] + 20, entry[1])], fill=colour, width=3)
        draw.text((entry[0] + 28, entry[1]), name, fill="black", font=font, anchor="lm")
    image.save(path)


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about so many."""
    span = max(high - low, 1e-6)
    step = 10 ** math.floor(math.log10(span / about))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= span / about)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * i, 10) for i in range(first, max(last, first + 1) + 1)]
