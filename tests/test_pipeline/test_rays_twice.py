"""Rays with importance samples: against passes done apart, finite differences, and what is known exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.model.compositing import importance_depths, merge_depths, stratified_depths
from pipeline.model.geometry import Geometry
from pipeline.model.renderer import PlaneTable, Renderer, render_rays, render_rays_twice
from pipeline.train.row_adam import RowAdam

Rays = tuple[Tensor, Tensor, Tensor, Tensor]


def _rays(n: int, dtype: torch.dtype) -> Rays:
    """Objects, origins, directions and depths of rays through two objects' planes."""
    generator = torch.Generator().manual_seed(3)
    origins = 0.1 * torch.randn(n, 3, generator=generator, dtype=dtype)
    directions = nn.functional.normalize(torch.randn(n, 3, generator=generator, dtype=dtype), dim=1)
    near = torch.zeros(n, dtype=dtype)
    jitter = torch.rand(n, 6, generator=generator, dtype=dtype)
    return torch.arange(n) % 2, origins, directions, stratified_depths(near, near + 0.8, 6, jitter)


def _model(dtype: torch.dtype) -> tuple[Renderer, Tensor]:
    torch.manual_seed(0)
    return Renderer(4, 3, 8).to(dtype), torch.randn(2, 3, 4, 5, 5, dtype=dtype, requires_grad=True)


def test_decoding_once_equals_decoding_coarse_and_merged_samples_apart() -> None:
    renderer, planes = _model(torch.float64)
    index, origins, directions, depths = _rays(9, torch.float64)
    inputs = [planes, *renderer.parameters()]
    jitter = torch.rand(9, 5, dtype=torch.float64)
    table = PlaneTable.of(planes, Geometry())
    with torch.no_grad():
        _, _, weights = render_rays(renderer, table, index, origins, directions, depths, 9.0)
        fine = importance_depths(weights, depths, 5, jitter)
        merged, _ = merge_depths(depths, fine)
    value, opacity, _ = render_rays(renderer, table, index, origins, directions, merged, 9.0)
    expected = torch.autograd.grad(value.square().sum() + opacity.sum(), inputs)
    table = PlaneTable.of(planes, Geometry())
    found = render_rays_twice(renderer, table, index, origins, directions, depths, 5, jitter, 9.0)
    torch.testing.assert_close(found[0], value)
    torch.testing.assert_close(found[1], opacity)
    gradients = torch.autograd.grad(found[0].square().sum() + found[1].sum(), inputs)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other)


def test_gradient_of_rendering_by_finite_differences() -> None:
    renderer, planes = _model(torch.float64)
    index, origins, directions, depths = _rays(4, torch.float64)
    params = [param.detach().clone().requires_grad_() for param in renderer.parameters()]

    def render(planes: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        with_values = _WithParams(renderer, values)
        table = PlaneTable.of(planes, Geometry())
        value, opacity, _ = render_rays(with_values, table, index, origins, directions, depths, 4.0)
        return value, opacity

    assert torch.autograd.gradcheck(render, (planes, *params))


class _WithParams(Renderer):
    """A renderer that decodes with given tensors."""

    def __init__(self, renderer: Renderer, values: tuple[Tensor, ...]) -> None:
        super().__init__(renderer.n_features, renderer.n_channels, renderer.width)
        self._names = [name for name, _ in renderer.named_parameters()]
        self._values, self._base = values, [renderer]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(self._names, self._values, strict=True))
        found: tuple[Tensor, Tensor] = torch.func.functional_call(self._base[0], named, (features,))
        return found


def test_a_float32_step_agrees_with_float64() -> None:
    # What "unchanged mathematics" means in numbers: value and gradient to a few float32 roundings.
    results = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        renderer = Renderer(4, 3, 8).to(dtype)
        planes = torch.randn(2, 3, 4, 16, 16, dtype=torch.float32).to(dtype).requires_grad_()
        index, origins, directions, depths = (part.to(dtype) for part in _rays(64, torch.float32))
        table = PlaneTable.of(planes, Geometry())
        value, opacity = render_rays_twice(renderer, table, index.long(), origins, directions, depths, 6)
        gradients = torch.autograd.grad(value.sum() + opacity.sum(), [planes, *renderer.parameters()])
        results.append([value.detach(), opacity.detach(), *gradients])
    for single, double in zip(*results, strict=True):
        scale = float(double.abs().max())
        assert float((single.double() - double).abs().max()) < 2e-5 * scale


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_the_cpu() -> None:
    found = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        renderer = Renderer(4, 3, 8).to(device)
        codes = RowAdam(torch.randn(3, 3, 4, 16, 16).to(device))
        planes = codes.values[[2, 0]].requires_grad_()
        index, origins, directions, depths = (part.to(device) for part in _rays(64, torch.float32))
        table = PlaneTable.of(planes, Geometry())
        value, opacity = render_rays_twice(renderer, table, index, origins, directions, depths, 6)
        (value.sum() + opacity.sum()).backward()
        assert planes.grad is not None
        codes.update([2, 0], planes.grad, 1e-2)
        found[device] = [part.detach().cpu().numpy() for part in (value, opacity, planes.grad)]
        found[device].append(codes.steps.cpu().numpy())
    for ours, theirs in zip(found["cpu"], found["cuda"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
