from __future__ import annotations

import math

import pytest
import torch

from pipeline.model.occupancy import is_occupied
from pipeline.model.planes import sample_planes
from pipeline.model.renderer import PlaneTable, Renderer, render_rays
from pipeline.train.batches import draw_pixels
from pipeline.train.draws import seeded_generator
from pipeline.train.losses import free_space, latent_error, render_pixels, total_variation
from pipeline.train.ray_bank import build_ray_bank
from tests.test_pipeline.toy import GEOMETRY, toy_object


def test_a_steps_pixels_equal_rays_rendered_apart() -> None:
    torch.manual_seed(0)
    bank = build_ray_bank(
        [toy_object(0).training(), toy_object(1).training()], 4, GEOMETRY, 0, torch.device("cpu")
    )
    planes, renderer = torch.randn(2, 3, 4, 8, 8), Renderer(4, 3, 8)
    table = PlaneTable.of(planes, GEOMETRY)
    batch = draw_pixels(bank, [1, 0], [seeded_generator(i) for i in (1, 0)], 7, 5)
    objects, random = torch.tensor([1, 0]), torch.rand(2, 11, 3)
    drawn = render_pixels(renderer, table, bank, batch, objects, random, GEOMETRY)
    near, far = bank.near[batch.index], bank.far[batch.index]
    depths = near + (far - near) * (torch.arange(5) + batch.jitter) / 5
    origins, directions = (
        bank.rays(batch.index, torch.tensor([1, 0])[batch.slot])[0],
        bank.directions[batch.index][:, 0],
    )
    value, opacity, _ = render_rays(
        renderer, table, batch.slot, origins, directions, depths, GEOMETRY.sigma_scale
    )
    torch.testing.assert_close(drawn.value, value)
    torch.testing.assert_close(drawn.opacity, opacity)
    # Free space, point by point: the slots hold objects 1 and 0 of the bank.
    for slot, i in enumerate((1, 0)):
        points = (2 * random[slot] - 1) * GEOMETRY.box_half
        raw, _ = renderer(sample_planes(planes[slot][None], points[None], GEOMETRY.box_half)[0])
        empty = ~is_occupied(bank.occupancy[i], points, GEOMETRY.box_half)
        torch.testing.assert_close(drawn.free[slot], free_space(raw, empty, GEOMETRY).mean())
        assert 0 < empty.sum() <= 11


def test_free_space_counts_only_points_known_to_be_empty() -> None:
    # softplus(0) = ln 2, times sigma_scale 10, over a sixteenth of the box of side 1.1.
    raw, is_free = torch.tensor([1.0, 1.0]), torch.tensor([True, False])
    expected = 1 - math.exp(-10 * math.log(2) * 1.1 / 16)
    torch.testing.assert_close(free_space(raw, is_free, GEOMETRY), torch.tensor([expected, 0.0]))


def test_latents_are_compared_in_units_of_minus_one_to_one() -> None:
    assert latent_error(torch.tensor(0.75), torch.tensor(0.5)).item() == (1.5 - 1.0) ** 2


def test_total_variation_by_hand() -> None:
    planes = torch.zeros(2, 3, 1, 2, 2)
    planes[0, 0, 0] = torch.tensor([[0.0, 1.0], [3.0, 3.0]])
    # One of six planes: along columns 1² + 0², along rows 3² + 2²; two differences each per plane.
    assert float(total_variation(planes)) == pytest.approx(1 / 12 + 13 / 12)
    assert float(total_variation(planes.repeat(4, 1, 1, 1, 1))) == pytest.approx(
        14 / 12
    )  # averaged over objects
