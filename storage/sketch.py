"""Statistics of the channels of planes that can be merged: moments, extremes, and a histogram for quantiles.

The bins of the histogram are fixed, so that merging adds counts: the order of objects, shards and merges does
not change a count. Bins are the float32 bit pattern cut after five bits of the mantissa: 32 bins of equal
width in every octave of magnitude from 2⁻¹⁶ to 2²⁰, for either sign, and one bin for everything smaller. They
need no logarithm and are the same on every machine.

**Error of a quantile.** Let x be the value of rank ⌊q·(n − 1)⌋ among the n values of a channel. The estimate
is within |x|/65 (1.54%) of x where 2⁻¹⁶ ≤ |x| < 2²⁰, and 0 where |x| < 2⁻¹⁶ (off by less than 1.6e-5). Values
from 2²⁰ on count in the last bin; the estimate never leaves [minimum, maximum].
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

QUANTILE_ERROR: Final = 1 / 65
"""Largest relative error of a quantile; see the module's text."""

_OCTAVES: Final = range(-16, 20)
_PER_OCTAVE: Final = 32
_SHIFT: Final = 23 - 5  # bits of a float32's mantissa that are cut off
_BINS_PER_SIGN: Final = len(_OCTAVES) * _PER_OCTAVE
_LEAST: Final = (_OCTAVES.start + 127) * _PER_OCTAVE  # the cut bit pattern of 2⁻¹⁶
N_BINS: Final = 2 * _BINS_PER_SIGN + 1

_TOGETHER: Final = 16  # objects fused at a time; twice as many are 10% faster and take twice the memory

_HEADER: Final = struct.Struct("<4sBBHQQ")  # magic, form, bytes of a count, channels, objects, values
_MAGIC: Final = b"CHST"
_FORM: Final = 1


@dataclass(frozen=True)
class ChannelSketch:
    """Mergeable statistics of C channels that have the same number of values each.

    Attributes:
        n_objects: Objects that were added.
        count: Values of one channel.
        mean: f64 [C].
        m2: Sum of squared deviations from the mean, f64 [C].
        low: Smallest value, f64 [C]; +inf without values.
        high: Largest value, f64 [C]; -inf without values.
        bins: Histogram, i64 [C, N_BINS], from the most negative to the most positive bin.
    """

    n_objects: int
    count: int
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    bins: NDArray[np.int64]

    @classmethod
    def empty(cls, n_channels: int) -> ChannelSketch:
        """Return the sketch of no values."""
        zeros, full = np.zeros(n_channels), np.full(n_channels, np.inf)
        return cls(0, 0, zeros, zeros, full, -full, np.zeros((n_channels, N_BINS), np.int64))

    @classmethod
    def of_object(cls, values: NDArray[np.float32]) -> ChannelSketch:
        """Return the sketch of one object.

        Args:
            values: Finite values [C, n].
        """
        n_channels, count = values.shape
        low, high = (values.min(axis=1).astype(np.float64), values.max(axis=1).astype(np.float64))
        flat = _bin_numbers(values)
        flat += (np.arange(n_channels) * N_BINS)[:, None]
        bins = np.bincount(flat.ravel(), minlength=n_channels * N_BINS).reshape(n_channels, N_BINS)
        deviations = values.astype(np.float64)
        mean = deviations.mean(axis=1)
        deviations -= mean[:, None]
        m2 = np.einsum("cn,cn->c", deviations, deviations)
        return cls(1, count, mean, m2, low, high, bins)

    def merged(self, other: ChannelSketch) -> ChannelSketch:
        """Return the sketch of both sets of values (moments after Chan, Golub and LeVeque, 1983).

        Counts and extremes are exact in any order; moments agree up to rounding.
        """
        count = self.count + other.count
        if not self.count or not other.count:
            kept = self if self.count else other
            return replace(kept, n_objects=self.n_objects + other.n_objects)
        shift = other.mean - self.mean
        return ChannelSketch(
            self.n_objects + other.n_objects,
            count,
            self.mean + shift * (other.count / count),
            self.m2 + other.m2 + np.square(shift) * (self.count * (other.count / count)),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.bins + other.bins,
        )

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation of all values (divided by n), f64 [C]."""
        std: NDArray[np.float64] = np.sqrt(self.m2 / max(self.count, 1))
        return std

    def quantile(self, q: float) -> NDArray[np.float64]:
        """Return the estimate of a quantile of every channel, f64 [C]; NaN without values.

        Args:
            q: In [0, 1]. 0 and 1 are exact.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"quantile {q}: must be in [0, 1]")
        if not self.count:
            return np.full(len(self.mean), np.nan)
        rank = int(q * (self.count - 1))
        number = (np.cumsum(self.bins, axis=1) <= rank).sum(axis=1)
        found = np.clip(_BIN_VALUES[number], self.low, self.high)
        return self.low if q == 0 else self.high if q == 1 else found

    def encode(self) -> bytes:
        """Return the sketch as bytes: a header, then moments, extremes and counts, compressed by zstd."""
        from numcodecs.zstd import Zstd

        width = next(n for n in (1, 2, 4, 8) if self.bins.max(initial=0) < 1 << 8 * n)
        counts = self.bins.astype(f"<u{width}")
        by_byte = np.ascontiguousarray(counts.view(np.uint8).reshape(-1, width).T)  # compresses better
        numbers = np.stack([self.mean, self.m2, self.low, self.high]).astype("<f8")
        head = _HEADER.pack(_MAGIC, _FORM, width, len(self.mean), self.n_objects, self.count)
        return head + bytes(Zstd(level=3).encode(numbers.tobytes() + by_byte.tobytes()))

    @classmethod
    def decode(cls, data: bytes) -> ChannelSketch:
        """Read what `encode` wrote; raises ValueError on anything else."""
        from numcodecs.zstd import Zstd

        magic, form, width, n_channels, n_objects, count = _HEADER.unpack_from(data)
        if (magic, form) != (_MAGIC, _FORM):
            raise ValueError(f"not channel statistics of form {_FORM}: {magic!r}, form {form}")
        body = np.frombuffer(bytes(Zstd().decode(data[_HEADER.size :])), np.uint8)
        numbers = body[: 32 * n_channels].view("<f8").reshape(4, n_channels).astype(np.float64)
        by_byte = body[32 * n_channels :].reshape(width, n_channels * N_BINS)
        counts = np.ascontiguousarray(by_byte.T).view(f"<u{width}")
        mean, m2, low, high = numbers
        return cls(n_objects, count, mean, m2, low, high, counts.reshape(n_channels, N_BINS).astype(np.int64))


