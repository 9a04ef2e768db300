"""Random numbers of a fit: pure functions of the object's key, its step and a position, on any device.

SplitMix64 (Steele, Lea, Flood 2014), used as a hash of a counter: nothing is kept between steps, so an
object's numbers do not depend on its company, on restarts or on the device, and are made where they are used.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from pipeline.model.shapes import Float, Int

_GOLDEN = 0x9E3779B97F4A7C15
_MIX1, _MIX2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_PER_STEP = 1 << 32


def object_key(*labels: object) -> int:
    """63 bits that depend on the labels alone (sha256), the same in every process."""
    digest = hashlib.sha256("\x1f".join(str(label) for label in labels).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def uniform(keys: Int[Tensor, " b"], steps: Int[Tensor, " b"], n: int) -> Float[Tensor, "b n"]:
    """Numbers in [0, 1), n per object, 24 random bits each.

    Args:
        keys: `object_key` of each object, int64.
        steps: Step of each object, below 2³¹, int64.
        n: Numbers per object, below 2³².
    """
    counter = steps[:, None] * _PER_STEP + torch.arange(1, n + 1, device=keys.device)
    bits = _mixed(keys[:, None] + counter * _signed(_GOLDEN))
    return _shifted(bits, 40).float() * 2.0**-24


def _mixed(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * _signed(_MIX1)
    z = (z ^ _shifted(z, 27)) * _signed(_MIX2)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, by: int) -> Tensor:
    """Logical shift to the right; torch's own repeats the sign."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned number; products wrap."""
    return value - (1 << 64) if value >= 1 << 63 else value
