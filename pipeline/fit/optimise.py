"""Fitting objects to frozen shared components (regime 2): all objects of a batch in one tensor step.

Plain torch, any device. Objects are independent: each has its own optimiser state and random choices (seeded
by its id), and the loss is the *sum* of per-object losses, so that no object's gradient depends on another.
First latent steps on single latent pixels against latents encoded once, then RGB steps through the frozen
decoder on whole views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.model.planes import fuse
from pipeline.model.renderer import PlaneTable
from pipeline.model.shared import SharedComponents
from pipeline.train.batches import RayBatch, draw_pixels, view_pixels
from pipeline.train.by_object import sum_by_object
from pipeline.train.draws import cycle, seeded_generator
from pipeline.train.losses import Rendered, latent_error, paste_pixels, render_pixels
from pipeline.train.ray_bank import RayBank, build_ray_bank
from pipeline.train.row_adam import RowAdam
from pipeline.train.schedule import Decay, Rates
from pipeline.train.training_views import TrainingViews

InitCode = tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.float32]]
OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class FitSettings:
    """Values of a fit; their meaning and units stand in `pipeline.fit.config`."""

    latent_steps: int = 300
    latent_pixels: int = 512
    rgb_steps: int = 60
    rgb_views: int = 2
    crop_px: int = 0
    n_samples: int = 16
    dilate: int = 1
    latent_rates: Rates = field(default_factory=Rates)
    rgb_rates: Rates = field(default_factory=lambda: Rates(3e-3, 3e-3))
    latent_decay: Decay = field(default_factory=Decay)
    rgb_decay: Decay = field(default_factory=Decay)
    lambda_latent: float = 1.0
    lambda_rgb: float = 1.0
    lambda_free: float = 0.1
    free_points: int = 256
    curve_every: int = 20


@dataclass
class FittedCode:
    """Result of one object.

    Attributes:
        object_id: The object.
        micro: [3, F_mic, K, K] float32, or None for ULW.
        coefficients: [M] float32.
        curve: (step, training loss) at fixed intervals; latent loss first, then RGB loss.
        failure: Why the result cannot be used, or None.
    """

    object_id: str
    micro: npt.NDArray[np.float32] | None
    coefficients: npt.NDArray[np.float32]
    curve: list[tuple[int, float]] = field(default_factory=list)
    failure: str | None = None


def fit_objects(
    shared: SharedComponents,
    objects: Sequence[TrainingViews],
    settings: FitSettings,
    seed: int = 0,
    init: Sequence[InitCode | None] | None = None,
    on_step: OnStep | None = None,
) -> list[FittedCode]:
    """Fit the codes of objects; see the module's text.

    Args:
        shared: Frozen shared components; decide the device.
        objects: Training views of the objects of one batch.
        settings: Step counts, rates, sizes.
        seed: Of random choices, together with each object's id.
        init: Codes to start from; None for an object starts it from the mean object.
        on_step: Called with (steps done, steps in all).

    Returns:
        One result per object, in order. An object whose loss stops being finite carries ``failure``; the
        others are not affected.
    """
    batch = _Batch(shared, objects, settings, seed, init)
    total = settings.latent_steps + settings.rgb_steps
    for step in range(total):
        losses = batch.latent_step(step) if step < settings.latent_steps else batch.rgb_step(step)
        if step % settings.curve_every == 0 or step == total - 1:
            batch.record(step, losses)
        if on_step is not None:
            on_step(step + 1, total)
    return batch.results()


class _Batch:
    """State of one batch of objects."""

    def __init__(
        self,
        shared: SharedComponents,
        objects: Sequence[TrainingViews],
        settings: FitSettings,
        seed: int,
        init: Sequence[InitCode | None] | None,
    ) -> None:
        self.shared, self.objects, self.settings, self.seed = shared, list(objects), settings, seed
        self.device = shared.base_planes.device
        self.background = shared.background_latent
        self.bank: RayBank = build_ray_bank(
            self.objects, shared.autoencoder.factor, shared.geometry, settings.dilate, self.device
        )
        self.latents = [self._encode(views) for views in self.objects]
        self.generators = [seeded_generator("fit", seed, views.object_id) for views in self.objects]
        self.rows = list(range(len(self.objects)))
        self.index = torch.arange(len(self.objects), device=self.device)
        self.curves: list[list[tuple[int, float]]] = [[] for _ in self.objects]
        self._init_codes(init or [None] * len(self.objects))

    def _init_codes(self, init: Sequence[InitCode | None]) -> None:
        micro, coefficients = [], []
        for code in init:
            own_micro = None if code is None or code[0] is None else torch.from_numpy(np.array(code[0]))
            own = None if code is None else torch.from_numpy(np.array(code[1]))
            coefficients.append(self.shared.mean_coefficients if own is None else own.to(self.device))
            if self.shared.mean_micro is not None:
                micro.append(self.shared.mean_micro if own_micro is None else own_micro.to(self.device))
        self.micro = RowAdam(torch.stack(micro).float()) if micro else None
        self.coefficients = RowAdam(torch.stack(coefficients).float())

    @torch.no_grad()
    def _encode(self, views: TrainingViews) -> Tensor:
        """Latents [V, h·w, C] of one object, encoded apart so that they do not depend on the batch."""
        rgb = views.rgb(self.device)
        latents = torch.cat([self.shared.autoencoder.encode(part) for part in torch.split(rgb, 32)])
        return latents.flatten(2).transpose(1, 2).contiguous()

    def latent_step(self, step: int) -> Tensor:
        """One step on random latent pixels; returns the loss per object."""
        s = self.settings
        batch = draw_pixels(self.bank, self.rows, self.generators, s.latent_pixels, s.n_samples)
        leaves, planes = self._planes()
        random = self._free_points()
        pixel, view = self.bank.pixel[batch.index], self.bank.view[batch.index]
        background = self.background.flatten(1).T[pixel]
        parts = torch.split(torch.arange(len(pixel), device=self.device), s.latent_pixels)
        target = torch.cat([own[view[p], pixel[p]] for own, p in zip(self.latents, parts, strict=True)])
        losses = torch.empty(len(self.rows), device=self.device)

        def loss_of(part: slice, own: Tensor) -> Tensor:
            drawn = self._render(own, batch.of_objects(part, len(self.rows)), self.index[part], random[part])
            pixels = slice(part.start * s.latent_pixels, part.stop * s.latent_pixels)
            predicted = drawn.value + (1.0 - drawn.opacity[:, None]) * background[pixels]
            error = latent_error(predicted, target[pixels]).reshape(len(own), -1).mean(1)
            losses[part] = error.detach()
            return (error + s.lambda_free * drawn.free).sum()

        rates = s.latent_rates.scaled(s.latent_decay.at(step / s.latent_steps))
        self._apply(sum_by_object(loss_of, planes), leaves, rates)
        return losses

    def rgb_step(self, step: int) -> Tensor:
        """One step on whole views through the decoder; returns the RGB loss per object."""
        s, shared = self.settings, self.shared
        visit = step - s.latent_steps
        views = [
            cycle(len(o.rgba), s.rgb_views, visit * s.rgb_views, "views", self.seed, o.object_id)
            for o in self.objects
        ]
        batch = view_pixels(self.bank, self.rows, views, self.generators, s.n_samples, s.crop_px)
        leaves, planes = self._planes()
        drawn = self._render(planes, batch.rays, self.index, self._free_points())
        background = batch.crop([self.background] * len(batch.windows))
        rendered = paste_pixels(drawn.value, drawn.opacity, batch, background)
        rgb = batch.rgb(self.objects, self.device)
        n = len(self.rows)
        error = (shared.autoencoder.decode(rendered) - rgb).square().reshape(n, -1).mean(1)
        losses = s.lambda_rgb * error
        if s.lambda_latent:
            target = batch.crop([self._latent_map(slot, view) for slot, view, _, _ in batch.windows])
            losses = losses + s.lambda_latent * latent_error(rendered, target).reshape(n, -1).mean(1)
        rates = s.rgb_rates.scaled(s.rgb_decay.at(visit / s.rgb_steps))
        self._apply((losses + s.lambda_free * drawn.free).sum(), leaves, rates)
        return error.detach()

    def _apply(self, loss: Tensor, leaves: tuple[Tensor | None, Tensor], rates: Rates) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        micro, coefficients = leaves
        if self.micro is not None and micro is not None and micro.grad is not None:
            self.micro.update(None, micro.grad, rates.micro)
        if coefficients.grad is not None:  # there are none without base planes
            self.coefficients.update(None, coefficients.grad, rates.coefficients)

    def _planes(self) -> tuple[tuple[Tensor | None, Tensor], Tensor]:
        micro = None if self.micro is None else self.micro.values.detach().clone().requires_grad_()
        coefficients = self.coefficients.values.detach().clone().requires_grad_()
        return (micro, coefficients), fuse(micro, coefficients, self.shared.base_planes)

    def _free_points(self) -> Tensor:
        n = self.settings.free_points if self.settings.lambda_free else 0
        return torch.stack([torch.rand(n, 3, generator=g) for g in self.generators]).to(self.device)

    def _render(self, planes: Tensor, batch: RayBatch, objects: Tensor, random: Tensor) -> Rendered:
        table = PlaneTable.of(planes, self.shared.geometry)
        return render_pixels(
            self.shared.renderer, table, self.bank, batch, objects, random, self.shared.geometry
        )

    def _latent_map(self, row: int, view: int) -> Tensor:
        return self.latents[row][view].T.view(-1, *self.bank.grid)

    def record(self, step: int, losses: Tensor) -> None:
        """Keep a point of every object's curve."""
        for curve, loss in zip(self.curves, losses.tolist(), strict=True):
            curve.append((step, float(loss)))

    def results(self) -> list[FittedCode]:
        """Codes as numpy, with a failure where something is not finite."""
        results = []
        for i, views in enumerate(self.objects):
            micro = None if self.micro is None else self.micro.values[i].cpu().numpy()
            coefficients = self.coefficients.values[i].cpu().numpy()
            finite = bool(np.isfinite(coefficients).all()) and (
                micro is None or bool(np.isfinite(micro).all())
            )
            failure = None if finite else "the loss stopped being finite during the fit"
            results.append(FittedCode(views.object_id, micro, coefficients, self.curves[i], failure))
        return results
