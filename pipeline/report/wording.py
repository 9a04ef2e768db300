"""How the report writes numbers, names and times."""

from __future__ import annotations

import math
from typing import Final

_NUMBER_WORDS: Final = (
    *("no", "one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)
MISSING: Final = "–"


def count(number: int) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{number:,}".replace(",", "\u202f")


def fixed(value: float | None, decimals: int, unit: str = "") -> str:
    """A figure with fixed decimals and a true minus sign; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:.{decimals}f}".replace("-", "\u2212")
    return f"{text}\u202f{unit}" if unit else text


def signed(value: float | None, decimals: int) -> str:
    """A difference: always with its sign."""
    text = fixed(value, decimals)
    return f"+{text}" if value is not None and math.isfinite(value) and value > 0 else text


def duration(seconds: float | None) -> str:
    """A time with a unit that suits it."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 0.1:
        return f"{seconds * 1000:.0f}\u202fms"
    if seconds < 10:
        return f"{seconds:.1f}\u202fs"
    whole = round(seconds)
    if whole < 120:
        return f"{whole}\u202fs"
    if whole < 7200:
        return f"{whole // 60}\u202fmin {whole % 60:02d}\u202fs"
    return f"{whole // 3600}\u202fh {whole % 3600 // 60:02d}\u202fmin"


def size(n_bytes: float | None) -> str:
    """A size in decimal units: 1 KB is 1000 bytes, as the paper counts."""
    if n_bytes is None or not math.isfinite(n_bytes):
        return MISSING
    value, unit = float(n_bytes), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    decimals = 0 if unit == "B" or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{decimals}f}\u202f{unit}"


def number_and_unit(written: str) -> tuple[str, str]:
    """What `duration`, `size` and `fixed` wrote, taken apart."""
    number, _, unit = written.partition("\u202f")
    return number, unit


def plural(number: int, noun: str) -> str:
    """`1 car`, `34 cars`, `3 classes`."""
    return f"{count(number)} {nouns(noun) if number != 1 else noun}"


def nouns(noun: str) -> str:
    """The English plural of a class name, by the regular rules; most that end in s are plurals already."""
    if noun.endswith("s") and not noun.endswith(("ss", "us")):
        return noun
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in tuple("aeiou"):
        return noun[:-1] + "ies"
    return noun + "s"


def number_word(number: int) -> str:
    """Small numbers as words, for running text."""
    return _NUMBER_WORDS[number] if 0 <= number < len(_NUMBER_WORDS) else count(number)


def listing(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
