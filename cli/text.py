"""Numbers and times in words, as talk on stderr shows them."""

from __future__ import annotations

from typing import Any


def duration_text(seconds: float) -> str:
    """Returns "42 s", "3 min 05 s" or "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def figures_text(figures: dict[str, Any]) -> list[str]:
    """Returns "failed 3" and "rgb 0.0123" for the figures of a stage; those that are None are over."""
    return [
        f"{name.replace('_', ' ')} {value:.4g}"
        if isinstance(value, float)
        else f"{name.replace('_', ' ')} {value}"
        for name, value in figures.items()
        if value is not None
    ]
