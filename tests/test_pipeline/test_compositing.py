from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.model.compositing import (
    composite,
    importance_depths,
    merge_depths,
    midpoint_weights,
    stratified_depths,
)


def _slow_composite(
    raw: np.ndarray, colour: np.ndarray, depths: np.ndarray, scale: float
) -> tuple[np.ndarray, float]:
    """METHOD section 2, one interval at a time, with the product of (1 - alpha)."""
    value, opacity, trans = np.zeros(colour.shape[1]), 0.0, 1.0
    for i in range(len(depths) - 1):
        sigma = scale * math.log1p(math.exp((raw[i] + raw[i + 1]) / 2 - 1))
        alpha = 1 - math.exp(-sigma * (depths[i + 1] - depths[i]))
        weight = alpha * trans
        value += weight * (colour[i] + colour[i + 1]) / 2
        opacity += weight
        trans *= 1 - alpha
    return value, opacity


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_compositing_equals_the_slow_reference(scale: float) -> None:
    rng = np.random.default_rng(0)
    raw, colour = rng.normal(size=(6, 9)) * 3, rng.uniform(size=(6, 9, 4))
    depths = np.sort(rng.uniform(0.8, 1.8, size=(6, 9)), axis=1)
    weights = midpoint_weights(torch.from_numpy(raw), torch.from_numpy(depths), scale)
    value, opacity = composite(weights, torch.from_numpy(colour))
    for i in range(6):
        slow_value, slow_opacity = _slow_composite(raw[i], colour[i], depths[i], scale)
        np.testing.assert_allclose(value[i], slow_value, atol=1e-12)
        assert opacity[i].item() == pytest.approx(slow_opacity, abs=1e-12)


def test_a_homogeneous_medium_absorbs_as_beer_and_lambert_say() -> None:
    # sigma = softplus(raw - 1) = 2 everywhere over a length of 0.6: opacity 1 - exp(-1.2), however it is cut.
    raw = math.log(math.expm1(2.0)) + 1.0
    for n in (2, 7, 50):
        depths = torch.linspace(1.0, 1.6, n)[None]
        weights = midpoint_weights(torch.full((1, n), raw), depths)
        assert weights.sum().item() == pytest.approx(1 - math.exp(-1.2), abs=1e-5)


def test_opaque_front_hides_what_is_behind() -> None:
    raw = torch.full((1, 5), 1e4)
    colour = torch.tensor([[[0.25], [0.25], [0.9], [0.9], [0.9]]])
    value, opacity = composite(midpoint_weights(raw, torch.linspace(1, 2, 5)[None]), colour)
    assert value.item() == pytest.approx(0.25)
    assert opacity.item() == pytest.approx(1.0)


def test_gradient_of_compositing() -> None:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(3, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    colour = torch.rand(3, 6, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    depths = torch.linspace(0.8, 1.6, 6, dtype=torch.float64).expand(3, 6)

    def both(r: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return composite(midpoint_weights(r, depths), c)

    assert torch.autograd.gradcheck(both, (raw, colour))


def test_stratified_depths_stay_in_their_parts() -> None:
    near, far = torch.tensor([1.0]), torch.tensor([2.0])
    assert stratified_depths(near, far, 4).tolist() == [[1.125, 1.375, 1.625, 1.875]]
    jitter = torch.tensor([[0.0, 0.5, 0.0, 0.5]])
    assert stratified_depths(near, far, 4, jitter).tolist() == [[1.0, 1.375, 1.5, 1.875]]
    missed = stratified_depths(far, near, 4)
    weights = midpoint_weights(torch.full((1, 4), 100.0), missed)
    assert weights.sum() == 0


def _slow_importance(weights: np.ndarray, depths: np.ndarray, jitter: np.ndarray) -> list[float]:
    mass = (weights + 1e-5) / (weights + 1e-5).sum()
    found, n = [], len(jitter)
    for k in range(n):
        u, i = (k + jitter[k]) / n, 0
        while i < len(mass) - 1 and u > mass[: i + 1].sum():
            i += 1
        inside = (u - mass[:i].sum()) / mass[i]
        found.append(depths[i] + inside * (depths[i + 1] - depths[i]))
    return found


def test_importance_sampling_equals_the_slow_reference() -> None:
    rng = np.random.default_rng(0)
    weights = rng.uniform(size=(5, 7)) ** 4
    depths = np.sort(rng.uniform(1, 2, size=(5, 8)), axis=1)
    middles, random = np.full((5, 11), 0.5), rng.uniform(size=(5, 11))
    for jitter, given in ((middles, None), (random, torch.from_numpy(random))):
        found = importance_depths(torch.from_numpy(weights), torch.from_numpy(depths), 11, given)
        expected = [_slow_importance(w, d, j) for w, d, j in zip(weights, depths, jitter, strict=True)]
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_importance_samples_of_one_heavy_interval_lie_in_it() -> None:
    weights = torch.zeros(1, 9)
    weights[0, 4] = 1.0
    depths = torch.linspace(1.0, 1.9, 10)[None]
    found = importance_depths(weights, depths, 16)
    assert ((found > 1.39) & (found < 1.51)).all()
    merged, order = merge_depths(depths, found)
    assert torch.equal(torch.cat([depths, found], dim=1).gather(1, order), merged)
    assert merged.shape == (1, 26)
    assert (merged.diff() >= 0).all()
