from __future__ import annotations

import pytest

from pipeline.fit.pace import Pace, Stopping


def _see(pace: Pace, losses: list[float]) -> list[tuple[float, bool]]:
    seen = []
    for loss in losses:
        pace.see(loss)
        seen.append((pace.scale, pace.ended))
    return seen


def test_an_object_that_gains_too_little_slows_down_and_then_ends() -> None:
    pace = Pace(Stopping(gain=0.1, factor=0.5, lowered=2))
    # Least falls: 8 -> 7.2, 4 -> 3.6, 3.8 -> 3.42, 3.2 -> 2.88, 3.0 -> 2.7.
    assert _see(pace, [8, 4, 3.8, 3.2, 3.0, 2.9]) == [
        (1.0, False),
        (1.0, False),
        (0.5, False),
        (0.5, False),
        (0.25, False),
        (0.25, True),
    ]


def test_a_loss_that_rises_gains_too_little() -> None:
    assert _see(Pace(Stopping(gain=0.01, factor=0.3, lowered=0)), [1, 2])[-1] == (1.0, True)


@pytest.mark.parametrize("losses", [[1, 1, 1, 1], [1, 2, 3, 4]])
def test_without_a_gain_to_ask_for_nothing_ends(losses: list[float]) -> None:
    assert _see(Pace(Stopping(gain=0)), losses)[-1] == (1.0, False)
