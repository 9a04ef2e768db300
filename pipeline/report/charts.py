"""Charts as inline SVG, coloured by CSS classes so that they follow the page's light and dark scheme.

Text in an SVG scales with it, so a chart takes its width in CSS pixels, and `both_widths` draws it twice: for
wide and for narrow screens, of which the style sheet shows one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.report.markup import Html, el, join
from pipeline.report.records import ObjectRecord
from pipeline.report.wording import MISSING, count, fixed

WIDE_PX: Final = 860
NARROW_PX: Final = 350
_SCATTER_LIMIT: Final = 1500


@dataclass(frozen=True)
class Scale:
    """A linear map from values to pixels."""

    low: float
    high: float
    start_px: float
    end_px: float

    def __call__(self, value: float) -> float:
        """Pixel of a value."""
        return self.start_px + (value - self.low) / (self.high - self.low) * (self.end_px - self.start_px)


@dataclass(frozen=True)
class Ridge:
    """One row of a ridge chart: a quantity with one value per object."""

    label: str
    css_class: str
    values: NDArray[np.float64]


def both_widths(draw: Callable[[int], Html]) -> Html:
    """The chart for wide and for narrow screens."""
    return join(
        el("div", draw(WIDE_PX), class_="wide-only"), el("div", draw(NARROW_PX), class_="narrow-only")
    )


def nice_ticks(low: float, high: float, n_wanted: int) -> list[float]:
    """About `n_wanted` round values inside [low, high], in steps of 1, 2 or 5 times a power of ten."""
    wanted = max(high - low, 1e-12) / max(n_wanted, 1)
    power = 10 ** math.floor(math.log10(wanted))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / wanted)))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Labels of the ticks of one axis: all with the decimals that the most precise one needs."""
    decimals = max((len(f"{tick:g}".partition(".")[2]) for tick in ticks), default=0)
    return [fixed(tick, decimals) for tick in ticks]


def svg(width: float, height: float, label: str, *children: Html, role: str = "img") -> Html:
    """An SVG of a size in CSS pixels, with its description for those who do not see it."""
    box = f"0 0 {width:g} {height:g}"
    return el("svg", *children, viewBox=box, role=role, aria_label=label, class_="chart")


