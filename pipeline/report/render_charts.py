"""Charts of the render section: the rate over time, and where the cameras stand."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.report.charts import Scale, line, nice_ticks, svg, text, tick_labels
from pipeline.report.markup import Html, el
from pipeline.report.render_records import CameraSample, Throughput
from pipeline.report.wording import count, duration, fixed, plural

_DATE_PX: Final = 84  # room that the date of one period needs
_TIME_STEPS_S: Final = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400)
_ELEVATIONS_DEG: Final = (60, 30)
_POOLED_DOTS: Final = 1500


def rate_chart(data: Throughput, width: int) -> Html:
    """Views per second over working time, as an area; a line marks where work began again after a pause."""
    height = 190 if width > 500 else 170
    total_s = float(data.edges_s[-1])
    top = max(float(data.views_per_s.max()), 1e-9)
    across, up = Scale(0.0, total_s, 44, width - 6), Scale(0.0, 1.08 * top, height - 44, 26)
    ticks = nice_ticks(0.0, 1.08 * top, 3)
    parts = [line(across.start_px, up(tick), across.end_px, up(tick), "grid") for tick in ticks]
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        parts.append(text(38, up(tick) + 4, label, "tick", "end"))
    for at_s in _time_ticks(total_s, 8 if width > 500 else 4):
        parts.append(line(across(at_s), up(0), across(at_s), up(0) + 4, "axis"))
        parts.append(text(across(at_s), up(0) + 18, _time_text(at_s), "tick", "middle"))
    parts.append(el("path", d=_area(data, across, up), class_="area"))
    parts.append(line(across.start_px, up(0), across.end_px, up(0), "axis"))
    parts += _dates(data, across, up)
    parts.append(text(across.end_px, height - 6, "working time", "label", "end"))
    parts.append(text(across.start_px, height - 6, "views/s", "label"))
    mean = float((data.views_per_s * np.diff(data.edges_s)).sum() / total_s)
    described = f"Views per second over {duration(total_s)} of work: {fixed(mean, 1)} on average."
    return svg(width, height, described, *parts)


def camera_chart(positions: NDArray[Any], heldout: NDArray[np.bool_] | None, width: int) -> Html:
    """Directions of cameras from the object, seen from above, in an equal-area projection.

    Equal areas of the disc are equal areas of the sphere, so an even spread looks even. The rim of the inner
    disc is the horizon; cameras below it lie between the horizon and the outer rim.

    Args:
        positions: [n, 3], world units.
        heldout: Which of them are held out [n]; None draws all alike, and small.
        width: In CSS pixels.
    """
    directions = positions / np.maximum(np.linalg.norm(positions, axis=1, keepdims=True), 1e-9)
    below = bool((directions[:, 2] < -0.05).any())
    middle, radius = width / 2, width / 2 - 22
    horizon = radius / math.sqrt(2) if below else radius
    parts = [el("circle", cx=middle, cy=middle, r=horizon, class_="horizon")]
    for elevation in _ELEVATIONS_DEG:
        ring = horizon * _ring(math.radians(90 - elevation))
        parts.append(el("circle", cx=middle, cy=middle, r=ring, class_="ring"))
        parts.append(text(middle, middle + ring + 4, f"{elevation}°", "tick", "middle"))
    if below:
        parts.append(el("circle", cx=middle, cy=middle, r=radius, class_="ring"))
    parts.append(text(middle, 13, "front", "label", "middle"))
    places = middle + horizon * _projected(directions) * (1, -1)
    groups = (
        [(places, "all")] if heldout is None else [(places[~heldout], "train"), (places[heldout], "held")]
    )
    parts += [el("path", d=_dots(group), class_=f"dots {name}") for group, name in groups if len(group)]
    described = f"{plural(len(positions), 'camera')} around the object, seen from above."
    return svg(width, width, described, *parts)


def _ring(polar_rad: float) -> float:
    """Radius in the equal-area projection, 1 at the horizon."""
    return math.sqrt(2) * math.sin(polar_rad / 2)


def _projected(directions: NDArray[Any]) -> NDArray[np.float64]:
    polar = np.arccos(np.clip(directions[:, 2], -1, 1))
    flat = directions[:, :2] / np.maximum(np.linalg.norm(directions[:, :2], axis=1, keepdims=True), 1e-9)
    return np.asarray(flat * (math.sqrt(2) * np.sin(polar / 2))[:, None], dtype=np.float64)


def _dots(places: NDArray[np.float64]) -> str:
    """Points as strokes without length, which round caps make discs: a dozen bytes each."""
    shown = places[:: -(-len(places) // _POOLED_DOTS)]
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in shown.tolist())


def _area(data: Throughput, across: Scale, up: Scale) -> str:
    corners = [f"M{across(0.0):.1f} {up(0.0):.1f}"]
    steps = zip(data.edges_s[:-1], data.edges_s[1:], data.views_per_s, strict=True)
    corners += [f"V{up(float(rate)):.1f}H{across(float(end)):.1f}" for _, end, rate in steps]
    return "".join([*corners, f"V{up(0.0):.1f}Z"])


def _dates(data: Throughput, across: Scale, up: Scale) -> list[Html]:
    """A line and a date where each period of work begins; dates that would overlap are left out."""
    parts, free_px = [], -math.inf
    for at_s, date in data.starts:
        x = across(at_s)
        if at_s > 0:
            parts.append(line(x, 6, x, up(0), "diagonal"))
        if x >= free_px and x + _DATE_PX <= across.end_px + 8:
            parts.append(text(x + (4 if at_s > 0 else 0), 14, date, "tick"))
            free_px = x + _DATE_PX
    return parts


def _time_ticks(total_s: float, n: int) -> list[float]:
    step = next(
        (step for step in _TIME_STEPS_S if total_s / step <= n), 86400 * math.ceil(total_s / 86400 / n)
    )
    return [float(at) for at in np.arange(0, total_s + 1e-6, step)]


def _time_text(at_s: float) -> str:
    if at_s == 0:
        return "0"
    for unit_s, unit in ((3600, "h"), (60, "min")):
        if at_s >= unit_s:
            return f"{at_s / unit_s:g}\u202f{unit}"
    return f"{at_s:g}\u202fs"


def camera_text(sample: CameraSample) -> str:
    """Distance and field of view in words."""
    distance = np.linalg.norm(sample.positions, axis=1)
    low, high = float(distance.min()), float(distance.max())
    near = fixed(low, 2) if high - low < 0.005 else f"{fixed(low, 2)} to {fixed(high, 2)}"
    n_held = int(sample.heldout.sum())
    return (
        f"{count(len(distance) - n_held)} for training, {count(n_held)} held out, {near} from the origin, "
        f"field of view {fixed(sample.field_of_view_deg, 1)}°."
    )
