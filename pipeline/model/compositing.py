"""Volume rendering along rays: where to sample, and how samples become one value.

Conventions: ``raw`` is the renderer's unbounded density output; sigma = sigma_scale · softplus(raw − 1) in
1/world unit. Midpoint rule: between two consecutive samples both raw density and colour are averaged, so S
samples make S−1 intervals. alpha = 1 − exp(−sigma·delta), weights = alpha · Π(1 − alpha of the intervals
before).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.model.shapes import Float


def stratified_depths(
    near: Float[Tensor, " r"], far: Float[Tensor, " r"], n: int, jitter: Float[Tensor, "r n"] | None = None
) -> Float[Tensor, "r n"]:
    """Place n samples in n equal parts of [near, far].

    Args:
        near: First distance along each ray.
        far: Last distance; a ray with far <= near collapses to one point and composites to nothing.
        n: Samples per ray.
        jitter: Position inside each part, uniform in [0, 1); None takes the middles.
    """
    bins = torch.arange(n, device=near.device, dtype=near.dtype)
    parts = (bins + (0.5 if jitter is None else jitter)) / n
    return near[:, None] + (far - near).clamp(min=0.0)[:, None] * parts


def midpoint_weights(
    raw: Float[Tensor, "r s"], depths: Float[Tensor, "r s"], sigma_scale: float = 1.0
) -> Float[Tensor, "r s-1"]:
    """Compositing weights of the S−1 intervals between samples."""
    sigma = sigma_scale * functional.softplus(0.5 * (raw[:, :-1] + raw[:, 1:]) - 1.0)
    optical = sigma * (depths[:, 1:] - depths[:, :-1])
    # Π(1 − alpha) of the intervals before, as exp of a sum: exact where the product would underflow step by
    # step.
    trans = torch.exp(optical - torch.cumsum(optical, dim=1))
    return trans * -torch.expm1(-optical)


def composite(
    weights: Float[Tensor, "r i"], colour: Float[Tensor, "r s c"]
) -> tuple[Float[Tensor, "r c"], Float[Tensor, " r"]]:
    """Add colours up along rays.

    Returns:
        Premultiplied value Σ w·(mean of the interval's two colours), and opacity Σ w. The caller adds
        (1 − opacity)·background.
    """
    # Σ w_i (c_i + c_{i+1}) / 2 regrouped per sample: one product over [r, s] instead of two over [r, s-1, c].
    per_sample = 0.5 * (functional.pad(weights, (0, 1)) + functional.pad(weights, (1, 0)))
    value = torch.einsum("rs,rsc->rc", per_sample, colour)
    return value, weights.sum(dim=1)


def importance_depths(
    weights: Float[Tensor, "r i"],
    depths: Float[Tensor, "r s"],
    n: int,
    jitter: Float[Tensor, "r n"] | None = None,
) -> Float[Tensor, "r n"]:
    """Draw n further samples where the weights are, by inversion of their piecewise constant distribution.

    Args:
        weights: Compositing weights of the intervals of a first pass.
        depths: Sample distances of the first pass, increasing.
        n: Samples to draw.
        jitter: Uniform in [0, 1) per stratum; None takes the middles of n equal strata.
    """
    mass = weights + 1e-5  # keeps empty rays uniform instead of dividing by zero
    cdf = functional.pad(torch.cumsum(mass / mass.sum(dim=1, keepdim=True), dim=1), (1, 0))
    strata = torch.arange(n, device=depths.device, dtype=depths.dtype)
    u = ((strata + (0.5 if jitter is None else jitter)) / n).expand(depths.shape[0], n).contiguous()
    upper = torch.searchsorted(cdf, u, right=True).clamp(1, cdf.shape[1] - 1)
    cdf_low, cdf_high = cdf.gather(1, upper - 1), cdf.gather(1, upper)
    low, high = depths.gather(1, upper - 1), depths.gather(1, upper)
    fraction = ((u - cdf_low) / (cdf_high - cdf_low).clamp(min=1e-12)).clamp(0.0, 1.0)
    return low + fraction * (high - low)


def merge_depths(a: Float[Tensor, "r n"], b: Float[Tensor, "r m"]) -> Float[Tensor, "r nm"]:
    """Sort two sets of samples of the same rays into one."""
    return torch.sort(torch.cat([a, b], dim=1), dim=1).values
