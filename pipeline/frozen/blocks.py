"""Fits a block of objects in one of three modes: what of the shared components is trained with them.

The engine is the one that fits everything (`pipeline.fit.batch`): the same rays, latents, random numbers and
steps. A mode that trains shared components gives their copies gradients and an optimiser, and nothing else
differs, so that a comparison of modes compares that choice alone.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from pipeline.fit.batch import FitBatch
from pipeline.fit.pace import Stopping
from pipeline.fit.settings import FitSettings, FittedCode
from pipeline.model.shared import SharedComponents
from pipeline.train.row_adam import EPSILON
from pipeline.train.schedule import BETAS, Rates
from pipeline.train.training_views import TrainingViews

LATENT_RATES: Final = Rates(base=1e-2, renderer=1e-2)
RGB_RATES: Final = Rates(base=1e-2, renderer=1e-3, autoencoder=1e-4)
"""Of what a block shares, as in the paper's regime 2 (METHOD section 4); codes have those of the fit."""

PROBE_STEPS: Final = 10


@dataclass(frozen=True)
class Mode:
    """What a block trains besides its objects' codes.

    Attributes:
        name: As in the table.
        decoder: Whether D is trained, in the RGB steps.
        planes: Whether base planes and renderer are, in all steps.
    """

    name: str
    decoder: bool
    planes: bool


FROZEN: Final = Mode("frozen", decoder=False, planes=False)
MODES: Final = (
    FROZEN,
    Mode("decoder", decoder=True, planes=False),
    Mode("retrained", decoder=True, planes=True),
)


@dataclass(frozen=True)
class FittedBlock:
    """Result of a block.

    Attributes:
        shared: What its codes are decoded with, frozen.
        codes: One per object, in the order given.
        seconds: Processor seconds of the fit, preparation included; on a GPU wall seconds.
        own_bytes: Of shared components that are this block's alone.
    """

    shared: SharedComponents
    codes: list[FittedCode]
    seconds: float
    own_bytes: int


class BlockFit:
    """A block while it is fitted.

    Args:
        shared: Frozen shared components, which stay as they are: what a mode trains is copied.
        objects: Training views of the block's objects.
        settings: Of the fit.
        mode: What is trained.
        seed: Of the fit's random choices.

    Attributes:
        shared: What the block's codes are decoded with, as it is now.
        results: Objects that are done.
        step_count: Steps done.
    """

    def __init__(
        self,
        shared: SharedComponents,
        objects: Sequence[TrainingViews],
        settings: FitSettings,
        mode: Mode,
        seed: int,
    ) -> None:
        self.shared = _trainable(shared, mode)
        self.step_count = 0
        # What all objects share is trained on one schedule: no object ends a phase before the others.
        settings = replace(settings, stopping=Stopping())
        self._settings = settings
        self._batch = FitBatch(self.shared, settings, seed, len(objects))
        refused = [self._batch.admit(views, None) for views in objects]
        self.results = [result for result in refused if result is not None]
        self._optimiser = _optimiser(self.shared, mode)

    @property
    def busy(self) -> bool:
        """Whether there are steps left."""
        return self._batch.busy

    @property
    def own_bytes(self) -> int:
        """Bytes of what the mode trains, float32."""
        return sum(param.numel() * param.element_size() for param in self._trained())

    def step(self) -> None:
        """One step of all objects, and of what the mode trains."""
        if self._optimiser is not None:
            self._optimiser.zero_grad(set_to_none=True)
        self._batch.step()
        if self._optimiser is not None:
            rates = self._rates()
            for group in self._optimiser.param_groups:
                group["lr"] = getattr(rates, group["name"])
            self._optimiser.step()
        self.step_count += 1
        self.results += self._batch.finished()

    def _trained(self) -> Iterable[torch.Tensor]:
        return () if self._optimiser is None else _params(self._optimiser)

    def _rates(self) -> Rates:
        s, step = self._settings, self.step_count
        if step < s.latent_steps:
            return LATENT_RATES.scaled(s.latent_decay.at(step / s.latent_steps))
        return RGB_RATES.scaled(s.rgb_decay.at((step - s.latent_steps) / max(s.rgb_steps, 1)))


