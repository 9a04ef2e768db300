from __future__ import annotations

import pytest
import torch

from pipeline.train.row_adam import EPSILON, RowAdam
from pipeline.train.schedule import BETAS


def _gradients(n: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, 4, generator=generator) for _ in range(n)]


def test_each_row_goes_the_way_of_its_own_adam() -> None:
    values = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    expected = values.clone()
    rows = [[0, 3], [3, 1], [3, 4], [0, 1]]
    gradients = _gradients(len(rows))
    for row in range(5):
        param = torch.nn.Parameter(expected[row].clone())
        alone = torch.optim.Adam([param], lr=0.05, betas=BETAS, eps=EPSILON)
        for chosen, gradient in zip(rows, gradients, strict=True):
            if row in chosen:
                param.grad = gradient[chosen.index(row)].clone()
                alone.step()
        expected[row] = param.detach()
    ours = RowAdam(values.clone())
    for chosen, gradient in zip(rows, gradients, strict=True):
        ours.update(chosen, gradient, 0.05)
    torch.testing.assert_close(ours.values, expected)
    assert torch.equal(ours.values[2], values[2])  # never touched
    assert ours.steps.tolist() == [2, 2, 0, 3, 1]


def test_all_rows_are_the_rows_in_order() -> None:
    values, (gradient,) = torch.ones(2, 3, 4), _gradients(1)
    named, all_rows = RowAdam(values.clone()), RowAdam(values.clone())
    named.update([0, 1], gradient, 0.1)
    all_rows.update(None, gradient, 0.1)
    assert torch.equal(named.values, all_rows.values)
    # The first step of Adam is the learning rate, against the gradient's sign.
    torch.testing.assert_close(named.values, 1 - 0.1 * gradient.sign())


def test_a_gradient_far_below_adams_usual_epsilon_still_moves_a_row() -> None:
    ours = RowAdam(torch.zeros(1, 4))
    ours.update([0], torch.full((1, 4), 1e-9), 0.1)
    torch.testing.assert_close(ours.values, torch.full((1, 4), -0.1), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.long, torch.float32])  # earlier checkpoints count in integers
def test_a_continued_state_has_the_same_bits(dtype: torch.dtype) -> None:
    first, second, third = _gradients(3)
    whole, start = RowAdam(torch.ones(2, 3, 4)), RowAdam(torch.ones(2, 3, 4))
    for gradient in (first, second, third):
        whole.update([1, 0], gradient, 0.1)
    start.update([1, 0], first, 0.1)
    start.update([1, 0], second, 0.1)
    state = {name: value.clone() for name, value in start.state_dict().items()}
    state["steps"] = state["steps"].to(dtype)
    ours = RowAdam(torch.zeros(2, 3, 4))
    ours.load_state_dict(state)
    ours.update([1, 0], third, 0.1)
    assert torch.equal(ours.values, whole.values)


@pytest.mark.parametrize("way", ["update", "_vectorised"])
def test_rows_take_rates_of_their_own(way: str) -> None:
    """Also as a GPU computes it, in a few operations for all rows."""
    values = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0))
    rows, rates = [2, 0], [0.05, 0.01]
    ours, expected = RowAdam(values.clone(), (0.8, 0.95)), RowAdam(values.clone(), (0.8, 0.95))
    for gradient in _gradients(3):
        getattr(ours, way)(rows, gradient, rates)
        for i, (row, rate) in enumerate(zip(rows, rates, strict=True)):
            expected.update([row], gradient[i : i + 1], rate)
    torch.testing.assert_close(ours.values, expected.values, rtol=1e-6, atol=1e-7)
    assert ours.steps.tolist() == [3, 0, 3]


def test_a_row_that_begins_anew_has_forgotten() -> None:
    first, second = _gradients(2)
    used, new = RowAdam(torch.ones(2, 3, 4)), RowAdam(torch.ones(2, 3, 4))
    used.update([0, 1], first, 0.1)
    used.reset(1, torch.ones(3, 4))
    for adam in (used, new):
        adam.update([1], second[1:], 0.1)
    assert torch.equal(used.values[1], new.values[1])
    assert not torch.equal(used.values[0], torch.ones(3, 4))
