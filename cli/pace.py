"""Rates and times left, in words."""

from __future__ import annotations

from cli.text import duration_text
from pipeline.pace import Pace


def left_text(pace: Pace) -> str:
    """Time left in words; before the first result, the time that has passed."""
    left_s = pace.left_s()
    if left_s is None:
        return f"{duration_text(pace.elapsed_s)} so far"
    return f"{duration_text(left_s)} left" if left_s > 0 else "taking longer than expected"


def rate_text(per_s: float | None, unit: str) -> str:
    """Returns "170 views/s", "48 objects/min" or "3.2 objects/h"; nothing where there is no rate."""
    if not per_s:
        return ""
    periods = ((1, "s"), (60, "min"), (3600, "h"))
    factor, period = next((pair for pair in periods if per_s * pair[0] >= 1), periods[-1])
    value = per_s * factor
    return f"{value:.0f} {unit}/{period}" if value >= 99.5 else f"{value:.2g} {unit}/{period}"
