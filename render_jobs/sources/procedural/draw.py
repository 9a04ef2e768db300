"""Random draws that give the same numbers on every platform and numpy version.

numpy promises that the raw stream of a bit generator never changes, but not that of `Generator.uniform` and
the like. So everything here is derived from `PCG64.random_raw` by exact arithmetic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

GENERATOR_VERSION = "1"
"""Part of every seed and fingerprint: raise it whenever a change alters any object."""

T = TypeVar("T")


class Draw:
    """One stream of random numbers, a pure function of class name, object number, and purpose.

    Different purposes of one object (shape, paint) have independent streams, so that a draw added to one
    leaves the other as it was.

    Args:
        class_name: Class of the object, such as "car".
        k: Number of the object within its class, at least 0.
        purpose: Name of the stream.
    """

    def __init__(self, class_name: str, k: int, purpose: str = "shape") -> None:
        text = f"fpipe-procedural/{GENERATOR_VERSION}/{class_name}/{k}/{purpose}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")
        self._bits = np.random.PCG64(seed)

    def unit(self) -> float:
        """Uniform in [0, 1), with 53 random bits."""
        raw = self._bits.random_raw()
        assert isinstance(raw, int)
        return (raw >> 11) * 2.0**-53

    def uniform(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * self.unit()

    def within(self, bounds: tuple[float, float]) -> float:
        """Uniform between the two bounds."""
        return self.uniform(*bounds)

    def integer(self, low: int, high: int) -> int:
        """Uniform integer in [low, high], both included."""
        return low + int(self.unit() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.unit() < probability

    def choice(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[int(self.unit() * len(options))]

    def weighted(self, options: Mapping[T, float]) -> T:
        """One of the keys, with probability proportional to its value."""
        target = self.unit() * sum(options.values())
        last = None
        for option, weight in options.items():
            target -= weight
            if target < 0:
                return option
            last = option  # stands if rounding runs past the end
        assert last is not None, "no options"
        return last