def line(x1: float, y1: float, x2: float, y2: float, css_class: str) -> Html:
    """A straight line."""
    return el("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=css_class)


def text(x: float, y: float, content: str, css_class: str = "", anchor: str = "start") -> Html:
    """A text; `anchor` is start, middle or end."""
    return el("text", content, x=x, y=y, class_=css_class or None, text_anchor=anchor)


def ridges(rows: Sequence[Ridge], unit: str, decimals: int, width: int) -> Html:
    """Histograms of several quantities over one axis, one row each, with their means.

    Args:
        rows: The quantities, top row first; values that are not finite are left out.
        unit: Of the axis.
        decimals: Of the means.
        width: Of the chart in CSS pixels.

    Returns:
        The chart. All rows have the same bins and the same height per object.
    """
    finite = [row.values[np.isfinite(row.values)] for row in rows]
    everything = np.concatenate(finite) if finite else np.empty(0)
    if not len(everything):
        return el("p", "No figures yet.", class_="empty")
    wide = width > 500
    row_px, gutter_px, top_px = (62, 158, 6) if wide else (70, 0, 20)
    low, high = padded(everything)
    scale = Scale(low, high, gutter_px, width - (66 if wide else 6))
    edges = np.linspace(low, high, (57 if wide else 37))
    counts = [np.histogram(values, edges)[0] for values in finite]
    tallest = max(1, *(int(c.max(initial=0)) for c in counts))
    unit_px = min(12.0, (row_px - (18 if wide else 30)) / tallest)
    height = top_px + row_px * len(rows) + 36
    parts = _axis(scale, top_px, height - 34, unit, 8 if wide else 5)
    for index, (row, values, bins) in enumerate(zip(rows, finite, counts, strict=True)):
        base = top_px + row_px * (index + 1) - 2
        parts.append(line(scale.start_px, base, scale.end_px, base, "axis"))
        parts.append(_bars(scale, edges, bins, base, unit_px, row.css_class))
        parts.append(_ridge_label(row, values, base, decimals, scale, wide))
    described = "; ".join(
        f"{r.label}: mean {fixed(v.mean() if len(v) else None, decimals)}"
        for r, v in zip(rows, finite, strict=True)
    )
    return svg(width, height, f"Distribution over objects. {described} {unit}.", *parts)


def scatter(objects: Sequence[ObjectRecord], width: int) -> Html:
    """Every object's PSNR against its autoencoder ceiling, with the line where both are equal."""
    shown = [o for o in objects if math.isfinite(o.psnr_db + o.figures.get("ceiling_psnr_db", math.nan))]
    if not shown:
        return el("p", "No figures yet.", class_="empty")
    shown = shown[:: -(-len(shown) // _SCATTER_LIMIT)]
    values = np.array([(o.figures["ceiling_psnr_db"], o.psnr_db) for o in shown])
    low, high = padded(values.reshape(-1))
    height = width * 0.86
    across, up = Scale(low, high, 34, width - 8), Scale(low, high, height - 40, 10)
    ticks = nice_ticks(low, high, 5)
    parts = [line(across(t), up(low), across(t), up(high), "grid") for t in ticks]
    parts += [line(across(low), up(t), across(high), up(t), "grid") for t in ticks]
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        parts.append(text(across(tick), up(low) + 17, label, "tick", "middle"))
        parts.append(text(26, up(tick) + 4, label, "tick", "end"))
    parts.append(line(across(low), up(low), across(high), up(high), "diagonal"))
    parts.append(text(across(high), height - 4, "ceiling, dB", "label", "end"))
    parts.append(text(across(low) + 6, up(high) + 12, "fit, dB", "label"))
    for record, (ceiling, psnr) in zip(shown, values.tolist(), strict=True):
        tip = el("title", f"{record.object_id}: {fixed(psnr, 2)} dB, ceiling {fixed(ceiling, 2)} dB")
        parts.append(
            el("circle", tip, cx=across(ceiling), cy=up(psnr), r=3.2, class_=f"dot r{record.regime}")
        )
    label = f"PSNR of {count(len(shown))} objects against the autoencoder's ceiling on the same views, in dB."
    return svg(width, height, label, *parts)


def padded(values: NDArray[np.float64], fraction: float = 0.03) -> tuple[float, float]:
    """Lowest and highest value with a margin, as a share of what lies between them."""
    low, high = float(values.min()), float(values.max())
    margin = max((high - low) * fraction, 1e-3 * max(abs(high), 1e-9))
    return low - margin, high + margin


def _axis(scale: Scale, top: float, base: float, unit: str, n_ticks: int) -> list[Html]:
    ticks = nice_ticks(scale.low, scale.high, n_ticks)
    parts = [line(scale(tick), top, scale(tick), base, "grid") for tick in ticks]
    labels = zip(ticks, tick_labels(ticks), strict=True)
    parts += [text(scale(tick), base + 17, label, "tick", "middle") for tick, label in labels]
    if scale.start_px > 0:
        parts.append(text(0, base + 17, unit, "label"))
    else:
        parts.append(text(scale.end_px, base + 31, unit, "label", "end"))
    return parts


def _bars(
    scale: Scale,
    edges: NDArray[np.float64],
    counts: NDArray[np.int64],
    base: float,
    unit_px: float,
    css_class: str,
) -> Html:
    """Columns of unit squares while a square is tall enough to be seen, whole bars otherwise."""
    bars = []
    step = 1 if unit_px >= 3 else None
    for left, right, number in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True):
        x, breadth = scale(left) + 0.5, scale(right) - scale(left) - 1
        for level in range(0, number, step or max(number, 1)):
            units = step or number
            gap = 0.8 if step else 0.0
            top = base - (level + units) * unit_px
            bars.append(el("rect", x=x, y=top + gap, width=breadth, height=units * unit_px - gap))
    return el("g", *bars, class_=f"bars {css_class}")


def _ridge_label(
    row: Ridge, values: NDArray[np.float64], base: float, decimals: int, scale: Scale, wide: bool
) -> Html:
    if not len(values):
        return text(0, base - 6, f"{row.label} {MISSING}", "label")
    mean = float(values.mean())
    x = scale(mean)
    marker = el("path", d=f"M{x:.1f} {base + 1.5:.1f}l-4 6.5h8z", class_=f"marker {row.css_class}")
    figure = fixed(mean, decimals)
    if wide:
        return join(
            marker, text(0, base - 3, row.label, "label"), text(860, base - 3, figure, "value", "end")
        )
    top = base - 46
    return join(marker, text(0, top, row.label, "label"), text(scale.end_px, top, figure, "value", "end"))
