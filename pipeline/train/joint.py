"""Joint training of the shared components (regime 1): autoencoder alone, then warm-up, then all three losses.

Plain torch, any device, no Ray. One global step counter drives the phases; the batch of step s is a pure
function of (seed, s), budgets are step counts, and a run continued from `JointTrainer.state_dict` gives the
same bits.

Several ranks: each holds its own objects (their micro planes and coefficients live there); gradients of the
shared parameters are averaged over the ranks as they appear, when ``torch.distributed`` is initialised.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, distributed

from pipeline.model.autoencoder import Autoencoder
from pipeline.model.planes import fuse
from pipeline.model.renderer import PlaneTable, Renderer
from pipeline.model.shared import RegimeOneCodes, SharedComponents
from pipeline.train.autoencoder import AutoencoderTrainer
from pipeline.train.batches import (
    AllViews,
    RayBank,
    RayBatch,
    TrainingViews,
    build_ray_bank,
    cycle,
    draw_pixels,
    seeded_generator,
    view_pixels,
)
from pipeline.train.by_object import sum_by_object
from pipeline.train.losses import Rendered, latent_error, paste_pixels, render_pixels
from pipeline.train.row_adam import EPSILON, RowAdam
from pipeline.train.settings import JointSettings

Phase = Literal["autoencoder", "warmup", "joint", "done"]


@dataclass
class CurvePoint:
    """One step of the training curve."""

    step: int
    phase: str
    losses: dict[str, float]
    seconds: float


@dataclass
class _Codes:
    """Codes of this rank's objects with their optimiser state."""

    micro: RowAdam | None
    coefficients: RowAdam


@dataclass
class _Cache:
    """Warm-up targets: latents of all training views and of white."""

    latents: list[Tensor] = field(default_factory=list)
    background: Tensor | None = None


