from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.fit.codes import CodeSlots, add_variation_gradient, summed
from pipeline.model.shared import SharedComponents
from pipeline.train.losses import total_variation
from pipeline.train.schedule import Rates
from tests.test_pipeline.toy import toy_trainer, trained_shared

BETAS = (0.9, 0.99)


@pytest.fixture(scope="module")
def shared() -> SharedComponents:
    return trained_shared(toy_trainer())


def test_a_sum_of_levels_is_that_of_enlarged_planes() -> None:
    fine, coarse = torch.zeros(1, 1, 1, 4, 4), torch.tensor([[0.0, 4.0], [8.0, 12.0]]).view(1, 1, 1, 2, 2)
    # Texel centres of 4 lie at -0.25, 0.25, 0.75, 1.25 of 2: along a row 0, 1, 3, 4, and twice that down.
    row, column = torch.tensor([0.0, 1.0, 3.0, 4.0]), torch.tensor([0.0, 2.0, 6.0, 8.0])
    torch.testing.assert_close(summed([fine, coarse])[0, 0, 0], row[None] + column[:, None])


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_slot_begins_with_the_mean_object_or_a_code_whatever_it_held(
    shared: SharedComponents, levels: int
) -> None:
    assert shared.mean_micro is not None
    codes = CodeSlots(shared, 2, levels, BETAS)
    given = (np.full_like(shared.mean_micro.numpy(), 2.0), np.full(2, 3.0, np.float32))
    codes.start(0, None)
    leaves = codes.leaves(torch.tensor([0]))
    leaves.planes.square().sum().backward()
    codes.update([0], leaves, [Rates(0.1, 0.1)])
    moved, _ = codes.code(0)
    assert moved is not None
    assert np.abs(moved - shared.mean_micro.numpy()).max() > 0.05
    codes.start(0, given)
    micro, coefficients = codes.code(0)
    np.testing.assert_array_equal(micro, given[0])
    np.testing.assert_array_equal(coefficients, given[1])
    codes.start(0, None)
    micro, coefficients = codes.code(0)
    np.testing.assert_array_equal(micro, shared.mean_micro.numpy())
    np.testing.assert_array_equal(coefficients, shared.mean_coefficients.numpy())


def test_a_step_moves_the_named_slots_at_their_own_rates(shared: SharedComponents) -> None:
    codes = CodeSlots(shared, 3, 2, BETAS)
    for slot in range(3):
        codes.start(slot, None)
    before = [codes.code(slot)[1] for slot in range(3)]
    leaves = codes.leaves(torch.tensor([2, 0]))
    leaves.planes.sum().backward()
    codes.update([2, 0], leaves, [Rates(0.1, 0.1), Rates(0.1, 0.02)])
    after = [codes.code(slot)[1] for slot in range(3)]
    # Adam's first step is the rate itself.
    assert np.abs(after[2] - before[2]) == pytest.approx(0.1, rel=1e-3)
    assert np.abs(after[0] - before[0]) == pytest.approx(0.02, rel=1e-3)
    np.testing.assert_array_equal(after[1], before[1])


def test_without_micro_planes_there_are_coefficients_alone(shared: SharedComponents) -> None:
    bare = replace(shared, f_mic=0, mean_micro=None)
    codes = CodeSlots(bare, 1, 2, BETAS)
    codes.start(0, None)
    assert codes.code(0)[0] is None
    assert codes.leaves(torch.tensor([0])).planes.shape == (1, 3, 4, 16, 16)


def test_the_written_out_gradient_is_that_of_total_variation() -> None:
    planes = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (0.3 * sum(total_variation(planes[i : i + 1]) for i in range(2))).backward()
    found = torch.ones(2, 3, 4, 5, 5)
    add_variation_gradient(found, planes.detach(), 0.3)
    assert planes.grad is not None
    torch.testing.assert_close(found, 1 + planes.grad)


def test_planes_of_one_texel_have_no_variation() -> None:
    grad = torch.zeros(1, 3, 2, 1, 1)
    add_variation_gradient(grad, torch.ones_like(grad), 1.0)
    assert not grad.any()