def fit_block(
    shared: SharedComponents,
    objects: Sequence[TrainingViews],
    settings: FitSettings,
    mode: Mode,
    seed: int,
) -> FittedBlock:
    """Fit a block to its end; arguments as of `BlockFit`."""
    clock = _clock(shared.base_planes.device)
    began = clock()
    block = BlockFit(shared, objects, settings, mode, seed)
    while block.busy:
        block.step()
    seconds = clock() - began
    order = {views.object_id: i for i, views in enumerate(objects)}
    codes = sorted(block.results, key=lambda result: order[result.object_id])
    own_bytes = block.own_bytes
    return FittedBlock(block.shared.freeze(shared.base_planes.device), codes, seconds, own_bytes)


def step_seconds(
    shared: SharedComponents,
    objects: Sequence[TrainingViews],
    settings: FitSettings,
    mode: Mode,
    seed: int,
) -> tuple[float, float]:
    """Median seconds of a latent and of an RGB step of a block, on the clock of `FittedBlock.seconds`."""
    phases = (min(settings.latent_steps, PROBE_STEPS), min(settings.rgb_steps, PROBE_STEPS))
    short = replace(settings, latent_steps=phases[0], rgb_steps=phases[1])
    block, clock = BlockFit(shared, objects, short, mode, seed), _clock(shared.base_planes.device)
    times = [clock()]
    while block.busy:
        block.step()
        times.append(clock())
    steps = np.diff(times)
    return _median(steps[: phases[0]]), _median(steps[phases[0] :])


def equal_time_steps(
    settings: FitSettings, frozen: tuple[float, float], own: tuple[float, float]
) -> FitSettings:
    """Settings with as many steps as take the time that ``settings`` take with everything frozen.

    Args:
        settings: Of the frozen fit.
        frozen: Seconds of its latent and RGB step.
        own: Seconds of the same with the mode's.

    Returns:
        Both numbers of steps times the same factor, each at least 1 where it was.
    """
    counts = (settings.latent_steps, settings.rgb_steps)
    budget, cost = (sum(n * s for n, s in zip(counts, seconds, strict=True)) for seconds in (frozen, own))
    factor = budget / cost if cost > 0 else 1.0
    latent_steps, rgb_steps = (max(round(n * factor), 1) if n else 0 for n in counts)
    return replace(settings, latent_steps=latent_steps, rgb_steps=rgb_steps)


def _trainable(shared: SharedComponents, mode: Mode) -> SharedComponents:
    """A copy whose trained parts require gradients."""
    own = replace(
        shared,
        autoencoder=copy.deepcopy(shared.autoencoder),
        renderer=copy.deepcopy(shared.renderer),
        base_planes=shared.base_planes.clone(),
    )
    if mode.planes:
        own.base_planes.requires_grad_()
        own.renderer.requires_grad_()
    if mode.decoder:
        for param in own.autoencoder.decoder_params():
            param.requires_grad_()
    return own


def _optimiser(shared: SharedComponents, mode: Mode) -> torch.optim.Adam | None:
    """Adam as in the joint training; groups are called as their rates."""
    groups: list[dict[str, Any]] = []
    if mode.planes:
        groups.append({"name": "base", "params": [shared.base_planes], "eps": EPSILON})
        groups.append({"name": "renderer", "params": list(shared.renderer.parameters()), "eps": EPSILON})
    decoder: list[nn.Parameter] = list(shared.autoencoder.decoder_params()) if mode.decoder else []
    if decoder:  # RGB has none
        groups.append({"name": "autoencoder", "params": decoder})
    return torch.optim.Adam(groups, betas=BETAS) if groups else None


def _params(optimiser: torch.optim.Optimizer) -> Iterable[torch.Tensor]:
    return (param for group in optimiser.param_groups for param in group["params"])


def _clock(device: torch.device) -> Callable[[], float]:
    """Processor time, which other load changes little; on a GPU wall time of work that is done."""
    if device.type == "cpu":
        return time.process_time

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.monotonic()

    return synchronised


def _median(steps: np.ndarray[Any, Any]) -> float:
    """Without the first step, which pays for what later ones find ready."""
    kept = steps[1:] if len(steps) > 1 else steps
    return float(np.median(kept)) if len(kept) else 0.0
