"""Statistics of the channels of planes, as readers use them: figures per channel, and normalisation.

Figures are of the fused planes, [3, F_mic + F_mac]: the first F_mic channels of each plane are those of the
micro planes. All texels of all objects count equally.

| how | result | notes |
|---|---|---|
| "minmax" | in [-1, 1]: 2·(x − min)/(max − min) − 1 | the true extremes, so nothing is ever clipped |
| "std" | mean 0, standard deviation 1 | unbounded |
| "absmax" | in [-1, 1]: x/absmax | zero stays zero |

A channel that is constant becomes 0 ("minmax", "std") or its sign ("absmax"), and comes back exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError
from .sketch import QUANTILE_ERROR, ChannelSketch

Normalization = Literal["minmax", "std", "absmax"]
NORMALIZATIONS: Final = get_args(Normalization)
FIGURES: Final = ("mean", "std", "min", "max", "absmax", "p0_1", "p99_9")


@dataclass(frozen=True)
class ChannelStats:
    """Statistics of one state of a fit. All figures are f64 [3, F], micro channels first.

    Attributes:
        version: Names the state; the same state has the same version, whoever computed it.
        f_mic: Micro channels per plane.
        sketch: What the figures follow from.
        mean: Mean.
        std: Standard deviation, divided by n.
        min: Smallest value.
        max: Largest value.
        absmax: Largest magnitude.
        p0_1: 0.1% quantile, with the error that `quantile_error` states.
        p99_9: 99.9% quantile, likewise.
    """

    version: str
    f_mic: int
    sketch: ChannelSketch = field(repr=False)
    quantile_error: float = QUANTILE_ERROR

    @property
    def n_objects(self) -> int:
        """Objects that count."""
        return self.sketch.n_objects

    @property
    def values_per_channel(self) -> int:
        """Values of one channel: objects times texels."""
        return self.sketch.count

    @property
    def n_channels(self) -> int:
        """Fused channels per plane, F."""
        return len(self.sketch.mean) // 3

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of every channel."""
        return self._by_plane(self.sketch.mean)

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation of every channel."""
        return self._by_plane(self.sketch.std)

    @property
    def min(self) -> NDArray[np.float64]:
        """Smallest value of every channel."""
        return self._by_plane(self.sketch.low)

    @property
    def max(self) -> NDArray[np.float64]:
        """Largest value of every channel."""
        return self._by_plane(self.sketch.high)

    @property
    def absmax(self) -> NDArray[np.float64]:
        """Largest magnitude in every channel."""
        return np.maximum(np.abs(self.min), np.abs(self.max))

    @property
    def p0_1(self) -> NDArray[np.float64]:
        """0.1% quantile of every channel."""
        return self.quantile(0.001)

    @property
    def p99_9(self) -> NDArray[np.float64]:
        """99.9% quantile of every channel."""
        return self.quantile(0.999)

    def quantile(self, q: float) -> NDArray[np.float64]:
        """Estimate a quantile of every channel, f64 [3, F]; error as `storage.sketch` says."""
        return self._by_plane(self.sketch.quantile(q))

    def figures(self) -> dict[str, list[list[float]]]:
        """Return the figures as plain lists [3][F], by name."""
        return {name: getattr(self, name).tolist() for name in FIGURES}

    def scaling(self, how: Normalization) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return offset and scale, f32 [3, F, 1, 1] each: normalised = (planes − offset)/scale.

        Raises:
            UsageError: no such normalisation.
        """
        if how == "minmax":
            offset, scale = (self.min + self.max) / 2, (self.max - self.min) / 2
        elif how == "std":
            offset, scale = self.mean, self.std
        elif how == "absmax":
            offset, scale = np.zeros_like(self.mean), self.absmax
        else:
            raise UsageError(f"normalize={how!r}: use one of {', '.join(NORMALIZATIONS)}, or None")
        scale = np.where(scale > 0, scale, 1.0)
        return tuple(part.astype(np.float32)[..., None, None] for part in (offset, scale))  # type: ignore[return-value]

    def normalize(self, planes: NDArray[Any], how: Normalization | None) -> NDArray[np.float32]:
        """Normalise planes; see `normalize_planes`."""
        return normalize_planes(planes, how, self)

    def denormalize(self, planes: NDArray[Any], how: Normalization | None) -> NDArray[np.float32]:
        """Undo `normalize`, for instance on what a generative model has sampled."""
        if how is None:
            return np.asarray(planes, np.float32)
        offset, scale = self.scaling_for(planes.shape, how)
        return np.asarray(planes, np.float32) * scale + offset

    def scaling_for(
        self, shape: tuple[int, ...], how: Normalization
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return offset and scale in the form that broadcasts over planes of a shape; see `normalize_planes`.

        Raises:
            UsageError: no such normalisation, or the shape is that of other planes.
        """
        offset, scale = self.scaling(how)
        f = self.n_channels
        if len(shape) >= 4 and shape[-4] == 3 and shape[-3] in (f, self.f_mic):
            return offset[:, : shape[-3]], scale[:, : shape[-3]]
        if len(shape) >= 3 and shape[-3] == 3 * f:
            return offset.reshape(3 * f, 1, 1), scale.reshape(3 * f, 1, 1)
        raise UsageError(
            f"planes {shape} cannot be normalised by the statistics {self.version}: those are of planes "
            f"[..., 3, {f}, K, K] or [..., {3 * f}, K, K], or of micro planes [..., 3, {self.f_mic}, K, K]"
        )

    def _by_plane(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values.reshape(3, -1)


def normalize_planes(
    values: NDArray[Any], how: Normalization | None, stats: ChannelStats
) -> NDArray[np.float32]:
    """Normalise planes channel by channel; the module says how.

    Args:
        values: Fused planes [..., 3, F, K, K] or flat [..., 3F, K, K], or micro planes [..., 3, F_mic, K, K].
        how: "minmax", "std", "absmax", or None to leave them as they are.
        stats: Of the dataset.

    Raises:
        UsageError: no such normalisation, or planes of another shape.
    """
    if how is None:
        return np.asarray(values, np.float32)
    offset, scale = stats.scaling_for(values.shape, how)
    normalized = np.subtract(values, offset, dtype=np.float32)
    normalized /= scale
    return normalized
