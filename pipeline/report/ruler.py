"""The decibel ruler: objects from the worst to the best fit and the means beside them, on one scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.report.charts import Scale, line, svg, text
from pipeline.report.images import data_uri
from pipeline.report.markup import Html, el, join
from pipeline.report.records import Exhibit
from pipeline.report.wording import fixed

WIDTHS_PX: Final = {"ruler-wide": 1260, "ruler-middle": 780, "ruler-narrow": 350}
_NARROW_PX: Final = 600
_MARKS: Final = (
    ("all", "white_psnr_db", "all white", "ref"),
    ("all", "nearest_view_psnr_db", "nearest training view", "ref"),
    ("regime1", "psnr_db", "regime 1", "r1"),
    ("regime2", "psnr_db", "regime 2", "r2"),
    ("all", "ceiling_psnr_db", "autoencoder alone", "ceiling"),
)
_CHARACTER_PX: Final = 7.0  # of 12 px text in the widest of the faces, DejaVu Sans


def rulers(exhibits: Sequence[Exhibit], summary: Mapping[str, Any]) -> Html:
    """The ruler for wide, middling and narrow screens, of which the style sheet shows one."""
    drawn = {css_class: ruler(exhibits, summary, width) for css_class, width in WIDTHS_PX.items()}
    return join(*(el("div", chart, class_=css_class) for css_class, chart in drawn.items() if chart))


def ruler(exhibits: Sequence[Exhibit], summary: Mapping[str, Any], width: int) -> Html:
    """Draw the ruler.

    Args:
        exhibits: Objects to hang above it, in ascending PSNR; a narrow ruler shows every second one.
        summary: As `pipeline.evaluate.summarise` makes it.
        width: In CSS pixels.

    Returns:
        The SVG; nothing where there is no figure to mark.
    """
    marks = [
        (value, label, css)
        for group, metric, label, css in _MARKS
        if (value := summary[group][metric]["mean"]) is not None
    ]
    if not marks:
        return Html("")
    shown = list(exhibits) if width > _NARROW_PX else list(exhibits[::2])
    values = [value for value, _, _ in marks] + [exhibit.record.psnr_db for exhibit in shown]
    scale = Scale(math.floor(min(values)) - 0.6, math.ceil(max(values)) + 0.6, 6, width - 6)
    tiles, base = _tiles(shown, scale, width)
    flags, labels, depth = _labels(marks, scale, base)
    named = ", ".join(f"{label} {fixed(value, 2)} dB" for value, label, _ in marks)
    parts = (tiles, flags, _scale(scale, base), labels)
    return svg(width, base + depth, f"Decibel ruler. {named}.", *parts, role="group")


def _tiles(shown: Sequence[Exhibit], scale: Scale, width: int) -> tuple[Html, float]:
    """Pictures in a row, each with a line down to its place; returns the ruler's height on the page, too."""
    if not shown:
        return Html(""), 30.0
    gap = 12 if width > _NARROW_PX else 6
    side = min(128.0, (width - gap * (len(shown) - 1)) / len(shown))
    step = (width - side) / max(len(shown) - 1, 1)
    drop = 70 if width > _NARROW_PX else 56
    base = side + 22 + drop
    parts = []
    for index, exhibit in enumerate(shown):
        left = index * step
        middle, place = left + side / 2, scale(exhibit.record.psnr_db)
        top, bend = side + 22, side + 22 + drop / 2
        path = (
            f"M{middle:.1f} {top:.1f}C{middle:.1f} {bend:.1f} {place:.1f} {bend:.1f} {place:.1f} {base:.1f}"
        )
        name = f"{exhibit.record.object_id}, {fixed(exhibit.record.psnr_db, 2)} dB"
        parts.append(
            el(
                "g",
                el("title", name),
                el("rect", x=left, y=0, width=side, height=side, rx=3, class_="tile"),
                _picture(data_uri(exhibit.truth), left, side, "truth"),
                _picture(data_uri(exhibit.render), left, side, "render"),
                text(middle, side + 15, fixed(exhibit.record.psnr_db, 1), "value", "middle"),
                el("path", d=path, class_=f"leader r{exhibit.record.regime}"),
                class_="exhibit",
                tabindex="0",
            )
        )
    return join(*parts), base


def _picture(uri: str, left: float, side: float, css_class: str) -> Html:
    return el("image", href=uri, x=left, y=0, width=side, height=side, class_=css_class)


def _scale(scale: Scale, base: float) -> Html:
    """Fine ticks of 0.2 dB where they are at least 3 px apart, else of 0.5 dB; numbers every 1, 2 or 5 dB."""
    px_per_db = (scale.end_px - scale.start_px) / (scale.high - scale.low)
    fine = 5 if px_per_db / 5 >= 3 else 2
    numbered = next(step for step in (1, 2, 5, 10) if step * px_per_db >= 34 or step == 10)
    parts = [line(scale.start_px, base, scale.end_px, base, "edge")]
    for index in range(math.ceil(scale.low * fine), math.floor(scale.high * fine) + 1):
        value, is_whole = index / fine, index % fine == 0
        x, length = scale(value), 5.0
        if is_whole:
            length = 14.0 if value % numbered == 0 else 9.0
        parts.append(line(x, base, x, base + length, "tick-line"))
        if is_whole and value % numbered == 0 and x < scale.end_px - 34:
            parts.append(text(x, base + 27, f"{value:g}", "tick", "middle"))
    return join(*parts, text(scale.end_px, base + 27, "dB", "label", "end"))


def _labels(marks: Sequence[tuple[float, str, str]], scale: Scale, base: float) -> tuple[Html, Html, float]:
    """Flag lines, flag texts, and the depth that they need: each on the first level where it has room.

    From right to left, so that a flag which must hang lower does so left of the text that it avoids.
    """
    taken: list[list[tuple[float, float]]] = []
    lines, texts = [], []
    for value, label, css in sorted(marks, reverse=True):
        content = f"{label} {fixed(value, 1)}"
        breadth = len(content) * _CHARACTER_PX + 14
        x = scale(value)
        leftwards = x + breadth > scale.end_px
        span = (x - breadth, x) if leftwards else (x, x + breadth)
        level = next((i for i, used in enumerate(taken) if _is_free(used, span)), len(taken))
        if level == len(taken):
            taken.append([])
        taken[level].append(span)
        y = base + 50 + level * 22
        lines.append(line(x, base - 4, x, base + 14, f"flag {css}"))
        lines.append(line(x, base + 32, x, y, f"flag {css}"))  # the numbers of the scale stay clear
        texts.append(el("circle", cx=x, cy=y, r=3.0, class_=f"dot {css}"))
        anchor, offset = ("end", -8) if leftwards else ("start", 8)
        texts.append(text(x + offset, y + 4, content, f"flag-text {css}", anchor))
    return join(*lines), join(*texts), 50 + 22 * len(taken)


def _is_free(used: Sequence[tuple[float, float]], span: tuple[float, float]) -> bool:
    return all(span[1] <= start or span[0] >= end for start, end in used)
