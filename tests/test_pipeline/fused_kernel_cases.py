"""The fused kernel against torch's code; run by test_fused_kernel.py, on a GPU or in Triton's interpreter."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from pipeline.model import kernel_choice
from pipeline.model import renderer as renderer_module
from pipeline.model.fused_kernel import fused_decode
from pipeline.model.geometry import Axes, Geometry
from pipeline.model.kernel_choice import torch_decode
from pipeline.model.planes import fuse, plane_table
from pipeline.model.renderer import PlaneTable, Renderer, render_rays, render_rays_twice

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Case:
    """Sizes that are not multiples of anything; a third of the points lies outside of the box."""

    f_mic: int = 3
    f_mac: int = 2
    width: int = 20
    channels: int = 4
    points: int = 101
    resolution: int = 7
    objects: int = 3
    axes: Axes = "xyz"


CASES = {
    "odd sizes": Case(),
    "ULW, RGB": Case(f_mic=0, f_mac=5, channels=3),
    "micro only, one object": Case(f_mac=0, objects=1),
    "demo": Case(8, 8, 32, 4, 256, 64, 2),
    "paper": Case(10, 22, 64, 4, 130, 64, 2),
    "released code's axes": Case(axes="eg3d"),
    "less than a block": Case(points=1),
    "no points": Case(points=0),
}


def _leaves(case: Case) -> tuple[list[Tensor], Renderer]:
    """Micro planes, coefficients and base planes that need gradients, and a renderer."""
    torch.manual_seed(0)
    K = case.resolution
    leaves = [torch.randn(case.objects, 3, case.f_mic, K, K)] if case.f_mic else []
    if case.f_mac:
        leaves += [torch.randn(case.objects, 4), torch.randn(4, 3, case.f_mac, K, K)]
    renderer = Renderer(case.f_mic + case.f_mac, case.channels, case.width).to(DEVICE)
    return [leaf.to(DEVICE).requires_grad_() for leaf in leaves], renderer


def _planes(case: Case, leaves: list[Tensor]) -> Tensor:
    if not case.f_mac:
        return leaves[0]
    return fuse(leaves[0] if case.f_mic else None, *leaves[-2:])


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients_equal_those_of_torch(case: Case, frozen: bool) -> None:
    leaves, renderer = _leaves(case)
    params = tuple(renderer.requires_grad_(not frozen).parameters())
    points = (torch.rand(3, case.points) * 1.3 - 0.65).T.to(DEVICE)
    owner = torch.randint(0, case.objects, (case.points,), device=DEVICE)
    upstream = torch.randn(1 + case.channels, case.points, device=DEVICE)
    wanted = leaves if frozen else [*leaves, *params]
    results = []
    for decode in (torch_decode, fused_decode):
        table = plane_table(_planes(case, leaves))
        out = decode(table, points, owner, params, case.resolution, 0.55, case.axes)
        results.append([out, *torch.autograd.grad(out, wanted, upstream)])
    for expected, found in zip(*results, strict=True):
        assert not case.points or found.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n_samples", "n_fine"), [(1, 0), (6, 0), (5, 4)])
def test_rendered_rays_equal_those_of_torch(
    monkeypatch: pytest.MonkeyPatch, n_samples: int, n_fine: int
) -> None:
    case = Case()
    leaves, renderer = _leaves(case)
    origins = torch.nn.functional.normalize(torch.randn(19, 3), dim=1) * 1.3
    directions = torch.nn.functional.normalize(0.3 * torch.randn(19, 3) - origins, dim=1)
    depths = torch.linspace(0.8, 1.7, n_samples + 2)[1:-1].repeat(19, 1)
    owner = torch.arange(19) % case.objects
    rays = [part.to(DEVICE) for part in (owner, origins, directions, depths)]
    results = []
    for fused in (False, True):
        monkeypatch.setattr(renderer_module, "takes_fused", lambda *_, fused=fused: fused)
        table = PlaneTable.of(_planes(case, leaves), Geometry())
        if n_fine:
            value, opacity = render_rays_twice(renderer, table, *rays, n_fine, sigma_scale=3.0)
        else:
            value, opacity, _ = render_rays(renderer, table, *rays, 3.0)
        loss = value.square().sum() + opacity.sum()
        gradients = torch.autograd.grad(loss, [*leaves, *renderer.parameters()])
        results.append([value, opacity, *gradients])
    assert n_samples == 1 or float(results[0][1].detach().max()) > 0.1
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_kernel_passes_its_own_check() -> None:
    assert kernel_choice.fault(DEVICE, 5, 20, 4) is None
    assert kernel_choice.fault(DEVICE, 32, 64, 5) is None
