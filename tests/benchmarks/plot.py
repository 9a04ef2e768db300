"""A plain line plot as PNG, drawn with Pillow: for benchmarks, so that they need no plotting package."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SCALE = 2  # pixels per unit of everything below: sharp on dense screens
WIDTH, HEIGHT = 900, 560
LEFT, RIGHT, TOP, BOTTOM = 70, 200, 40, 60
# Okabe and Ito's palette: told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C00")
LEVEL_COLOURS = ("#444444", "#999999")

Curves = Mapping[str, Sequence[tuple[float, float]]]


def save_plot(
    path: Path,
    curves: Curves,
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    levels: Mapping[str, float] | None = None,
) -> None:
    """Draw curves of (x, y) points with one legend entry each at the right.

    Args:
        path: PNG to write.
        curves: Points by name.
        x_label: Below the axis, with the unit.
        y_label: Above the axis, with the unit.
        log_x: A logarithmic x axis over the points; otherwise x starts from 0.
        levels: Dashed horizontal lines by name.

    Raises:
        ValueError: If there is no point, or one that a logarithmic axis does not have.
    """
    levels = levels or {}
    points = [point for curve in curves.values() for point in curve]
    if not points:
        raise ValueError("there is nothing to plot")
    xs, ys = [x for x, _ in points], [*(y for _, y in points), *levels.values()]
    if log_x and min(xs) <= 0:
        raise ValueError(f"a logarithmic axis has no {min(xs)}")
    x_ticks = log_ticks(min(xs), max(xs)) if log_x else ticks(0.0, max(xs))
    y_ticks = ticks(min(ys), max(ys))
    image = Image.new("RGB", (SCALE * WIDTH, SCALE * HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14 * SCALE)
    along = math.log if log_x else float

    def place(x: float, y: float) -> tuple[float, float]:
        across = (along(x) - along(x_ticks[0])) / (along(x_ticks[-1]) - along(x_ticks[0]))
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return (
            SCALE * (LEFT + across * (WIDTH - LEFT - RIGHT)),
            SCALE * (HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)),
        )

    def write(x: float, y: float, text: str, anchor: str, colour: str = "black") -> None:
        draw.text((x, y), text, fill=colour, font=font, anchor=anchor)

    left, right = x_ticks[0], x_ticks[-1]
    for y in y_ticks:
        draw.line([place(left, y), place(right, y)], fill="#dddddd", width=SCALE)
        write(place(left, y)[0] - 8 * SCALE, place(left, y)[1], f"{y:g}", "rm", "#333333")
    for x in x_ticks:
        if log_x:
            draw.line([place(x, y_ticks[0]), place(x, y_ticks[-1])], fill="#eeeeee", width=SCALE)
        write(place(x, y_ticks[0])[0], SCALE * (HEIGHT - BOTTOM + 8), f"{x:g}", "mt", "#333333")
    write(SCALE * (LEFT + WIDTH - RIGHT) / 2, SCALE * (HEIGHT - 12), x_label, "mb")
    write(SCALE * 8, SCALE * 10, y_label, "lt")
    for index, (name, y) in enumerate(levels.items()):
        colour = LEVEL_COLOURS[index % len(LEVEL_COLOURS)]
        _dashed(draw, place(left, y), place(right, y)[0], colour)
        entry = _entry(len(curves) + index)
        _dashed(draw, entry, entry[0] + 20 * SCALE, colour)
        write(entry[0] + 28 * SCALE, entry[1], name, "lm")
    for index, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        placed = [place(*point) for point in curve]
        draw.line(placed, fill=colour, width=2 * SCALE, joint="curve")
        for x, y in placed:
            draw.ellipse((x - 3 * SCALE, y - 3 * SCALE, x + 3 * SCALE, y + 3 * SCALE), fill=colour)
        entry = _entry(index)
        draw.line([entry, (entry[0] + 20 * SCALE, entry[1])], fill=colour, width=3 * SCALE)
        write(entry[0] + 28 * SCALE, entry[1], name, "lm")
    image.save(path)


def _entry(index: int) -> tuple[float, float]:
    """Where the legend's entry begins."""
    return SCALE * (WIDTH - RIGHT + 16), SCALE * (TOP + 22 * index + 10)


def _dashed(draw: ImageDraw.ImageDraw, start: tuple[float, float], end_x: float, colour: str) -> None:
    x, y = start
    while x < end_x:
        draw.line([(x, y), (min(x + 6 * SCALE, end_x), y)], fill=colour, width=2 * SCALE)
        x += 10 * SCALE


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about so many."""
    span = max(high - low, 1e-6)
    step = 10 ** math.floor(math.log10(span / about))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= span / about)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * i, 10) for i in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... from at most `low` to at least `high`."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 2)
    steps = [float(f"{factor}e{decade}") for decade in decades for factor in (1, 2, 5)]
    first = max(i for i, step in enumerate(steps) if step <= low)
    last = min(i for i, step in enumerate(steps) if step >= high)
    return steps[first : max(last, first + 1) + 1]
