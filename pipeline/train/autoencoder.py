"""Training of an autoencoder alone, on views (METHOD section 3, "low-budget"): plain torch, any device.

The batch of step s is a pure function of (seed, s) and the learning rate of (recipe, s), so that training may stop
after any step and continue from `AutoencoderTrainer.state_dict` to the same bits. Only training views may be given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.model.autoencoder import Autoencoder

_NORMALISER_VIEWS = 256


class ViewSource(Protocol):
    """Training views as uint8: a numpy array [n, H, W, 4] is one."""

    def __len__(self) -> int:
        """Number of views."""

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Views [len(rows), H, W, 4]: straight-alpha sRGB RGBA."""


@dataclass(frozen=True)
class AutoencoderRecipe:
    """How an autoencoder is trained.

    Attributes:
        steps: Optimiser steps in all.
        batch_size: Views per step.
        learning_rate: Peak of the schedule.
        seed: Of the batches.
        dtype: ``float32`` or ``bfloat16`` (autocast: only where the processor computes in it).
    """

    steps: int = 600
    batch_size: int = 8
    learning_rate: float = 2e-3
    seed: int = 0
    dtype: str = "float32"


class AutoencoderTrainer:
    """Trains one autoencoder in place, step by step.

    Attributes:
        step: Steps done.
        losses: Loss of every step done.
    """

    def __init__(self, autoencoder: Autoencoder, views: ViewSource, recipe: AutoencoderRecipe) -> None:
        self.autoencoder = autoencoder
        self.views = views
        self.recipe = recipe
        self.step = 0
        self.losses: list[float] = []
        self._optimiser = torch.optim.Adam(autoencoder.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98))

    def run(self, until: int | None = None, on_step: Callable[[int, float], None] | None = None) -> None:
        """Train until `until` steps are done (default: the recipe's); the last step sets the normaliser."""
        goal = self.recipe.steps if until is None else min(until, self.recipe.steps)
        while self.step < goal:
            loss = self._train_step()
            self.losses.append(loss)
            self.step += 1
            if on_step is not None:
                on_step(self.step, loss)
            if self.step == self.recipe.steps:
                self.fit_normaliser()

    def fit_normaliser(self) -> None:
        """Set the normaliser from evenly spaced training views."""
        count = min(_NORMALISER_VIEWS, len(self.views))
        rows = np.linspace(0, len(self.views) - 1, count).astype(np.int64)
        with torch.no_grad():
            raw = [self.autoencoder.encode_raw(self._rgb(rows[i : i + 32])) for i in range(0, count, 32)]
        self.autoencoder.fit_normaliser(torch.cat(raw))

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continued run needs."""
        return {
            "step": self.step,
            "losses": list(self.losses),
            "autoencoder": self.autoencoder.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken; the recipe and the views must be the same."""
        self.step = int(state["step"])
        self.losses = list(state["losses"])
        self.autoencoder.load_state_dict(state["autoencoder"])
        self._optimiser.load_state_dict(state["optimiser"])

    def _train_step(self) -> float:
        recipe = self.recipe
        rgb = self._rgb(batch_rows(len(self.views), recipe.batch_size, recipe.seed, self.step))
        for group in self._optimiser.param_groups:
            group["lr"] = recipe.learning_rate * schedule(self.step / recipe.steps)
        with torch.autocast(rgb.device.type, dtype=torch.bfloat16, enabled=recipe.dtype == "bfloat16"):
            decoded = self.autoencoder.decode_raw(self.autoencoder.encode_raw(rgb))
        loss = torch.nn.functional.mse_loss(decoded.float(), rgb)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return float(loss.detach())

    def _rgb(self, rows: npt.NDArray[np.int64]) -> Tensor:
        device = self.autoencoder.latent_scale.device
        return composite_white(torch.from_numpy(np.ascontiguousarray(self.views[rows])).to(device))


def train_autoencoder(
    autoencoder: Autoencoder,
    views: ViewSource,
    recipe: AutoencoderRecipe,
    *,
    state: dict[str, Any] | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train in place to the end of the recipe, from `state` if given.

    Returns:
        The loss of every step.
    """
    trainer = AutoencoderTrainer(autoencoder, views, recipe)
    if state is not None:
        trainer.load_state_dict(state)
    trainer.run(on_step=on_step)
    return trainer.losses


def composite_white(rgba: Tensor) -> Tensor:
    """RGB [B, 3, H, W] in [0, 1] over white, of uint8 straight-alpha views [B, H, W, 4]."""
    straight = rgba.permute(0, 3, 1, 2).float() / 255
    return straight[:, :3] * straight[:, 3:] + (1 - straight[:, 3:])


def batch_rows(n_views: int, batch_size: int, seed: int, step: int) -> npt.NDArray[np.int64]:
    """Rows of the views of one step: consecutive pieces of one seeded permutation per epoch."""
    first = step * batch_size
    positions = np.arange(first, first + batch_size)
    rows = np.empty(batch_size, np.int64)
    for epoch in np.unique(positions // n_views):
        inside = positions // n_views == epoch
        order = np.random.default_rng((seed, int(epoch))).permutation(n_views)
        rows[inside] = order[positions[inside] % n_views]
    return rows


def schedule(progress: float) -> float:
    """Learning rate as a share of its peak: linear warm-up over 4% of the steps, then half a cosine to zero."""
    warm_up = 0.04
    if progress < warm_up:
        return (progress + 1e-3) / (warm_up + 1e-3)
    return float(0.5 * (1 + np.cos(np.pi * (progress - warm_up) / (1 - warm_up))))
