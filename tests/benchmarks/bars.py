"""Panels of horizontal bars as PNG, drawn with Pillow: for benchmarks of several ways in several places."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tests.benchmarks.plot import COLOURS

SCALE = 2  # pixels per unit of everything below: sharp on dense screens
PANEL_WIDTH, BAR_HEIGHT, TITLE_HEIGHT = 330, 22, 44
NAMES_WIDTH, VALUE_WIDTH, MARGIN = 170, 60, 12


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: With the unit.
        values: Length of each bar by its name; all positive. Bars begin a bit below the smallest value, on a
            logarithmic scale.
    """

    title: str
    values: Mapping[str, float]


def save_bars(path: Path, rows: Sequence[Sequence[Panel]], names: Sequence[str]) -> None:
    """Draw panels in rows; every panel has the same names from top to bottom, bars may be missing.

    Args:
        path: PNG to write.
        rows: Panels from left to right, from top to bottom.
        names: Of the bars.
    """
    height = TITLE_HEIGHT + BAR_HEIGHT * len(names)
    size = (NAMES_WIDTH + PANEL_WIDTH * max(map(len, rows)), height * len(rows) + MARGIN)
    image = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), "white")
    draw = ImageDraw.Draw(image)
    for row, panels in enumerate(rows):
        for number, name in enumerate(names):
            y = row * height + TITLE_HEIGHT + BAR_HEIGHT * number + BAR_HEIGHT / 2
            _write(draw, (NAMES_WIDTH - MARGIN, y), name, "rm")
        for column, panel in enumerate(panels):
            _panel(draw, (NAMES_WIDTH + column * PANEL_WIDTH, row * height), panel, names)
    image.save(path)


def _panel(draw: ImageDraw.ImageDraw, at: tuple[float, float], panel: Panel, names: Sequence[str]) -> None:
    left, top = at
    _write(draw, (left, top + TITLE_HEIGHT - 14), panel.title, "lm")
    low = math.log(min(panel.values.values()) / 2)
    span = max(math.log(max(panel.values.values())) - low, 1e-6)
    for number, name in enumerate(names):
        if name not in panel.values:
            continue
        value = panel.values[name]
        width = (PANEL_WIDTH - VALUE_WIDTH - MARGIN) * (math.log(value) - low) / span
        y = top + TITLE_HEIGHT + BAR_HEIGHT * number
        box = [left, y + 3, left + width, y + BAR_HEIGHT - 3]
        draw.rectangle([SCALE * edge for edge in box], fill=COLOURS[number % len(COLOURS)])
        _write(
            draw,
            (left + width + 5, y + BAR_HEIGHT / 2),
            f"{value:.3g}" if value < 1000 else f"{value:.0f}",
            "lm",
        )


def _write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, anchor: str) -> None:
    font = ImageFont.load_default(13 * SCALE)
    draw.text((at[0] * SCALE, at[1] * SCALE), text, fill="black", font=font, anchor=anchor)
