from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from pipeline.model.rays import view_rays
from pipeline.train.batches import (
    RayBank,
    TrainingViews,
    build_ray_bank,
    cycle,
    draw_pixels,
    over_white,
    seeded_generator,
    view_pixels,
)
from pipeline.train.losses import paste_pixels
from tests.test_pipeline.toy import GEOMETRY, toy_object

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def objects() -> list[TrainingViews]:
    return [toy_object(seed).training() for seed in range(3)]


@pytest.fixture(scope="module")
def bank(objects: list[TrainingViews]) -> RayBank:
    return build_ray_bank(objects, 4, GEOMETRY, 0, CPU)


def test_seeds_do_not_depend_on_the_process() -> None:
    # sha256 of "fit", "0" and "car" joined by \x1f, first 8 bytes little-endian, halved: a change changes
    # every fit.
    digest = hashlib.sha256(b"fit\x1f0\x1fcar").digest()
    generator = seeded_generator("fit", 0, "car")
    assert generator.initial_seed() == int.from_bytes(digest[:8], "little") // 2 == 7692578285195233130
    assert seeded_generator("fit", 0, "car").initial_seed() == generator.initial_seed()
    assert seeded_generator("fit", 1, "car").initial_seed() != generator.initial_seed()


def test_cycle_shows_every_item_once_per_round() -> None:
    whole = cycle(5, 15, 0, "x")
    assert [sorted(whole[k : k + 5]) for k in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3
    assert cycle(5, 4, 3, "x") == whole[3:7]
    assert cycle(5, 15, 0, "y") != whole


def test_only_training_views_are_kept() -> None:
    toy = toy_object(0, views=6, heldout=2)
    views = toy.training()
    assert len(views.rgba) == 4
    np.testing.assert_array_equal(views.cam2world, toy.cam2world[~toy.heldout])
    with pytest.raises(ValueError, match="no training view"):
        TrainingViews.of("x", toy.images, toy.cam2world, toy.intrinsics, np.ones(6, bool))


def test_straight_alpha_is_composited_over_white() -> None:
    # a = 51/255 = 0.2: 0.2 · 1 + 0.8 = 1, 0.2 · 0 + 0.8 = 0.8, 0.2 · 102/255 + 0.8 = 0.88.
    rgba = torch.tensor([[[[255, 0, 102, 51]]]], dtype=torch.uint8)
    torch.testing.assert_close(over_white(rgba)[0, :, 0, 0], torch.tensor([1.0, 0.8, 0.88]))


def test_the_bank_holds_every_pixel_that_shows_the_object(
    bank: RayBank, objects: list[TrainingViews]
) -> None:
    for i, views in enumerate(objects):
        shown = (
            (views.rgba[..., 3] > 0)
            .reshape(len(views.rgba), 8, 4, 8, 4)
            .any((2, 4))
            .reshape(len(views.rgba), 64)
        )
        part = slice(int(bank.object_start[i]), int(bank.object_start[i + 1]))
        held = np.zeros_like(shown)
        held[bank.view[part], bank.pixel[part]] = True
        centre = (views.rgba[:, 2::4, 2::4, 3] > 0).reshape(shown.shape)
        assert held[centre].all()
        assert held.sum() < 0.9 * held.size
    assert bank.n_objects == 3
    assert (bank.far > bank.near).any(1).all()


def test_rays_of_the_bank_are_those_of_their_views(bank: RayBank, objects: list[TrainingViews]) -> None:
    views = objects[1]
    origins, directions = view_rays(
        torch.from_numpy(views.cam2world), torch.from_numpy(views.intrinsics), 32, 32, 4
    )
    start = int(bank.object_start[1])
    for view in range(len(views.rgba)):
        own = slice(start + int(bank.view_start[1][view]), start + int(bank.view_start[1][view + 1]))
        assert (bank.view[own] == view).all()
        torch.testing.assert_close(bank.directions[own], directions[view, bank.pixel[own]])
        index = torch.arange(own.start, own.stop)
        found = bank.rays(index, torch.ones_like(index))
        assert (found[0] == origins[view]).all()
        assert torch.equal(found[1], bank.directions[own])


def test_drawn_pixels_do_not_depend_on_company(bank: RayBank) -> None:
    def draw(rows: list[int]) -> dict[int, torch.Tensor]:
        batch = draw_pixels(bank, rows, [seeded_generator(i) for i in rows], 16, 4)
        return {row: batch.index[batch.slot == slot] for slot, row in enumerate(rows)}

    together, alone = draw([0, 1, 2]), draw([2])
    assert torch.equal(together[2], alone[2])
    for row, index in together.items():
        assert ((index >= bank.object_start[row]) & (index < bank.object_start[row + 1])).all()


@pytest.mark.parametrize("crop_px", [0, 16])
def test_windows_hold_the_right_pixels(bank: RayBank, objects: list[TrainingViews], crop_px: int) -> None:
    views = [[0, 3], [2], [1]]
    batch = view_pixels(bank, [0, 1, 2], views, [seeded_generator(i) for i in range(3)], 4, crop_px)
    size = crop_px // 4 or 8
    assert (batch.height, batch.width) == (size, size)
    assert [(slot, view) for slot, view, _, _ in batch.windows] == [(0, 0), (0, 3), (1, 2), (2, 1)]
    rgb = batch.rgb(objects, CPU)
    for k, (slot, view, top, left) in enumerate(batch.windows):
        whole = objects[slot].rgb(CPU)[view]
        expected = whole[:, top * 4 : (top + size) * 4, left * 4 : (left + size) * 4]
        torch.testing.assert_close(rgb[k], expected)
    # Every pixel goes to the cell of its window that it has in its view.
    window = batch.cell // size**2
    row, col = batch.cell % size**2 // size, batch.cell % size
    tops, lefts = (torch.tensor([w[k] for w in batch.windows]) for k in (2, 3))
    pixel = (row + tops[window]) * 8 + col + lefts[window]
    assert torch.equal(pixel, bank.pixel[batch.rays.index])
    assert torch.equal(bank.view[batch.rays.index], torch.tensor([w[1] for w in batch.windows])[window])


def test_windows_cover_a_small_object_and_lie_in_a_large_one(bank: RayBank) -> None:
    for seed in range(20):
        batch = view_pixels(bank, [0], [[1]], [seeded_generator(seed)], 4, 16)
        first = int(bank.object_start[0])
        pixel = bank.pixel[first + int(bank.view_start[0][1]) : first + int(bank.view_start[0][2])]
        rows = pixel // 8
        (_, _, top, _), height = batch.windows[0], batch.height
        if rows.max() - rows.min() < height:
            assert top <= rows.min()
            assert top + height > rows.max()
        else:
            assert rows.min() <= top
            assert top + height <= rows.max() + 1


def test_background_shows_exactly_where_no_ray_goes(bank: RayBank) -> None:
    batch = view_pixels(bank, [0, 1], [[0], [1]], [seeded_generator(0), seeded_generator(1)], 4)
    background = torch.rand(1, 2, 8, 8).expand(2, 2, 8, 8)
    n = len(batch.cell)
    images = paste_pixels(torch.full((n, 2), 0.5), torch.full((n,), 0.75), batch, background)
    touched = torch.zeros(2 * 64, dtype=torch.bool)
    touched[batch.cell] = True
    touched = touched.view(2, 1, 8, 8).expand_as(images)
    assert torch.equal(images[~touched], background[~touched])
    torch.testing.assert_close(images[touched], (0.5 + 0.25 * background)[touched])
