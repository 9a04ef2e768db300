"""What each mode trains and what it leaves alone, on toy objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.fit.optimise import fit_objects
from pipeline.fit.pace import Stopping
from pipeline.frozen.blocks import FROZEN, MODES, BlockFit, Mode, equal_time_steps, fit_block, step_seconds
from pipeline.model.shared import SharedComponents
from tests.test_pipeline.toy import toy_fit_settings, toy_object, toy_trainer, trained_shared

DECODER, RETRAINED = MODES[1:]
OBJECTS = [toy_object(seed).training() for seed in (7, 8)]
SETTINGS = toy_fit_settings()


@pytest.fixture(scope="module")
def shared() -> SharedComponents:
    return trained_shared(toy_trainer())


def _parts(shared: SharedComponents) -> dict[str, torch.Tensor]:
    def flat(params: Iterator[torch.Tensor]) -> torch.Tensor:
        return torch.cat([param.detach().flatten() for param in params]).clone()

    return {
        "base": shared.base_planes.detach().clone(),
        "renderer": flat(shared.renderer.parameters()),
        "decoder": flat(shared.autoencoder.decoder_params()),
        "encoder": flat(shared.autoencoder.encoder_params()),
        "background": shared.background_latent.clone(),
    }


@pytest.mark.parametrize(
    ("mode", "moves"),
    [(FROZEN, set()), (DECODER, {"decoder"}), (RETRAINED, {"base", "renderer", "decoder"})],
)
def test_a_mode_trains_what_it_says_in_copies(shared: SharedComponents, mode: Mode, moves: set[str]) -> None:
    before = _parts(shared)
    block = fit_block(shared, OBJECTS, SETTINGS, mode, seed=1)
    after = _parts(block.shared)
    assert {name for name in before if not torch.equal(before[name], after[name])} == moves
    given = _parts(shared)
    assert all(torch.equal(before[name], given[name]) for name in before)
    assert block.own_bytes == sum(4 * before[name].numel() for name in moves)
    assert not any(param.requires_grad for param in block.shared.renderer.parameters())
    assert [code.object_id for code in block.codes] == [views.object_id for views in OBJECTS]


def test_a_frozen_block_is_what_the_fit_stage_makes(shared: SharedComponents) -> None:
    block = fit_block(shared, OBJECTS, SETTINGS, FROZEN, seed=1)
    for ours, theirs in zip(block.codes, fit_objects(shared, OBJECTS, SETTINGS, seed=1), strict=True):
        np.testing.assert_array_equal(ours.coefficients, theirs.coefficients)
        assert ours.micro is not None
        np.testing.assert_array_equal(ours.micro, theirs.micro)
        assert ours.curve == theirs.curve


def test_a_decoder_is_fine_tuned_in_rgb_steps_only(shared: SharedComponents) -> None:
    block = BlockFit(shared, OBJECTS, SETTINGS, DECODER, seed=1)
    before = _parts(block.shared)["decoder"]
    for _ in range(SETTINGS.latent_steps):
        block.step()
    assert torch.equal(before, _parts(block.shared)["decoder"])
    block.step()
    # Adam's first step is the learning rate in every direction that has a gradient, and no longer anywhere.
    moved = (_parts(block.shared)["decoder"] - before).abs()
    assert float(moved.max()) == pytest.approx(1e-4, rel=0.05)


def test_objects_of_a_block_do_not_end_early(shared: SharedComponents) -> None:
    """What they share is trained on one schedule, in which no phase is left before its time."""
    hasty = replace(SETTINGS, latent_steps=60, curve_every=5, stopping=Stopping(gain=0.9, lowered=0))
    block = fit_block(shared, OBJECTS, hasty, DECODER, seed=1)
    assert {code.steps for code in block.codes} == {(60, SETTINGS.rgb_steps)}
    assert not torch.equal(_parts(block.shared)["decoder"], _parts(shared)["decoder"])


def test_what_a_block_trains_helps_its_own_objects(shared: SharedComponents) -> None:
    settings = replace(SETTINGS, latent_steps=40, rgb_steps=20, curve_every=5)
    frozen, retrained = (fit_block(shared, OBJECTS, settings, mode, 1) for mode in (FROZEN, RETRAINED))
    for ours, theirs in zip(retrained.codes, frozen.codes, strict=True):
        assert ours.curve[-1][1] < 0.8 * theirs.curve[-1][1]


def test_an_object_without_a_ray_is_a_failure_and_the_others_go_on(shared: SharedComponents) -> None:
    empty = replace(OBJECTS[0], object_id="empty", rgba=np.zeros_like(OBJECTS[0].rgba))
    block = fit_block(shared, [OBJECTS[0], empty, OBJECTS[1]], SETTINGS, RETRAINED, seed=1)
    assert [code.failure_kind if code.failure else "" for code in block.codes] == ["", "empty_hull", ""]


def test_every_phase_of_every_mode_has_a_time(shared: SharedComponents) -> None:
    for mode in MODES:
        assert min(step_seconds(shared, OBJECTS, SETTINGS, mode, seed=1)) > 0
    without = replace(SETTINGS, latent_steps=0)
    latent, rgb = step_seconds(shared, OBJECTS, without, FROZEN, seed=1)
    assert latent == 0
    assert rgb > 0


def test_steps_that_take_equal_time() -> None:
    settings = toy_fit_settings(latent_steps=300, rgb_steps=50)
    # Frozen: 300·1 + 50·2 = 400. The mode: 300·1 + 50·4 = 500, so it has 0.8 of the steps.
    found = equal_time_steps(settings, (1.0, 2.0), (1.0, 4.0))
    assert (found.latent_steps, found.rgb_steps) == (240, 40)
    same = equal_time_steps(settings, (1.0, 2.0), (1.0, 2.0))
    assert same == settings
    few = equal_time_steps(replace(settings, latent_steps=0, rgb_steps=1), (0.0, 1.0), (0.0, 9.0))
    assert (few.latent_steps, few.rgb_steps) == (0, 1)
