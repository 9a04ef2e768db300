"""What resources cost, as somebody who plans a dataset gives it: in any one currency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from storage.errors import UsageError

PRICES = {
    "cpu-hour": "an hour of one core",
    "gpu-hour": "an hour of one GPU",
    "gb-month": "10⁹ bytes stored for a month",
    "million-puts": "a million requests that write or list",
    "million-gets": "a million requests that read",
}


def read_prices(given: Sequence[str]) -> dict[str, float]:
    """Returns name → price from texts NAME=PRICE and from YAML files of the same names; later ones win.

    Raises:
        UsageError: a file cannot be read, a name is unknown, or a price is no number from 0 up.
    """
    prices: dict[str, float] = {}
    for text in given:
        name, equals, value = text.partition("=")
        values = {name: value} if equals else _read_file(text)
        prices.update({str(name): _price(str(name), value) for name, value in values.items()})
    return prices


def _read_file(path: str) -> dict[Any, Any]:
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--price {path}: neither NAME=PRICE nor a YAML file: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"--price {path}: write one line per price, as in cpu-hour: 0.03")
    return values


def _price(name: str, value: Any) -> float:
    if name not in PRICES:
        raise UsageError(f"--price {name}: there are {', '.join(PRICES)}")
    try:
        price = float(value)
    except (TypeError, ValueError):
        price = math.nan
    if not (math.isfinite(price) and price >= 0):
        raise UsageError(f"--price {name}={value}: must be a number from 0 up")
    return price
