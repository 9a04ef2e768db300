from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.model.compositing import midpoint_weights, stratified_depths
from pipeline.model.geometry import Geometry
from pipeline.model.planes import sample_planes
from pipeline.model.rays import view_rays
from pipeline.model.renderer import PlaneTable, Renderer, render_rays, render_views
from tests.test_pipeline.toy import look_at_origin

RADIUS = 0.3
DENSITY = 6.0


class SphereRenderer(Renderer):
    """The one feature is the squared radius: density is DENSITY inside a sphere and 0 outside."""

    def __init__(self) -> None:
        super().__init__(n_features=1, n_channels=2)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inside = features[:, 0] < RADIUS**2
        raw = torch.where(inside, math.log(math.expm1(DENSITY)) + 1.0, -60.0)
        return raw, torch.tensor([0.25, 0.75]).expand(len(features), 2)


def _squared_radius_planes(K: int) -> torch.Tensor:
    """Planes whose summed reading at (x, y, z) is x² + y² + z²: xy holds x² + y², xz holds z², yz nothing."""
    axis = (torch.arange(K) + 0.5) / K * 1.1 - 0.55
    planes = torch.zeros(3, 1, K, K)
    planes[0, 0] = axis[None, :] ** 2 + axis[:, None] ** 2
    planes[1, 0] = (axis[:, None] ** 2).expand(K, K)
    return planes


@pytest.mark.parametrize("samples", [(256, 0), (96, 96)])
def test_a_sphere_of_known_density_renders_to_the_analytic_image(samples: tuple[int, int]) -> None:
    position = np.array([1.0, -0.6, 0.58])
    position *= 1.3 / np.linalg.norm(position)
    cam2world = torch.from_numpy(look_at_origin(position)[None]).float()
    matrix = torch.tensor([[[16.0, 0, 8], [0, 16, 8], [0, 0, 1]]])
    background = torch.stack([torch.full((16, 16), 1.0), torch.full((16, 16), 0.5)])
    geometry = Geometry(n_coarse=samples[0], n_fine=samples[1])
    found = render_views(
        SphereRenderer(), _squared_radius_planes(128), cam2world, matrix, (16, 16), 1, geometry, background
    )[0]
    _, directions = view_rays(cam2world, matrix, 16, 16)
    # A ray that passes the centre at distance d crosses 2·sqrt(r² - d²) of the sphere: Beer and Lambert.
    along = directions[0, :, 0] @ torch.from_numpy(-position).float()
    distance2 = 1.3**2 - along**2
    chord = 2 * (RADIUS**2 - distance2).clamp(min=0).sqrt()
    opacity = 1 - torch.exp(-DENSITY * chord)
    expected = torch.stack([0.25 * opacity + (1 - opacity), 0.75 * opacity + 0.5 * (1 - opacity)])
    assert opacity.max() > 0.95
    assert (opacity == 0).any()
    assert (found.flatten(1) - expected).abs().max() < 0.03
    assert (found.flatten(1) - expected).abs().mean() < 0.004


class SoftShell(Renderer):
    """Density with a narrow peak at the sphere's surface; the colour depends on the radius."""

    def __init__(self) -> None:
        super().__init__(n_features=1, n_channels=1)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        radius = features[:, 0].clamp(min=0).sqrt()
        raw = 300.0 * torch.exp(-(((radius - RADIUS) / 0.02) ** 2)) - 30.0
        return raw, (10 * (radius - RADIUS) + 0.5)[:, None]


def test_importance_samples_sharpen_a_thin_shell() -> None:
    cam2world = torch.from_numpy(look_at_origin(np.array([0.9, 0.5, 0.8]))[None]).float()
    matrix = torch.tensor([[[16.0, 0, 8], [0, 16, 8], [0, 0, 1]]])
    planes, background = _squared_radius_planes(128), torch.zeros(1, 16, 16)

    def image(n_coarse: int, n_fine: int) -> torch.Tensor:
        geometry = Geometry(n_coarse=n_coarse, n_fine=n_fine)
        return render_views(SoftShell(), planes, cam2world, matrix, (16, 16), 1, geometry, background)

    truth = image(4096, 0)
    coarse, fine = ((image(48, n) - truth).abs().mean() for n in (0, 48))
    assert fine < 0.5 * coarse
    assert fine < (image(96, 0) - truth).abs().mean()  # the same number of samples, spread evenly


def test_rays_of_a_step_equal_the_separate_functions() -> None:
    torch.manual_seed(0)
    planes, renderer = torch.randn(2, 3, 4, 8, 8), Renderer(4, 3, 8)
    origins, directions = torch.randn(5, 3) * 0.1, nn.functional.normalize(torch.randn(5, 3), dim=1)
    depths = stratified_depths(torch.zeros(5), torch.full((5,), 0.7), 6)
    index = torch.tensor([1, 0, 0, 1, 1])
    geometry = Geometry()
    table = PlaneTable.of(planes, geometry)
    value, opacity, weights = render_rays(renderer, table, index, origins, directions, depths, 3.0)
    for ray in range(5):
        points = origins[ray] + directions[ray] * depths[ray][:, None]
        raw, colour = renderer(sample_planes(planes[index[ray]][None], points[None], 0.55)[0])
        expected = midpoint_weights(raw[None], depths[ray][None], 3.0)
        torch.testing.assert_close(weights[ray], expected[0])
        middle = (colour[1:] + colour[:-1]) / 2
        torch.testing.assert_close(value[ray], (expected[0][:, None] * middle).sum(0))
        assert opacity[ray].item() == pytest.approx(expected.sum().item(), rel=1e-5)


def test_sub_rays_are_averaged() -> None:
    torch.manual_seed(0)
    planes, renderer = torch.randn(3, 4, 8, 8), Renderer(4, 2, 8)
    cam2world = torch.from_numpy(look_at_origin(np.array([0.9, 0.5, 0.8]))[None]).float()
    matrix = torch.tensor([[[16.0, 0, 8], [0, 16, 8], [0, 0, 1]]])
    coarse = Geometry(n_coarse=16, n_fine=0, supersample=2)
    fine = Geometry(n_coarse=16, n_fine=0)
    whole = render_views(renderer, planes, cam2world, matrix, (16, 16), 2, coarse, torch.zeros(2, 8, 8))
    each = render_views(renderer, planes, cam2world, matrix, (16, 16), 1, fine, torch.zeros(2, 16, 16))
    torch.testing.assert_close(whole, nn.functional.avg_pool2d(each, 2))
