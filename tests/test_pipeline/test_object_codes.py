from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.train.object_codes import ObjectCodes
from pipeline.train.schedule import Rates
from tests.test_pipeline.toy import toy_settings

CPU = torch.device("cpu")


def test_codes_start_from_the_seed_and_the_id_alone() -> None:
    together, alone = (
        ObjectCodes(["a", "b"], toy_settings(), 0, CPU),
        ObjectCodes(["b"], toy_settings(), 0, CPU),
    )
    for mine, other in zip(together.of(1), alone.of(0), strict=True):
        assert mine is not None
        assert other is not None
        assert torch.equal(mine, other)
    assert not torch.equal(together.of(0)[1], together.of(1)[1])
    assert not torch.equal(alone.of(0)[1], ObjectCodes(["b"], toy_settings(), 1, CPU).of(0)[1])


@pytest.mark.parametrize("sizes", [{}, {"f_mic": 0}, {"n_base": 0, "f_mac": 0}])
def test_a_step_moves_its_objects_only_and_goes_through_a_state(sizes: dict[str, int]) -> None:
    settings = replace(toy_settings(), **sizes)
    codes, before = (ObjectCodes(["a", "b", "c"], settings, 0, CPU) for _ in range(2))
    leaves = codes.leaves([2, 0])
    sum(part.square().sum() for part in leaves if part is not None).backward()  # type: ignore[union-attr]
    codes.update([2, 0], leaves, Rates())
    again = ObjectCodes(["a", "b", "c"], settings, 5, CPU)
    again.load_state_dict(codes.state_dict())
    for row, moves in ((0, True), (1, False), (2, True)):
        for mine, old, loaded in zip(codes.of(row), before.of(row), again.of(row), strict=True):
            if mine is not None and mine.numel():
                assert torch.equal(mine, loaded)  # type: ignore[arg-type]
                assert torch.equal(mine, old) != moves  # type: ignore[arg-type]
    assert (codes.stored().micro is None) == (settings.f_mic == 0)
