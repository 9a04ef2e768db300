from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.fit.draws import object_key, uniform

MASK = (1 << 64) - 1


def _splitmix(state: int) -> int:
    """The published generator, one output: Steele, Lea and Flood, figure 17."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_the_reference_above_is_splitmix() -> None:
    """Published first outputs for the seed 1234567."""
    state, found = 1234567, []
    for _ in range(3):
        found.append(_splitmix(state))
        state += 0x9E3779B97F4A7C15
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize(("key", "step"), [(1234567, 0), ((1 << 63) - 1, 41), (5, (1 << 31) - 1)])
def test_numbers_are_the_generators_outputs(key: int, step: int) -> None:
    found = uniform(torch.tensor([key]), torch.tensor([step]), 5)[0].tolist()
    jump = (step << 32) * 0x9E3779B97F4A7C15
    expected = [(_splitmix((key + jump + j * 0x9E3779B97F4A7C15) & MASK) >> 40) * 2.0**-24 for j in range(5)]
    assert found == expected


def test_an_objects_numbers_do_not_depend_on_company_or_amount() -> None:
    keys, steps = torch.tensor([3, 9, 4]), torch.tensor([0, 7, 7])
    together = uniform(keys, steps, 100)
    for i in range(3):
        assert torch.equal(together[i : i + 1, :10], uniform(keys[i : i + 1], steps[i : i + 1], 10))
    assert not torch.equal(together[1], together[2])


def test_numbers_are_uniform_and_steps_are_independent() -> None:
    numbers = uniform(torch.tensor([object_key("fit", 0, "a")]).expand(2), torch.tensor([0, 1]), 100_000)
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    counts = np.histogram(numbers.numpy(), bins=64, range=(0, 1))[0] / (200_000 / 64)
    assert abs(counts - 1).max() < 0.1  # 5.6 standard deviations of a bin's count
    assert abs(np.corrcoef(numbers.numpy())[0, 1]) < 0.015


def test_keys_depend_on_every_label() -> None:
    keys = {object_key("fit", seed, name) for seed in (0, 1) for name in ("a", "b")}
    assert len(keys) == 4
    assert all(0 <= key < 1 << 63 for key in keys)
    assert object_key("fit", 1, "23") != object_key("fit", 12, "3")
