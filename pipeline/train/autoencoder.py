"""Training of an autoencoder alone, on views (METHOD section 3, "low-budget"): plain torch, any device.

A new autoencoder starts as the linear one of the training views where its architecture allows. Steps then see
crops around the objects, since most of a view is white. The batch of step s is a pure function of (seed, s)
and the learning rate of (recipe, s), so that training may stop after any step and continue from
`AutoencoderTrainer.state_dict` to the same bits. Only training views may be given.

What pays on CPUs (five built-in classes, unseen objects, f = 4, one thread, one seed): many small steps, with
C = 4 in 25 CPU-seconds 31.5 dB with 4 crops a step against 30.7 with 16; with C = 8, bfloat16 where the CPU
computes in it, 34.7 dB against 33.6. In 40 CPU-seconds with C = 8, absolute instead of squared errors cost 2
dB, two blocks per level 0.6, three times the learning rate 0.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.model.autoencoder import Autoencoder
from pipeline.model.linear_start import start_linear, supports_linear_start
from pipeline.train.ranks import is_finite
from pipeline.train.schedule import BETAS
from pipeline.train.settings import AutoencoderRecipe
from pipeline.train.training_views import over_white
from storage.errors import ConfigError

STATISTICS_VIEWS = 256
"""Views that the linear start and the normaliser are computed from, evenly spaced over all."""
_CHUNK = 32
_WARM_UP = 0.05
_CROP_MARGIN_PX = 4


class ViewSource(Protocol):
    """Training views as uint8: a numpy array [n, H, W, 4] is one."""

    def __len__(self) -> int:
        """Count the views."""

    def __getitem__(self, rows: npt.NDArray[np.int64], /) -> npt.NDArray[np.uint8]:
        """Views [len(rows), H, W, 4]: straight-alpha sRGB RGBA."""


class AutoencoderTrainer:
    """Trains one autoencoder in place, step by step.

    With no steps in the recipe, an autoencoder from elsewhere gets its normaliser on construction.

    Args:
        autoencoder: New or pretrained.
        views: Training views, never held-out ones.
        recipe: How it is trained.

    Raises:
        ConfigError: If the views, or the recipe's crops, are no multiple of the autoencoder's factor.

    Attributes:
        step: Steps done.
        losses: Loss of every step done: mean squared error of the crops' pixels.
    """

    def __init__(self, autoencoder: Autoencoder, views: ViewSource, recipe: AutoencoderRecipe) -> None:
        self.autoencoder = autoencoder
        self.views = views
        self.recipe = recipe
        self.step = 0
        self.losses: list[float] = []
        check_sizes(autoencoder.factor, views, recipe)
        if autoencoder.is_new and supports_linear_start(autoencoder):
            start_linear(autoencoder, self._statistics_views())
        autoencoder.is_new = False
        self._optimiser = torch.optim.Adam(
            autoencoder.parameters(), lr=recipe.learning_rate, betas=BETAS, fused=True
        )
        if recipe.steps == 0 and not autoencoder.is_normalised:
            self.fit_normaliser()  # a pretrained one, used as it is

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """What changes the parameters: several ranks add their gradients up before its steps."""
        return self._optimiser

    def run(self, until: int | None = None, on_step: Callable[[int, float], None] | None = None) -> None:
        """Train until `until` steps are done (default: the recipe's); the last step sets the normaliser.

        Args:
            until: Number of steps done on return, at most the recipe's.
            on_step: Called with (steps done, loss) after every step.

        Raises:
            FloatingPointError: If a loss or a gradient is not finite; names the step and the learning rate.
                Nothing has been changed by that step.
        """
        goal = self.recipe.steps if until is None else min(until, self.recipe.steps)
        while self.step < goal:
            self.losses.append(self._train_step())
            self.step += 1
            if on_step is not None:
                on_step(self.step, self.losses[-1])
            if self.step == self.recipe.steps:
                self.fit_normaliser()

    @torch.no_grad()
    def fit_normaliser(self) -> None:
        """Set the normaliser from evenly spaced training views."""
        raw = [self.autoencoder.encode_raw(rgb) for rgb in self._statistics_views()]
        self.autoencoder.fit_normaliser(torch.cat(raw))

    @property
    def learning_rate(self) -> float:
        """Learning rate of the last step."""
        return float(self._optimiser.param_groups[0]["lr"])

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
        rate = recipe.learning_rate * schedule(self.step / recipe.steps)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        loss = self._loss(self._batch(self.step))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the autoencoder's loss is {value} in step {self.step} at learning rate {rate:.3g}"
            )
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if not is_finite(param.grad for param in self.autoencoder.parameters()):
            raise FloatingPointError(
                f"a gradient of the autoencoder is not finite in step {self.step} at learning rate {rate:.3g}"
            )
        self._optimiser.step()
        return value

    def _loss(self, rgb: Tensor) -> Tensor:
        use_bfloat16 = self.recipe.dtype == "bfloat16"
        with torch.autocast(rgb.device.type, dtype=torch.bfloat16, enabled=use_bfloat16):
            raw = self.autoencoder.encode_raw(rgb)
            if self.recipe.latent_noise > 0:
                generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.step)
                noise = torch.randn(raw.shape, generator=generator).to(raw)
                raw = raw + self.recipe.latent_noise * noise
            decoded = self.autoencoder.decode_raw(raw)
        return functional.mse_loss(decoded.float(), rgb)

    def _batch(self, step: int) -> Tensor:
        """Crops [B, 3, crop, crop] of one step, half of the steps mirrored."""
        recipe = self.recipe
        rgba = self.views[batch_rows(len(self.views), recipe.batch_size, recipe.seed, step)]
        rng = np.random.default_rng((recipe.seed, 1, step))
        if 0 < recipe.crop_px < min(rgba.shape[1:3]):
            rgba = np.stack([crop_around_object(view, recipe.crop_px, rng) for view in rgba])
        if rng.random() < 0.5:
            rgba = rgba[:, :, ::-1]
        return self._rgb(rgba)

    def _statistics_views(self) -> Iterator[Tensor]:
        count = min(STATISTICS_VIEWS, len(self.views))
        rows = np.linspace(0, len(self.views) - 1, count).astype(np.int64)
        for start in range(0, count, _CHUNK):
            yield self._rgb(self.views[rows[start : start + _CHUNK]])

    def _rgb(self, rgba: npt.NDArray[np.uint8]) -> Tensor:
        device = self.autoencoder.latent_scale.device
        return over_white(torch.from_numpy(np.ascontiguousarray(rgba)).to(device))


def check_sizes(factor: int, views: ViewSource, recipe: AutoencoderRecipe) -> None:
    """Refuse views and crops that do not fit an autoencoder.

    Args:
        factor: f, image pixels per latent pixel.
        views: All of one size.
        recipe: Has the crops.

    Raises:
        ConfigError: If the views, or the recipe's crops, are no multiple of the factor.
    """
    height, width = views[np.zeros(1, np.int64)].shape[1:3]
    if height % factor or width % factor:
        raise ConfigError(
            f"views of {width}x{height} px do not fit an autoencoder with {factor} px per latent pixel: "
            f"render them at multiples of {factor} px, or choose another autoencoder"
        )
    if recipe.steps and 0 < recipe.crop_px < min(height, width) and recipe.crop_px % factor:
        raise ConfigError(
            f"autoencoder.crop_px {recipe.crop_px} is not a multiple of {factor}, the autoencoder's px per "
            f"latent pixel: choose {recipe.crop_px // factor * factor or factor}"
        )


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


def crop_around_object(
    view: npt.NDArray[np.uint8], size_px: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """A random square crop of a view [H, W, 4] that covers, or lies in, the box around alpha > 0."""
    inside = view[..., 3] > 0
    top = _crop_start(inside.any(1), size_px, rng)
    left = _crop_start(inside.any(0), size_px, rng)
    return view[top : top + size_px, left : left + size_px]


def _crop_start(inside: npt.NDArray[np.bool_], size_px: int, rng: np.random.Generator) -> int:
    found = np.flatnonzero(inside)
    first, end = (int(found[0]), int(found[-1]) + 1) if len(found) else (0, len(inside))
    # Crops of an object that does not fit reach a little beyond it: its border is seen with white around.
    margin = _CROP_MARGIN_PX if end - first > size_px else 0
    low, high = sorted((first, end - size_px))
    last = len(inside) - size_px
    low, high = min(max(low - margin, 0), last), min(max(high + margin, 0), last)
    return int(rng.integers(low, high + 1))


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
    """Learning rate as a share of its peak: linear warm-up over 5% of the steps, then half a cosine."""
    if progress < _WARM_UP:
        return (progress + 1e-3) / (_WARM_UP + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))
