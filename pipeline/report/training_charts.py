"""Charts of the training section: loss curves with their phases, and coefficients of two objects as bars."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.report.charts import Scale, line, nice_ticks, padded, svg, text, tick_labels
from pipeline.report.markup import Html, el
from pipeline.report.records import Curve
from pipeline.report.training_records import CoefficientPair

_LEFT_PX: Final = 44
_TOP_PX: Final = 22
_PHASES: Final = {"autoencoder": "autoencoder", "warmup": "warm-up", "joint": "joint"}

_SHORT: Final = {"autoencoder": "AE", "warmup": "warm"}


def phase_name(phase: str) -> str:
    """A phase as people write it."""
    return _PHASES.get(phase, phase)


def curve(data: Curve, width: int) -> Html:
    """One training curve: medians as a line, the scatter between batches as a band, phases as shades.

    The value axis is logarithmic where the values are positive and span a decade.
    """
    steps, values = np.asarray(data.steps, dtype=float), np.asarray(data.values, dtype=float)
    if len(values) < 2:
        return el("p", "Too few points for a curve.", class_="empty")
    everything = np.concatenate([values, data.low, data.high])
    logarithmic = bool(everything.min() > 0 and values.max() > 10 * values.min())
    height = width * 0.56
    low, high = padded(np.log10(everything) if logarithmic else everything, fraction=0.06)
    first, last = data.span
    across = Scale(first, max(last, first + 1), _LEFT_PX, width - 8)
    up = Scale(low, high, height - 30, _TOP_PX)

    def place(of: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([up(value) for value in (np.log10(of) if logarithmic else of)])

    parts = _phases(data, across, height - 30)
    parts += _value_axis(low, high, logarithmic, across, up)
    for tick in nice_ticks(across.low, across.high, 4):
        parts.append(text(across(tick), height - 12, _step_text(tick), "tick", "middle"))
    parts += _resumed(data, across, height - 30)
    at = np.array([across(step) for step in steps])
    pieces = _pieces(steps, data)
    if len(data.low):
        bottom, top = place(np.asarray(data.low)), place(np.asarray(data.high))
        band = "".join(f"{_line(at[p], top[p])}L{_line(at[p][::-1], bottom[p][::-1])[1:]}Z" for p in pieces)
        parts.append(el("path", d=band, class_="scatter-band"))
    middle = place(values)
    parts.append(el("path", d="".join(_line(at[p], middle[p]) for p in pieces), class_="trace"))
    parts.append(el("circle", cx=at[-1], cy=middle[-1], r=3.0, class_="dot r2"))
    ends = [f"{values[i]:.3g} at step {steps[i]:.0f}" for i in (0, -1)]
    return svg(width, height, f"{data.name}: from {ends[0]} to {ends[1]}.", *parts)


def coefficient_bars(pair: CoefficientPair, width: int) -> Html:
    """Coefficients of two objects side by side, base plane by base plane."""
    values = np.array(pair.coefficients, dtype=np.float64)
    n = values.shape[1]
    height = 250 if width > 500 else 200
    largest = float(np.abs(values).max()) or 1.0
    up = Scale(-largest * 1.06, largest * 1.06, height - 24, 6)
    across = Scale(0, n, 34, width - 2)
    ticks = nice_ticks(up.low, up.high, 5)
    parts = [line(across.start_px, up(t), across.end_px, up(t), "axis" if t == 0 else "grid") for t in ticks]
    parts += [
        text(28, up(tick) + 4, label, "tick", "end")
        for tick, label in zip(ticks, tick_labels(ticks), strict=True)
    ]
    slot = across(1) - across(0)
    breadth = min(slot * 0.38, 22.0)
    every = math.ceil(22 / slot)  # a label takes 22 px
    for k in range(n):
        centre = across(k + 0.5)
        for which, css_class in enumerate(("first", "second")):
            value = float(values[which, k])
            top, left = min(up(value), up(0)), centre - breadth + which * breadth
            tip = el("title", f"{pair.ids[which]}: coefficient {k + 1} is {value:.3g}")
            size = max(abs(up(value) - up(0)), 0.5)
            parts.append(
                el("rect", tip, x=left, y=top, width=max(breadth - 0.8, 0.6), height=size, class_=css_class)
            )
        if k % every == 0:
            parts.append(text(centre, height - 6, str(k + 1), "tick", "middle"))
    named = " and ".join(pair.ids)
    return svg(
        width, height, f"Coefficients of {named}, one pair of bars for each of {n} base planes.", *parts
    )


def _phases(data: Curve, across: Scale, base: float) -> list[Html]:
    """A shade for every phase, and its name above where it has room."""
    if len(data.phases) < 2:
        return []
    starts = [start for start, _ in data.phases]
    parts = []
    for index, (start, end) in enumerate(zip(starts, [*starts[1:], across.high], strict=True)):
        left, right = across(start), across(end)
        css_class = f"phase {'odd' if index % 2 else 'even'}"
        parts.append(el("rect", x=left, y=0, width=right - left, height=base, class_=css_class))
        phase = data.phases[index][1]
        for name in (phase_name(phase), _SHORT.get(phase, "")):
            if name and right - left > 6.5 * len(name) + 8:
                parts.append(text(left + 5, 13, name, "phase-name"))
                break
    return parts


def _resumed(data: Curve, across: Scale, base: float) -> list[Html]:
    """A tick under the axis at every step where the training went on after an interruption."""
    parts = []
    for step in data.resumed:
        if data.span[0] <= step <= data.span[1]:
            x = across(step)
            mark = el("path", d=f"M{x:.1f} {base:.1f}l-4 7h8z", class_="resumed")
            parts.append(el("g", el("title", f"resumed at step {step:.0f}"), mark))
    return parts


def _pieces(steps: NDArray[np.float64], data: Curve) -> list[NDArray[np.int64]]:
    """Indices of what is drawn without a break: a phase may lack the loss, or take it on other batches."""
    borders = [start for start, _ in data.phases[1:]]
    owner = np.searchsorted(borders, steps, side="right")
    return [np.flatnonzero(owner == phase) for phase in np.unique(owner)]


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))


def _value_ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Places on the value axis; on a logarithmic one powers of ten, with more between where these are few."""
    if not logarithmic:
        return nice_ticks(low, high, 4)
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [power + math.log10(factor) for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return ticks


def _value_axis(low: float, high: float, logarithmic: bool, across: Scale, up: Scale) -> list[Html]:
    ticks = _value_ticks(low, high, logarithmic)
    labels = [f"{10**tick:.2g}" for tick in ticks] if logarithmic else tick_labels(ticks)
    lines = [line(across.start_px, up(tick), across.end_px, up(tick), "grid") for tick in ticks]
    return lines + [text(38, up(t) + 4, label, "tick", "end") for t, label in zip(ticks, labels, strict=True)]


def _step_text(step: float) -> str:
    return f"{step / 1000:g}k" if step >= 1000 else f"{step:g}"