class JointTrainer:
    """Trains autoencoder, base planes, renderer, and the codes of regime-1 objects.

    Attributes:
        step_count: Steps done, over all phases.
        curve: One point per step.
    """

    def __init__(
        self,
        objects: Sequence[TrainingViews],
        autoencoder: Autoencoder,
        settings: JointSettings,
        seed: int,
        device: str | torch.device = "cpu",
    ) -> None:
        if not objects:
            raise ValueError("joint training needs at least one object on every rank")
        self.settings, self.seed, self.device = settings, seed, torch.device(device)
        self.objects = list(objects)
        self.autoencoder = autoencoder.to(self.device)
        self.step_count = 0
        self.curve: list[CurvePoint] = []
        self.size_px = (objects[0].rgba.shape[1], objects[0].rgba.shape[2])
        self._init_planes()
        self._autoencoder_trainer = AutoencoderTrainer(
            self.autoencoder, AllViews(objects), settings.autoencoder
        )
        shared: list[dict[str, Any]] = [
            {"params": [self.base_planes]},
            {"params": list(self.renderer.parameters())},
        ]
        # One pass over memory instead of about ten; the same numbers up to rounding.
        fused = self.device.type in ("cpu", "cuda")
        self._optimiser = torch.optim.Adam(shared, betas=(0.9, 0.99), eps=EPSILON, fused=fused)
        self._ae_optimiser = torch.optim.Adam(self.autoencoder.parameters(), betas=(0.9, 0.99), fused=fused)
        self._cache = _Cache()
        self._bank: RayBank | None = None
        self._average_over_ranks()

    def _init_planes(self) -> None:
        s = self.settings
        generator = seeded_generator("shared", self.seed)
        shape = (3, s.resolution, s.resolution)
        base = torch.randn(s.n_base, shape[0], s.f_mac, *shape[1:], generator=generator) * s.init_scale
        self.base_planes = base.to(self.device).requires_grad_()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            renderer = Renderer(s.f_mic + s.f_mac, self.autoencoder.latent_channels, s.width)
        self.renderer = renderer.to(self.device)
        micro, coefficients = [], []
        for views in self.objects:
            own = seeded_generator("code", self.seed, views.object_id)
            # 1/sqrt(M) keeps the macro features at the base planes' scale (METHOD section 2).
            coefficients.append(torch.randn(s.n_base, generator=own) / math.sqrt(s.n_base))
            micro.append(torch.randn(3, s.f_mic, *shape[1:], generator=own) * s.init_scale)
        self._codes = _Codes(
            RowAdam(torch.stack(micro).to(self.device)) if s.f_mic else None,
            RowAdam(torch.stack(coefficients).to(self.device)),
        )

    def _average_over_ranks(self) -> None:
        """Average shared gradients over ranks as soon as each is complete; every rank runs the same phase."""
        if not distributed.is_available() or not distributed.is_initialized():
            return
        world = distributed.get_world_size()

        def average(param: Tensor) -> None:
            distributed.all_reduce(param.grad)
            if param.grad is not None:
                param.grad /= world

        for param in [self.base_planes, *self.renderer.parameters(), *self.autoencoder.parameters()]:
            distributed.broadcast(param.data, 0)
            param.register_post_accumulate_grad_hook(average)  # type: ignore[no-untyped-call]

    @property
    def total_steps(self) -> int:
        """Steps of all phases."""
        s = self.settings
        return s.autoencoder.steps + s.warmup_steps + s.joint_steps

    @property
    def phase(self) -> Phase:
        """Phase of the next step."""
        s = self.settings
        if self.step_count < s.autoencoder.steps:
            return "autoencoder"
        if self.step_count < s.autoencoder.steps + s.warmup_steps:
            return "warmup"
        return "joint" if self.step_count < self.total_steps else "done"

    def step(self) -> CurvePoint:
        """Do the next step.

        Raises:
            FloatingPointError: If the loss is not finite; says the phase and the step. The state is then that
            of
                the step before, except for the autoencoder's own phase.
        """
        started = time.perf_counter()
        phase = self.phase
        if phase == "autoencoder":
            losses = self._autoencoder_step()
        elif phase == "warmup":
            losses = self._warmup_step(self.step_count - self.settings.autoencoder.steps)
        elif phase == "joint":
            first = self.settings.autoencoder.steps + self.settings.warmup_steps
            losses = self._joint_step(self.step_count - first)
        else:
            raise ValueError(f"training is done after {self.total_steps} steps")
        self.step_count += 1
        point = CurvePoint(self.step_count, phase, losses, time.perf_counter() - started)
        self.curve.append(point)
        return point

    def _autoencoder_step(self) -> dict[str, float]:
        self._autoencoder_trainer.run(until=self.step_count + 1)
        if self._autoencoder_trainer.step == self.settings.autoencoder.steps:
            self._share_normaliser()
        return {"ae": self._autoencoder_trainer.losses[-1]}

    def _share_normaliser(self) -> None:
        if distributed.is_available() and distributed.is_initialized():
            for buffer in self.autoencoder.buffers():
                distributed.broadcast(buffer, 0)

    def _warmup_step(self, step: int) -> dict[str, float]:
        s = self.settings
        bank, cache = self._ray_bank(), self._latent_cache()
        rows = self._objects_of(step, s.warmup_objects)
        generators = self._generators("warmup", step, rows)
        batch = draw_pixels(bank, rows, generators, s.warmup_pixels, s.n_samples + s.n_fine)
        leaves, planes = self._planes_of(rows)
        random = self._free_points(generators)
        pixel, view = bank.pixel[batch.index], bank.view[batch.index]
        assert cache.background is not None
        background = cache.background.flatten(1).T[pixel]
        target = torch.cat(
            [
                cache.latents[i][view[part], pixel[part]]
                for i, part in zip(rows, torch.split(torch.arange(len(pixel)), s.warmup_pixels), strict=True)
            ]
        )
        parts = {"latent": 0.0, "free": 0.0}

        def loss_of(part: slice, own: Tensor) -> Tensor:
            drawn = self._render(own, batch.of_objects(part, len(rows)), rows[part], random[part])
            pixels = slice(part.start * s.warmup_pixels, part.stop * s.warmup_pixels)
            seen = drawn.value + (1.0 - drawn.opacity[:, None]) * background[pixels]
            latent = latent_error(seen, target[pixels]).sum() / target.numel()
            free = drawn.free.sum() / len(rows)
            parts["latent"] += float(latent.detach())
            parts["free"] += float(free.detach())
            return latent + s.lambda_free * free

        loss = sum_by_object(loss_of, planes, list(self.renderer.parameters()))
        self._apply(loss, rows, leaves, step / s.warmup_steps, 1.0)
        return parts

    def _joint_step(self, step: int) -> dict[str, float]:
        s = self.settings
        bank = self._ray_bank()
        rows = self._objects_of(step + s.warmup_steps, s.joint_objects)
        views = [self._views_of(i, step) for i in rows]
        generators = self._generators("joint", step, rows)
        batch = view_pixels(bank, rows, views, generators, s.n_samples + s.n_fine, s.crop_px)
        rgb = batch.rgb([self.objects[i] for i in rows], self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=s.dtype == "bfloat16"):
            latents = self.autoencoder.encode(torch.cat([rgb, torch.ones_like(rgb[:1])])).float()
        target, background = latents[:-1], latents[-1:].expand_as(latents[:-1])
        leaves, planes = self._planes_of(rows)
        drawn = self._render(planes, batch.rays, rows, self._free_points(generators))
        rendered = paste_pixels(drawn.value, drawn.opacity, batch, background)
        # The reconstruction loss has a tenth of the weight and costs a decoding: a part of the views is
        # enough.
        own, own_rgb = target[:: s.ae_every], rgb[:: s.ae_every]
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=s.dtype == "bfloat16"):
            decoded = self.autoencoder.decode(torch.cat([rendered, own])).float()
        latent = latent_error(rendered, target).mean()
        squared = (decoded - torch.cat([rgb, own_rgb])).square().flatten(1).mean(1)
        rgb_loss, ae = squared[: len(rgb)].mean(), squared[len(rgb) :].mean()
        free = drawn.free.mean()
        loss = s.lambda_latent * latent + s.lambda_rgb * rgb_loss + s.lambda_ae * ae + s.lambda_free * free
        self._apply(loss, rows, leaves, step / max(s.joint_steps, 1), s.lr_joint_scale, with_autoencoder=True)
        parts = {"latent": latent, "rgb": rgb_loss, "ae": ae, "free": free}
        return {name: float(part.detach()) for name, part in parts.items()}

    def _apply(
        self,
        loss: Tensor,
        rows: list[int],
        leaves: tuple[Tensor | None, Tensor],
        progress: float,
        lr_scale: float,
        *,
        with_autoencoder: bool = False,
    ) -> None:
        """Backward, then one optimiser step of everything that the loss reached."""
        s = self.settings
        if not math.isfinite(float(loss.detach())):
            raise FloatingPointError(
                f"the loss of step {self.step_count} ({self.phase}) is {float(loss.detach())}: "
                f"learning rates are at {lr_scale * s.lr_final**progress:.3g} of their configured values"
            )
        self._optimiser.zero_grad(set_to_none=True)
        self._ae_optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        scale = lr_scale * s.lr_final**progress
        for group, rate in zip(self._optimiser.param_groups, (s.lr_base, s.lr_renderer), strict=True):
            group["lr"] = rate * scale
        self._optimiser.step()
        micro, coefficients = leaves
        if self._codes.micro is not None and micro is not None and micro.grad is not None:
            self._codes.micro.update(rows, micro.grad, s.lr_micro * scale)
        if coefficients.grad is not None:
            self._codes.coefficients.update(rows, coefficients.grad, s.lr_coefficients * scale)
        if with_autoencoder:
            self._ae_optimiser.param_groups[0]["lr"] = s.lr_autoencoder * s.lr_final**progress
            self._ae_optimiser.step()

    def _planes_of(self, rows: list[int]) -> tuple[tuple[Tensor | None, Tensor], Tensor]:
        """Fuse the planes of a step's objects; their codes become leaves of the step's graph."""
        index = torch.tensor(rows, device=self.device)
        micro = None if self._codes.micro is None else self._codes.micro.values[index].requires_grad_()
        coefficients = self._codes.coefficients.values[index].requires_grad_()
        return (micro, coefficients), fuse(micro, coefficients, self.base_planes)

    def _free_points(self, generators: list[torch.Generator]) -> Tensor:
        n = self.settings.free_points if self.settings.lambda_free else 0
        return torch.stack([torch.rand(n, 3, generator=generator) for generator in generators]).to(
            self.device
        )

    def _render(self, planes: Tensor, batch: RayBatch, rows: list[int], random: Tensor) -> Rendered:
        s = self.settings
        table, index = PlaneTable.of(planes, s.geometry), torch.tensor(rows, device=self.device)
        return render_pixels(
            self.renderer, table, self._ray_bank(), batch, index, random, s.geometry, s.n_fine
        )

    def _objects_of(self, step: int, count: int) -> list[int]:
        count = min(count, len(self.objects))
        position = step * count
        drawn = cycle(len(self.objects), count, position, "objects", self.seed)
        return list(dict.fromkeys(drawn))  # a step across an epoch's end may draw an object twice

    def _views_of(self, row: int, step: int) -> list[int]:
        """Views of an object in a joint step: by its own visits, so that all are seen equally often."""
        s = self.settings
        visits = step * min(s.joint_objects, len(self.objects)) // len(self.objects)
        n_views = len(self.objects[row].rgba)
        count = min(s.joint_views, n_views)
        return cycle(n_views, count, visits * count, "views", self.seed, self.objects[row].object_id)

    def _generators(self, phase: str, step: int, rows: list[int]) -> list[torch.Generator]:
        return [seeded_generator(phase, self.seed, step, self.objects[i].object_id) for i in rows]

    def _ray_bank(self) -> RayBank:
        if self._bank is None:
            s = self.settings
            self._bank = build_ray_bank(
                self.objects, self.autoencoder.factor, s.geometry, s.dilate, self.device
            )
        return self._bank

    @torch.no_grad()
    def _latent_cache(self) -> _Cache:
        """Latents of all training views, encoded once: the autoencoder is frozen during the warm-up."""
        if self._cache.background is None:
            for views in self.objects:
                rgb = views.rgb(self.device)
                latents = torch.cat([self.autoencoder.encode(part) for part in torch.split(rgb, 32)])
                self._cache.latents.append(latents.flatten(2).transpose(1, 2).contiguous())
            self._cache.background = self.autoencoder.background_latent(*self.size_px)
        return self._cache

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continued run needs: tensors, plain numbers and strings."""
        return {
            "step_count": self.step_count,
            "curve": [(p.step, p.phase, p.losses, p.seconds) for p in self.curve],
            "autoencoder_trainer": self._autoencoder_trainer.state_dict(),
            "autoencoder": self.autoencoder.state_dict(),
            "base_planes": self.base_planes.detach(),
            "renderer": self.renderer.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "ae_optimiser": self._ae_optimiser.state_dict(),
            "coefficients": self._codes.coefficients.state_dict(),
            "micro": None if self._codes.micro is None else self._codes.micro.state_dict(),
            "object_ids": [views.object_id for views in self.objects],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken.

        Raises:
            ValueError: If the state is of other objects.
        """
        ids = [views.object_id for views in self.objects]
        if list(state["object_ids"]) != ids:
            raise ValueError(
                f"the checkpoint is of {len(state['object_ids'])} other objects than these {len(ids)}"
            )
        self.step_count = int(state["step_count"])
        self.curve = [CurvePoint(*point) for point in state["curve"]]
        self._autoencoder_trainer.load_state_dict(state["autoencoder_trainer"])
        self.autoencoder.load_state_dict(state["autoencoder"])
        with torch.no_grad():
            self.base_planes.copy_(state["base_planes"])
        self.renderer.load_state_dict(state["renderer"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._ae_optimiser.load_state_dict(state["ae_optimiser"])
        self._codes.coefficients.load_state_dict(state["coefficients"])
        if self._codes.micro is not None:
            self._codes.micro.load_state_dict(state["micro"])
        self._cache = _Cache()

    def codes(self) -> RegimeOneCodes:
        """Codes of this rank's objects."""
        micro = None if self._codes.micro is None else self._codes.micro.values.cpu().numpy()
        ids = tuple(views.object_id for views in self.objects)
        return RegimeOneCodes(ids, micro, self._codes.coefficients.values.cpu().numpy())

    def shared_components(self) -> SharedComponents:
        """The shared components as they are now, detached."""
        s = self.settings
        micro = None if self._codes.micro is None else self._codes.micro.values.mean(0)
        return SharedComponents(
            autoencoder=self.autoencoder,
            base_planes=self.base_planes.detach().clone(),
            renderer=self.renderer,
            background_latent=self.autoencoder.background_latent(*self.size_px),
            geometry=s.geometry,
            f_mic=s.f_mic,
            size_px=self.size_px,
            mean_micro=micro,
            mean_coefficients=self._codes.coefficients.values.mean(0),
        )
