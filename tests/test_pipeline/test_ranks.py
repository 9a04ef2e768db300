"""Two ranks against one process that sees the same global batch.

Every step sees all objects, so the draws are those of one process and only the order of additions differs.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.model.shared import RegimeOneCodes
from pipeline.train.autoencoder import AutoencoderTrainer
from pipeline.train.joint import JointTrainer
from pipeline.train.ranks import Ranks
from pipeline.train.settings import AutoencoderRecipe, JointSettings
from tests.test_pipeline.toy import toy_autoencoder, toy_object, toy_settings
from tests.test_pipeline.two_ranks import both

N_OBJECTS = 3  # two on the first rank, one on the second


def settings(ae_every: int = 1) -> JointSettings:
    return replace(
        toy_settings(),
        autoencoder=AutoencoderRecipe(steps=0),
        warmup_steps=6,
        warmup_objects=N_OBJECTS,
        joint_steps=4,
        joint_objects=N_OBJECTS,
        ae_every=ae_every,
    )


def trainer_of(objects: list[int], values: JointSettings) -> JointTrainer:
    autoencoder = toy_autoencoder()
    # The first rank alone would give another linear start and another normaliser than all views together.
    autoencoder.is_new = False
    with torch.no_grad():
        views = [toy_object(seed).training().rgb(torch.device("cpu")) for seed in range(N_OBJECTS)]
        autoencoder.fit_normaliser(autoencoder.encode_raw(torch.cat(views)))
    return JointTrainer([toy_object(seed).training() for seed in objects], autoencoder, values, seed=1)


def planes_after(trainer: JointTrainer, steps: int) -> dict[str, Any]:
    for _ in range(steps):
        trainer.step()
    return {
        "base": trainer.base_planes.detach(),
        "renderer": trainer.renderer.state_dict(),
        "autoencoder": trainer.autoencoder.state_dict(),
        "codes": trainer.codes(),
        "losses": [point.losses for point in trainer.curve],
    }


def _train(ae_every: int, rank: int, folder: Path) -> dict[str, Any]:
    return planes_after(trainer_of(list(range(N_OBJECTS))[rank::2], settings(ae_every)), 10)


@pytest.mark.parametrize("ae_every", [1, 4])
def test_two_ranks_equal_one_with_the_same_global_batch(tmp_path: Path, ae_every: int) -> None:
    first, second = both(partial(_train, ae_every), tmp_path)
    one = planes_after(trainer_of(list(range(N_OBJECTS)), settings(ae_every)), 10)
    for name in ("base", "renderer", "autoencoder"):
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
    for step, (mine, theirs) in enumerate(zip(first["losses"], one["losses"], strict=True)):
        assert mine == pytest.approx(theirs, rel=1e-4), step
        assert mine == second["losses"][step]
    together = RegimeOneCodes.merge([first["codes"], second["codes"]])
    assert together.ids == one["codes"].ids
    for mine, theirs in (
        (first["base"], one["base"]),
        (first["renderer"], one["renderer"]),
        (together.micro, one["codes"].micro),
        (together.coefficients, one["codes"].coefficients),
    ):
        # Seen: 6e-7 at most, of values up to 1.7, after ten steps.
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    # Adam makes a part of a step (5e-4 long) of a gradient that is nothing but rounding; which parameter that
    # meets changes with seed and kernel. Seen with seeds 1 and 2: 8e-6 at most, 4e-10 on average of 339,328.
    # Seed 0 meets one parameter that is 6.8e-5 off.
    torch.testing.assert_close(first["autoencoder"], one["autoencoder"], rtol=1e-5, atol=5e-5)
    difference = torch.cat(
        [(first["autoencoder"][name] - value).abs().flatten() for name, value in params(one)]
    )
    assert float(difference.mean()) < 1e-8


def params(found: dict[str, Any]) -> list[tuple[str, torch.Tensor]]:
    return [item for item in found["autoencoder"].items() if item[1].is_floating_point()]


RECIPE = AutoencoderRecipe(steps=5, batch_size=4, crop_px=0)


def _train_autoencoder(rank: int, folder: Path) -> dict[str, Any]:
    values = replace(settings(), autoencoder=RECIPE)
    return planes_after(trainer_of([rank], values), 5)


class _BothRanksViews:
    """The views that two ranks draw at the same rows, together."""

    def __init__(self) -> None:
        self._own = [toy_object(seed).training().rgba for seed in range(2)]

    def __len__(self) -> int:
        return len(self._own[0])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return np.concatenate([own[rows] for own in self._own])


def test_the_ranks_train_the_autoencoder_together(tmp_path: Path) -> None:
    first, second = both(_train_autoencoder, tmp_path)
    torch.testing.assert_close(first["autoencoder"], second["autoencoder"], rtol=0, atol=0)
    one = toy_autoencoder()
    one.is_new = False
    # The ranks share a batch of 4: rows of 2 views are drawn on each.
    trainer = AutoencoderTrainer(one, _BothRanksViews(), replace(RECIPE, batch_size=2))
    trainer.run()
    assert [point["ae"] for point in first["losses"]] == pytest.approx(trainer.losses, rel=1e-4)
    own = {name.removeprefix("vae."): value for name, value in first["autoencoder"].items() if "vae." in name}
    torch.testing.assert_close(own, dict(one.vae.state_dict()), rtol=1e-5, atol=1e-6)  # seen: 2e-7 at most


def _break_one(rank: int, folder: Path) -> list[str]:
    """Makes what one rank sees not finite, once in every phase; all ranks must say so at once."""
    said = []
    for steps, where in ((1, "autoencoder"), (7, "warmup"), (12, "joint")):
        values = replace(settings(), autoencoder=RECIPE)
        trainer = trainer_of([rank], values)
        planes_after(trainer, steps)
        assert trainer.phase == where
        if rank == 1:
            tensor = (
                next(trainer.autoencoder.decoder_params()) if where == "autoencoder" else trainer.base_planes
            )
            with torch.no_grad():
                tensor.fill_(torch.nan)
        with pytest.raises(FloatingPointError) as error:
            trainer.step()
        said.append(str(error.value))
    return said


def test_a_loss_that_is_not_finite_on_one_rank_stops_all(tmp_path: Path) -> None:
    first, second = both(_break_one, tmp_path)
    assert "a rank's gradients are not finite" in first[0]
    assert re.search(r"in step 1 \(autoencoder\) at learning rates autoencoder 0\.00\d", first[0])
    assert re.search(r"nan in step 1 at learning rate 0\.00\d", second[0])
    assert first[1:] == second[1:]
    assert re.search(r"step 7 \(warmup\) is nan at learning rates micro 0\.0\d+, coefficients", first[1])


def _break_one_gradient(rank: int, folder: Path) -> list[str]:
    """Breaks the gradient of a code, which lies on one rank alone."""
    said = []
    for steps in (1, 7):
        trainer = trainer_of([rank], settings())
        planes_after(trainer, steps)
        if rank == 1:
            leaves_of = trainer._codes.leaves

            def broken(rows: Any, leaves_of: Any = leaves_of) -> Any:
                micro, coefficients = leaves_of(rows)
                micro.register_hook(lambda grad: grad * torch.nan)
                return micro, coefficients

            trainer._codes.leaves = broken  # type: ignore[method-assign]
        with pytest.raises(FloatingPointError) as error:
            trainer.step()
        said.append(str(error.value))
    return said


def test_a_gradient_that_is_not_finite_on_one_rank_stops_all(tmp_path: Path) -> None:
    first, second = both(_break_one_gradient, tmp_path)
    assert first == second
    assert re.search(r"gradient of step 1 \(warmup\) is not finite at learning rates micro 0\.0\d+", first[0])
    assert "step 7 (joint)" in first[1]


def test_one_rank_does_nothing_and_work_is_dealt_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Ranks(5)
    assert (alone.rank, alone.world) == (0, 1)
    assert (alone.share(3), alone.share(8), alone.fraction(3), alone.even_share(16)) == (3, 5, 1.0, 16)
    losses = {"a": float("nan")}
    assert alone.sum(losses) is losses
    # 7 objects on 3 ranks, 3 + 2 + 2: of a step's 4 the first takes 2, of 9 each takes all that it has.
    monkeypatch.setattr(alone, "world", 3)
    monkeypatch.setattr(alone, "_sizes", [3, 2, 2])
    shares = []
    for rank in range(3):
        monkeypatch.setattr(alone, "rank", rank)
        shares.append([alone.share(4), alone.share(9), alone.share(1), alone.fraction(4)])
    assert shares == [[2, 3, 1, 0.5], [1, 2, 1, 0.25], [1, 2, 1, 0.25]]
