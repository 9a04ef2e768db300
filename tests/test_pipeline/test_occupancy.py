from __future__ import annotations

import numpy as np
import torch

from pipeline.model.occupancy import grid_points, grow, is_occupied, latent_masks, occupied_span, visual_hull
from tests.test_pipeline.toy import SIZE_PX, toy_object


def test_latent_masks_keep_every_touched_block() -> None:
    alpha = torch.zeros(1, 8, 8)
    alpha[0, 3, 4] = 0.01
    masks = latent_masks(alpha, 4, 0)
    assert masks[0].tolist() == [[False, True], [False, False]]
    assert latent_masks(alpha, 4, 1).all()
    assert grow(masks, 0) is masks


def test_the_hull_holds_the_object_and_little_else() -> None:
    toy = toy_object(3, views=12, heldout=0)
    alpha = torch.from_numpy(toy.images[..., 3]).float() / 255
    cameras, matrices = torch.from_numpy(toy.cam2world), torch.from_numpy(toy.intrinsics)
    hull = visual_hull(latent_masks(alpha, 1, 0), cameras, matrices, 1, 0.55, 0.52, grid=32)
    # The same draw as in toy_object gives the radii.
    radii = torch.from_numpy(np.random.default_rng(3).uniform(0.25, 0.42, 3)).float()
    inside = ((grid_points(32, 0.55, cameras) / radii).norm(dim=1) < 1).view(32, 32, 32)
    assert hull[inside].all()
    assert hull.float().mean() < 3 * inside.float().mean()
    assert alpha.shape[1] == SIZE_PX


def test_without_masks_the_hull_is_the_sphere() -> None:
    toy = toy_object(3)
    masks = torch.ones(len(toy.images), 32, 32, dtype=torch.bool)
    cameras, matrices = torch.from_numpy(toy.cam2world), torch.from_numpy(toy.intrinsics)
    hull = visual_hull(masks, cameras, matrices, 1, 0.55, 0.4, grid=16)
    points = grid_points(16, 0.55, cameras).norm(dim=1).view(16, 16, 16)
    assert hull[points <= 0.4].all()
    assert not hull[points > 0.4 + 2 * 1.1 / 16 * 3**0.5].any()


def test_lookup_by_hand() -> None:
    # Grid of 2³ over ±1: only the cell x < 0, y > 0, z > 0 is occupied.
    grids = torch.zeros(2, 2, 2, 2, dtype=torch.bool)
    grids[1, 0, 1, 1] = True
    points = torch.tensor([[-0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [-0.5, 0.5, 1.5]])
    index = torch.tensor([1, 1, 1])
    assert is_occupied(grids, points, 1.0, index).tolist() == [True, False, False]
    assert not is_occupied(grids[0], points, 1.0).any()


def test_spans_shrink_to_what_is_occupied() -> None:
    # Along +x through cells 4..5 of 8 (x from 0 to 0.5) of a grid over ±1, from x = -1 on.
    grid = torch.zeros(8, 8, 8, dtype=torch.bool)
    grid[4:6] = True
    origins, directions = (
        torch.tensor([[-1.0, 0.1, 0.1], [-1.0, 0.1, 0.1]]),
        torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]),
    )
    start, end = occupied_span(
        grid, origins, directions, torch.zeros(2), torch.full((2,), 2.0), 1.0, steps=64
    )
    torch.testing.assert_close(start[0], torch.tensor(1.0))
    torch.testing.assert_close(end[0], torch.tensor(1.5))
    assert end[1] <= start[1]
