from __future__ import annotations

import torch
from torch import Tensor

from pipeline.model.compositing import stratified_depths
from pipeline.model.geometry import Geometry
from pipeline.model.renderer import PlaneTable, Renderer, render_rays_twice
from pipeline.train.by_object import sum_by_object

N_OBJECTS, RAYS = 3, 5


def _loss(renderer: Renderer, dtype: torch.dtype) -> object:
    """Loss of the objects of a slice: rays of each through its planes, against zero."""
    generator = torch.Generator().manual_seed(2)
    shape = (N_OBJECTS, RAYS, 3)
    origins = 0.1 * torch.randn(shape, generator=generator, dtype=dtype)
    directions = torch.nn.functional.normalize(torch.randn(shape, generator=generator, dtype=dtype), dim=-1)
    near = torch.zeros(RAYS, dtype=dtype)

    def loss_of(part: slice, planes: Tensor) -> Tensor:
        n = len(planes)
        depths = stratified_depths(near, near + 0.8, 6).repeat(n, 1)
        index = torch.arange(n).repeat_interleave(RAYS)
        rays = (index, origins[part].reshape(-1, 3), directions[part].reshape(-1, 3))
        value, opacity = render_rays_twice(
            renderer, PlaneTable.of(planes, Geometry()), *rays, depths, 4, sigma_scale=5.0
        )
        return value.square().sum() + opacity.sum()

    return loss_of


def test_equals_one_graph_for_all_objects() -> None:
    torch.manual_seed(0)
    renderer = Renderer(4, 2, 8).double()
    planes = torch.randn(N_OBJECTS, 3, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    params = list(renderer.parameters())
    loss_of = _loss(renderer, torch.float64)
    whole = loss_of(slice(0, N_OBJECTS), planes)  # type: ignore[operator]
    expected = torch.autograd.grad(whole, [planes, *params])
    found = sum_by_object(loss_of, planes, params)  # type: ignore[arg-type]
    torch.testing.assert_close(found, whole)
    # Twice the loss has twice the gradient: the sum may be a part of a larger one.
    for scale in (1.0, 2.0):
        found = scale * sum_by_object(loss_of, planes, params)  # type: ignore[arg-type]
        for gradient, other in zip(torch.autograd.grad(found, [planes, *params]), expected, strict=True):
            torch.testing.assert_close(gradient, scale * other)


def test_two_runs_have_the_same_bits() -> None:
    torch.manual_seed(0)
    renderer, planes = Renderer(4, 2, 8), torch.randn(N_OBJECTS, 3, 4, 8, 8, requires_grad=True)
    inputs, loss_of = [planes, *renderer.parameters()], _loss(renderer, torch.float32)
    first, second = (
        torch.autograd.grad(sum_by_object(loss_of, planes, inputs[1:]), inputs)  # type: ignore[arg-type]
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_gradients_reach_what_planes_and_params_are_made_of_once() -> None:
    # Hooks of a parameter must see its gradient once per step.
    torch.manual_seed(0)
    renderer = Renderer(4, 2, 8)
    code = torch.randn(N_OBJECTS, 3, 4, 8, 8, requires_grad=True)
    seen: list[Tensor] = []
    for param in renderer.parameters():
        param.register_post_accumulate_grad_hook(seen.append)
    loss_of = _loss(renderer, torch.float32)
    sum_by_object(loss_of, 2.0 * code, list(renderer.parameters())).backward()  # type: ignore[arg-type]
    assert len(seen) == 4
    assert code.grad is not None
    assert (code.grad.flatten(1).abs().sum(1) > 0).all()
