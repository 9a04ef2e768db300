"""One object while it is fitted: its rays, targets, position in the schedule and record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.fit.draws import object_key
from pipeline.fit.pace import Pace, Stopping
from pipeline.model.shared import SharedComponents
from pipeline.train.ray_bank import RayBank, build_ray_bank
from pipeline.train.training_views import TrainingViews

Phase = Literal["latent", "rgb", "done"]
_ENCODE_VIEWS = 32


@dataclass
class Lane:
    """State of one object.

    Attributes:
        views: Its training views.
        slot: Of its code.
        bank: Its rays.
        latents: [V, C, h, w] its views' latents.
        targets: [P, C] the latent that each of the bank's pixels shows.
        key: Of its random numbers.
        phase: What its next step is.
        step: Steps done in this phase.
        steps: Steps done in all.
        latent_steps: Those of them that were latent ones.
        pace: Within this phase.
        curve: (steps done, mean loss since the point before); latent loss first, then RGB loss.
        seconds: Wall time of its share of the steps so far, preparation included.
        cpu_seconds: CPU time of the same.
        failure: Why it cannot be used, or None.
    """

    views: TrainingViews
    slot: int
    bank: RayBank
    latents: Tensor
    targets: Tensor
    key: int
    pace: Pace
    phase: Phase = "latent"
    step: int = 0
    steps: int = 0
    latent_steps: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    failure: str | None = None

    def see(self, loss: float) -> None:
        """Record the mean loss of an interval that ends now; one that is not finite ends the fit."""
        self.curve.append((self.steps, loss))
        if math.isfinite(loss):
            self.pace.see(loss)
        else:
            self.failure = "the loss stopped being finite during the fit"
            self.enter("done", self.pace.stopping)

    def enter(self, phase: Phase, stopping: Stopping) -> None:
        """Begin a phase."""
        if self.phase == "latent":
            self.latent_steps = self.steps
        self.phase, self.step, self.pace = phase, 0, Pace(stopping)


def open_lane(
    shared: SharedComponents, views: TrainingViews, slot: int, dilate: int, seed: int, stopping: Stopping
) -> Lane:
    """Encode an object's views and make its rays.

    Raises:
        EmptyHullError: No training ray meets the object's visual hull.
    """
    device = shared.base_planes.device
    bank = build_ray_bank([views], shared.autoencoder.factor, shared.geometry, dilate, device)
    latents = encode_views(shared, views)
    targets = latents.flatten(2).transpose(1, 2)[bank.view.long(), bank.pixel.long()]
    return Lane(views, slot, bank, latents, targets, object_key("fit", seed, views.object_id), Pace(stopping))


@torch.no_grad()
def encode_views(shared: SharedComponents, views: TrainingViews) -> Tensor:
    """Latents [V, C, h, w] of one object, encoded apart so that they do not depend on its company."""
    rgb = views.rgb(shared.base_planes.device)
    return torch.cat([shared.autoencoder.encode(part) for part in torch.split(rgb, _ENCODE_VIEWS)])


def join_banks(banks: Sequence[RayBank]) -> RayBank:
    """Rays of several objects as one bank, in that order."""
    first = banks[0]
    if len(banks) == 1:
        return first
    views = torch.tensor([0, *(len(bank.centres) for bank in banks)]).cumsum(0)
    pixels = torch.tensor([0, *(len(bank.pixel) for bank in banks)]).cumsum(0)
    names = ("centres", "directions", "near", "far", "pixel", "view", "occupancy")
    tables: dict[str, Any] = {name: torch.cat([getattr(bank, name) for bank in banks]) for name in names}
    return replace(
        first,
        **tables,
        object_start=pixels,
        view_start=tuple(start for bank in banks for start in bank.view_start),
        first_view=views[:-1].to(first.first_view.device),
    )
