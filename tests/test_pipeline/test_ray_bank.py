from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.model.rays import view_rays
from pipeline.train.ray_bank import EmptyHullError, RayBank, build_ray_bank, build_usable_ray_bank
from pipeline.train.training_views import TrainingViews
from tests.test_pipeline.toy import GEOMETRY, toy_object

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def objects() -> list[TrainingViews]:
    return [toy_object(seed).training() for seed in range(3)]


@pytest.fixture(scope="module")
def bank(objects: list[TrainingViews]) -> RayBank:
    return build_ray_bank(objects, 4, GEOMETRY, 0, CPU)


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


@pytest.mark.parametrize("place", [0, 1, 3])
def test_an_object_without_rays_is_named_and_the_others_keep_theirs(
    objects: list[TrainingViews], bank: RayBank, place: int
) -> None:
    alphas = objects[0].rgba.copy()
    alphas[1, ..., 3] = 0  # one view sees nothing: no point lies in every silhouette
    bad = replace(objects[0], object_id="bad", rgba=alphas)
    mixed = [*objects[:place], bad, *objects[place:]]
    with pytest.raises(EmptyHullError, match=r"visual hull of bad: .*cameras") as caught:
        build_ray_bank(mixed, 4, GEOMETRY, 0, CPU)
    assert caught.value.object_ids == ("bad",)
    found, usable = build_usable_ray_bank(mixed, 4, GEOMETRY, 0, CPU)
    assert [mixed[i].object_id for i in usable] == [views.object_id for views in objects]
    for name in ("centres", "directions", "near", "far", "pixel", "view", "object_start", "first_view"):
        assert torch.equal(getattr(found, name), getattr(bank, name)), name
    assert torch.equal(found.occupancy, bank.occupancy)
    nothing, usable = build_usable_ray_bank([bad, bad], 4, GEOMETRY, 0, CPU)
    assert (nothing.n_objects, usable) == (0, [])


def test_silhouettes_grown_over_the_whole_view_leave_no_hull(objects: list[TrainingViews]) -> None:
    """What the presets of the paper rely on: rays of background, along their whole way through the box."""
    blind = [replace(views, has_alpha=False) for views in objects]
    whole, unmasked = build_ray_bank(objects, 4, GEOMETRY, 8, CPU), build_ray_bank(blind, 4, GEOMETRY, 0, CPU)
    for name in ("directions", "near", "far", "pixel", "view", "occupancy"):
        assert torch.equal(getattr(whole, name), getattr(unmasked, name)), name
    missed = build_ray_bank(objects, 4, GEOMETRY, 0, CPU)
    assert len(missed.near) < 0.8 * len(whole.near)
