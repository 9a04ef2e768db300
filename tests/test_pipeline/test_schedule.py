from __future__ import annotations

import pytest

from pipeline.train.schedule import Decay, Rates


def test_multistep_falls_at_its_milestones() -> None:
    decay = Decay("multistep", milestones=(0.4, 0.8), gamma=0.3)  # epochs 20 and 40 of 50
    epochs = {0: 1.0, 19: 1.0, 20: 0.3, 39: 0.3, 40: 0.09, 49: 0.09}
    for epoch, factor in epochs.items():
        assert decay.at(epoch / 50) == pytest.approx(factor)


def test_exponential_falls_by_the_same_factor_every_epoch() -> None:
    decay = Decay("exponential", final=0.941**30)
    for epoch in (0, 1, 10, 29):
        assert decay.at(epoch / 30) == pytest.approx(0.941**epoch)


def test_rates_are_scaled_and_say_what_they_are() -> None:
    rates = Rates(1e-2, 1e-2, 1e-2, 1e-3, 0.0).scaled(0.5)
    assert str(rates) == "micro 0.005, coefficients 0.005, base 0.005, renderer 0.0005"
    assert "autoencoder 0.0001" in str(Rates(autoencoder=1e-4))