def _bin_numbers(values: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the number of each value's bin: one look-up by the bit pattern's first 14 bits."""
    cut = np.ascontiguousarray(values, np.float32).view(np.uint32) >> _SHIFT
    numbers: NDArray[np.intp] = _NUMBERS[cut.astype(np.intp)]  # other types of index cost three times as much
    return numbers


def _numbers() -> NDArray[np.intp]:
    """Number of the bin of every cut bit pattern: a sign, then 13 bits that order the magnitudes."""
    size = np.clip(np.arange(1 << (31 - _SHIFT)) - (_LEAST - 1), 0, _BINS_PER_SIGN)
    return np.concatenate([size, -size], dtype=np.intp) + np.intp(_BINS_PER_SIGN)


def _bin_values() -> NDArray[np.float64]:
    """Value that stands for each bin: its relative distance from both edges is the same."""
    edges = np.arange(_BINS_PER_SIGN + 1) + _LEAST
    edges = (edges.astype(np.int32) << _SHIFT).view(np.float32).astype(np.float64)
    values = 2 * edges[:-1] * edges[1:] / (edges[:-1] + edges[1:])
    return np.concatenate([-values[::-1], [0.0], values])


_BIN_VALUES: Final = _bin_values()
_NUMBERS: Final = _numbers()


def fused_planes(
    micro: Sequence[NDArray[Any]] | None,
    coefficients: Sequence[NDArray[np.float32]],
    base_planes: NDArray[np.float32] | None,
) -> Iterator[NDArray[np.float32]]:
    """Yield the fused planes of some objects, f32 [3, F_mic + F_mac, K, K] each, micro channels first.

    The macro planes of all of them are one matrix product and in memory at the same time: base planes are far
    larger than a cache, and reading them is what a single object's cost.

    Args:
        micro: [3, F_mic, K, K] of each object, or None for variants without micro planes.
        coefficients: f32 [M] of each object.
        base_planes: f32 [M, 3, F_mac, K, K], or None where all planes are micro planes.
    """
    if base_planes is None:
        for own in micro or ():
            yield np.asarray(own, np.float32)
        return
    macro = np.stack(coefficients) @ base_planes.reshape(len(base_planes), -1)
    for number, planes in enumerate(macro.reshape(-1, *base_planes.shape[1:])):
        yield np.concatenate([micro[number], planes], axis=1, dtype=np.float32) if micro else planes


def sketch_fits(
    fits: Iterable[tuple[NDArray[Any] | None, NDArray[np.float32]]],
    base_planes: NDArray[np.float32] | None,
) -> ChannelSketch | None:
    """Return the sketch of the fused planes of some objects; None without objects.

    Its channels are planes in order, and in each of them the F_mic micro channels, then the macro channels.

    Args:
        fits: Micro planes and coefficients of each object, as the store holds them.
        base_planes: See `fused_planes`.
    """
    total: ChannelSketch | None = None
    remaining = iter(fits)
    while some := list(islice(remaining, _TOGETHER)):
        micro = [own for own, _ in some if own is not None]
        for planes in fused_planes(micro or None, [own for _, own in some], base_planes):
            own = ChannelSketch.of_object(planes.reshape(3 * planes.shape[1], -1))
            total = own if total is None else total.merged(own)
    return total
