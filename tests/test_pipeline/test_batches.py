from __future__ import annotations

import pytest
import torch

from pipeline.train.batches import draw_pixels, view_pixels
from pipeline.train.draws import seeded_generator
from pipeline.train.losses import paste_pixels
from pipeline.train.ray_bank import RayBank, build_ray_bank
from pipeline.train.training_views import TrainingViews
from tests.test_pipeline.toy import GEOMETRY, toy_object

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def objects() -> list[TrainingViews]:
    return [toy_object(seed).training() for seed in range(3)]


@pytest.fixture(scope="module")
def bank(objects: list[TrainingViews]) -> RayBank:
    return build_ray_bank(objects, 4, GEOMETRY, 0, CPU)


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
