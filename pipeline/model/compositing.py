"""Volume rendering along rays: where to sample, and how samples become one value.

Conventions: ``raw`` is the renderer's unbounded density output; sigma = sigma_scale · softplus(raw − 1) in
1/world unit. Midpoint rule: between two consecutive samples both raw density and colour are averaged, so S
samples make S−1 intervals. alpha = 1 − exp(−sigma·delta), weights = alpha · Π(1 − alpha of the intervals
before).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pipeline.model.shapes import Float, Int


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
    """Compositing weights of the S−1 intervals between samples. Differentiable once, in ``raw`` only."""
    result: Tensor = _MidpointWeights.apply(raw, depths, sigma_scale)  # type: ignore[no-untyped-call]
    return result


class _MidpointWeights(torch.autograd.Function):
    """Written out: half as many passes backward as torch's own derivative, which copies for every slice."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, depths: Tensor, sigma_scale: float) -> Tensor:
        shifted = (raw[:, :-1] + raw[:, 1:]).mul_(0.5).sub_(1.0)
        length = (depths[:, 1:] - depths[:, :-1]).mul_(sigma_scale)
        optical = functional.softplus(shifted).mul_(length)
        # Π(1 − alpha) of the intervals before, as exp of a sum: exact where the product would underflow step
        # by step.
        trans = (optical - torch.cumsum(optical, dim=1)).exp_()
        weights = torch.expm1(-optical).neg_().mul_(trans)
        ctx.save_for_backward(shifted, length, trans, weights)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        shifted, length, trans, weights = ctx.saved_tensors
        # An interval's weight grows by trans·(1 − alpha) = trans − weight per optical length, and it takes
        # from the weights of all intervals behind.
        taken = grads[0] * weights
        behind = torch.flip(torch.cumsum(torch.flip(taken, (1,)), dim=1), (1,)).sub_(taken)
        per_optical = (trans - weights).mul_(grads[0]).sub_(behind)
        half = torch.sigmoid(shifted).mul_(length).mul_(per_optical).mul_(0.5)
        return functional.pad(half, (0, 1)).add_(functional.pad(half, (1, 0))), None, None


def composite(
    weights: Float[Tensor, "r i"], colour: Float[Tensor, "r s c"]
) -> tuple[Float[Tensor, "r c"], Float[Tensor, " r"]]:
    """Add colours up along rays.

    Returns:
        Premultiplied value Σ w·(mean of the interval's two colours), and opacity Σ w. The caller adds
        (1 − opacity)·background.
    """
    return add_up(sample_weights(weights), colour), weights.sum(dim=1)


def sample_weights(weights: Float[Tensor, "r i"]) -> Float[Tensor, "r s"]:
    """Share out the intervals' weights to the samples at their ends, so that values add up per sample.

    Σ w_i (c_i + c_{i+1}) / 2 is Σ v_s c_s: one product over [r, s] instead of two over [r, s - 1, c].
    """
    halves = 0.5 * weights
    return functional.pad(halves, (0, 1)) + functional.pad(halves, (1, 0))


def add_up(per_sample: Float[Tensor, "r s"], colour: Float[Tensor, "r s c"]) -> Float[Tensor, "r c"]:
    """Sum of weighted colours along rays."""
    # Channel-major as the perceptron makes them, this is quicker than a batched product, backward above all.
    return (per_sample * colour.permute(2, 0, 1)).sum(dim=-1).T


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
    # Keeps empty rays uniform instead of dividing by zero. An object that diverged has weights that are no
    # numbers: places that are none either would be read outside the planes, and end all objects of the step.
    mass = weights.nan_to_num(0.0) + 1e-5
    cdf = functional.pad(torch.cumsum(mass / mass.sum(dim=1, keepdim=True), dim=1), (1, 0))
    strata = torch.arange(n, device=depths.device, dtype=depths.dtype)
    u = ((strata + (0.5 if jitter is None else jitter)) / n).expand(depths.shape[0], n).contiguous()
    upper = torch.searchsorted(cdf, u, right=True).clamp(1, cdf.shape[1] - 1)
    cdf_low, cdf_high = cdf.gather(1, upper - 1), cdf.gather(1, upper)
    low, high = depths.gather(1, upper - 1), depths.gather(1, upper)
    fraction = ((u - cdf_low) / (cdf_high - cdf_low).clamp(min=1e-12)).clamp(0.0, 1.0)
    return low + fraction * (high - low)


def merge_depths(
    a: Float[Tensor, "r n"], b: Float[Tensor, "r m"]
) -> tuple[Float[Tensor, "r nm"], Int[Tensor, "r nm"]]:
    """Sort two sets of samples of the same rays into one.

    Returns:
        Increasing distances, and where each stands in the concatenation of ``a`` and ``b``.
    """
    merged = torch.sort(torch.cat([a, b], dim=1), dim=1, stable=True)
    return merged.values, merged.indices


def inverse(order: Int[Tensor, "r s"]) -> Int[Tensor, "r s"]:
    """Inverse of a permutation per row."""
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def reorder(
    values: Float[Tensor, "r s"], order: Int[Tensor, "r s"], back: Int[Tensor, "r s"]
) -> Float[Tensor, "r s"]:
    """Permute every row: ``values.gather(1, order)``, with a gather as backward because ``back`` is known."""
    result: Tensor = _Reorder.apply(values, order, back)  # type: ignore[no-untyped-call]
    return result


class _Reorder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return values.gather(1, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return grads[0].gather(1, back), None, None
