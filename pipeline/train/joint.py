"""Joint training of the shared components (regime 1): autoencoder alone, then warm-up, then all three losses.

Plain torch, any device, no Ray. One global step counter drives the phases; the batch of step s is a pure
function of (seed, s), budgets are step counts, and a run continued from `JointTrainer.state_dict` gives the
same bits.

Several ranks: each holds its own objects (their micro planes and coefficients live there), and the ranks
share the work of a step, see `pipeline.train.ranks`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.model.autoencoder import Autoencoder
from pipeline.model.planes import fuse
from pipeline.model.renderer import PlaneTable, Renderer
from pipeline.model.shared import RegimeOneCodes, SharedComponents
from pipeline.train.autoencoder import AutoencoderTrainer
from pipeline.train.batches import RayBatch, draw_pixels, view_pixels
from pipeline.train.by_object import sum_by_object
from pipeline.train.draws import ObjectDraws, every_nth_window, seeded_generator
from pipeline.train.latent_cache import LatentCache, encode_views
from pipeline.train.losses import Rendered, latent_error, paste_pixels, render_pixels, total_variation
from pipeline.train.object_codes import Leaves, ObjectCodes
from pipeline.train.ranks import OtherRankError, Ranks, gather_from_all, is_finite
from pipeline.train.ray_bank import RayBank, build_ray_bank
from pipeline.train.row_adam import EPSILON
from pipeline.train.schedule import BETAS, Rates
from pipeline.train.scratch_arrays import ScratchArrays
from pipeline.train.settings import JointSettings
from pipeline.train.training_views import AllViews, TrainingViews
from storage.errors import StoreMismatchError

Phase = Literal["autoencoder", "warmup", "joint", "done"]


@dataclass
class CurvePoint:
    """One step of the training curve."""

    step: int
    phase: str
    losses: dict[str, float]
    seconds: float


class JointTrainer:
    """Trains autoencoder, base planes, renderer, and the codes of regime-1 objects.

    Args:
        objects: Training views of this rank's objects, at least one; all of one size.
        autoencoder: New or pretrained; is moved to the device and trained in place.
        settings: Sizes, steps, rates, losses; the numbers of objects per step are those of all ranks.
        seed: Of initial values and batches.
        device: Where everything is computed.
        arrays: Where rays and latents are kept; None for memory.
        bank: Rays of the objects; None to make them when the first step needs them.

    Raises:
        ValueError: There is no object.
        ConfigError: The views, or the crops, do not fit the autoencoder.

    Attributes:
        settings: As given.
        seed: As given.
        device: As given.
        objects: As given.
        autoencoder: Encoder and decoder with their normaliser, as they are now.
        base_planes: [M, 3, F_mac, K, K]; M = F_mac = 0 where all planes are micro planes.
        renderer: The MLP.
        size_px: Height and width of the views.
        step_count: Steps done, over all phases.
        curve: One point per step.
        rates: Learning rates of the last step, by what they are of.
        at_once: Whether a warm-up step has one graph for all its objects, or one after the other's.
    """

    def __init__(
        self,
        objects: Sequence[TrainingViews],
        autoencoder: Autoencoder,
        settings: JointSettings,
        seed: int,
        device: str | torch.device = "cpu",
        arrays: ScratchArrays | None = None,
        bank: RayBank | None = None,
    ) -> None:
        if not objects:
            raise ValueError("joint training needs at least one object on every rank")
        self._arrays = arrays or ScratchArrays()
        self._ranks = Ranks(len(objects))
        self.settings, self.seed, self.device = settings, seed, torch.device(device)
        self.objects = list(objects)
        self.autoencoder = autoencoder.to(self.device)
        self.step_count = 0
        self.curve: list[CurvePoint] = []
        self.rates: dict[str, float] = {}
        self.at_once = self.device.type != "cpu"
        self.size_px = (objects[0].rgba.shape[1], objects[0].rgba.shape[2])
        ids = [views.object_id for views in objects]
        self._draws = ObjectDraws(ids, [len(views.rgba) for views in objects], seed)
        self._draws_of_ranks: list[ObjectDraws] = gather_from_all(self._draws)
        self._codes = ObjectCodes(ids, settings, seed, self.device)
        self._init_shared()
        own = list(self.autoencoder.parameters())
        # None where RGB is rendered without an autoencoder: there is nothing to train then. The first is
        # dropped when its phase is over.
        self._autoencoder_trainer: AutoencoderTrainer | None = None
        self._ae_optimiser: torch.optim.Optimizer | None = None
        if own:
            batch = self._ranks.even_share(settings.autoencoder.batch_size)
            recipe = replace(settings.autoencoder, batch_size=batch)
            self._autoencoder_trainer = AutoencoderTrainer(self.autoencoder, AllViews(objects), recipe)
            self._ae_optimiser = torch.optim.Adam(own, betas=BETAS, fused=True)
        shared: list[dict[str, Any]] = [
            {"params": [self.base_planes]},
            {"params": list(self.renderer.parameters())},
        ]
        # Fused: one pass over memory instead of about ten; the same numbers up to rounding.
        self._optimiser = torch.optim.Adam(shared, betas=BETAS, eps=EPSILON, fused=True)
        self._cache: LatentCache | None = None
        self._bank = bank
        self._join_ranks()

    def _init_shared(self) -> None:
        s = self.settings
        generator = seeded_generator("shared", self.seed)
        shape = (s.n_base, 3, s.f_mac, s.resolution, s.resolution)
        base = torch.randn(*shape, generator=generator) * s.init_scale
        self.base_planes = base.to(self.device).requires_grad_()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            renderer = Renderer(s.f_mic + s.f_mac, self.autoencoder.latent_channels, s.width)
        self.renderer = renderer.to(self.device)

    def _join_ranks(self) -> None:
        """Start all ranks from the same shared parameters, and add up what they learn."""
        shared = [self.base_planes, *self.renderer.parameters(), *self.autoencoder.parameters()]
        filled = [tensor for tensor in (*shared, *self.autoencoder.buffers()) if tensor.numel()]
        self._ranks.broadcast(filled)  # base planes of a representation that has none are empty
        if self._autoencoder_trainer is not None and self._ae_optimiser is not None:
            fraction = self._ranks.even_fraction(self.settings.autoencoder.batch_size)
            self._ranks.sum_before(self._autoencoder_trainer.optimiser, fraction)
            self._ranks.sum_before(self._ae_optimiser)
        self._ranks.sum_before(self._optimiser)  # `_apply` multiplies these losses

    @property
    def n_objects(self) -> int:
        """Objects of all ranks."""
        return self._ranks.n_objects

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
            EmptyHullError: Objects have no ray, in the first step that draws rays; names them.
            FloatingPointError: If the loss or a gradient is not finite; says the phase, the step and the
                learning rates, on all ranks. The state is then that of the step before.
        """
        started = time.perf_counter()
        phase = self.phase
        self._drop_what_is_over(phase)
        try:
            losses = self._step(phase)
        except OtherRankError as error:
            rates = ", ".join(f"{name} {rate:.3g}" for name, rate in self.rates.items())
            said = f"{error}, in step {self.step_count} ({phase}) at learning rates {rates}"
            raise OtherRankError(said) from error
        self.step_count += 1
        point = CurvePoint(self.step_count, phase, losses, time.perf_counter() - started)
        self.curve.append(point)
        return point

    def _drop_what_is_over(self, phase: Phase) -> None:
        """Free what later phases do not read: the autoencoder's own training, and the warm-up's latents."""
        if phase != "autoencoder" and self._autoencoder_trainer is not None:
            self._autoencoder_trainer = None
            self.autoencoder.zero_grad(set_to_none=True)
        if phase == "joint":
            self._cache = None

    def _step(self, phase: Phase) -> dict[str, float]:
        first = self.settings.autoencoder.steps
        if phase == "autoencoder":
            return self._autoencoder_step()
        if phase == "warmup":
            return self._warmup_step(self.step_count - first)
        if phase == "joint":
            return self._joint_step(self.step_count - first - self.settings.warmup_steps)
        raise ValueError(f"training is done after {self.total_steps} steps")

    def _autoencoder_step(self) -> dict[str, float]:
        assert self._autoencoder_trainer is not None, "an autoencoder without parameters has no steps"
        try:
            self._autoencoder_trainer.run(until=self.step_count + 1)
        except OtherRankError:
            raise
        except FloatingPointError:
            self._ranks.fail(self._autoencoder_trainer.optimiser)
            raise
        finally:
            self.rates = {"autoencoder": self._autoencoder_trainer.learning_rate}
        if self._autoencoder_trainer.step == self.settings.autoencoder.steps:
            self._ranks.broadcast(self.autoencoder.buffers())  # the normaliser is of the first rank's views
        fraction = self._ranks.even_fraction(self.settings.autoencoder.batch_size)
        return self._ranks.sum({"ae": self._autoencoder_trainer.losses[-1]}, fraction)

    def _warmup_step(self, step: int) -> dict[str, float]:
        s = self.settings
        bank = self._ray_bank()
        rows = self._draws.objects(step, self._ranks.share(s.warmup_objects))
        generators = self._draws.generators("warmup", step, rows)
        batch = draw_pixels(bank, rows, generators, s.warmup_pixels, s.n_samples + s.n_fine)
        leaves, planes = self._planes_of(rows)
        random = self._free_points(generators)
        background, target = self._warmup_latents(batch, rows)
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

        loss = sum_by_object(loss_of, planes, list(self.renderer.parameters()), at_once=self.at_once)
        if s.tv_warmup:
            variation = total_variation(planes)
            parts["tv"] = float(variation.detach())
            loss = loss + s.tv_warmup * variation
        fraction = self._ranks.fraction(s.warmup_objects)
        self._apply(loss, fraction, rows, leaves, s.warmup_rates.scaled(s.decay.at(step / s.warmup_steps)))
        return self._reported(parts, fraction)

    def _warmup_latents(self, batch: RayBatch, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Background and target [P, C] of the latent pixels of a step, wherever bank and latents lie."""
        bank, cache = self._ray_bank(), self._latent_cache()
        pixel = bank.pixel[batch.index]
        view = bank.view_rows(batch.index, torch.tensor(rows, device=self.device)[batch.slot])
        place = cache.latents.device
        target = cache.latents[view.to(place), pixel.to(place)].to(self.device)
        return cache.background.flatten(1).T[pixel.to(self.device)], target

    def _joint_step(self, step: int) -> dict[str, float]:
        s = self.settings
        bank = self._ray_bank()
        share = self._ranks.share(s.joint_objects)
        views = self._draws.views(step, share, s.joint_views)
        rows = list(views)
        generators = self._draws.generators("joint", step, rows)
        batch = view_pixels(bank, rows, list(views.values()), generators, s.n_samples + s.n_fine, s.crop_px)
        rgb = batch.rgb([self.objects[i] for i in rows], self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=s.dtype == "bfloat16"):
            latents = self.autoencoder.encode(torch.cat([rgb, torch.ones_like(rgb[:1])])).float()
        target, background = latents[:-1], latents[-1:].expand_as(latents[:-1])
        leaves, planes = self._planes_of(rows)
        drawn = self._render(planes, batch.rays, rows, self._free_points(generators))
        rendered = paste_pixels(drawn.value, drawn.opacity, batch, background)
        # The reconstruction loss counts a tenth and costs a decoding: a part of the windows is enough.
        chosen, n_chosen = every_nth_window(
            self._draws_of_ranks,
            self._ranks.shares(s.joint_objects),
            self._ranks.rank,
            step,
            s.joint_views,
            s.ae_every,
        )
        own, own_rgb = target[chosen], rgb[chosen]
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=s.dtype == "bfloat16"):
            decoded = self.autoencoder.decode(torch.cat([rendered, own])).float()
        latent = latent_error(rendered, target).mean()
        squared = (decoded - torch.cat([rgb, own_rgb])).square().flatten(1).mean(1)
        # The mean over all ranks' windows, of which this rank's part is multiplied by its fraction later.
        fraction = self._ranks.fraction(s.joint_objects)
        rgb_loss, ae = squared[: len(rgb)].mean(), squared[len(rgb) :].sum() / (n_chosen * fraction)
        free = drawn.free.mean()
        loss = s.lambda_latent * latent + s.lambda_rgb * rgb_loss + s.lambda_ae * ae + s.lambda_free * free
        parts = {"latent": latent, "rgb": rgb_loss, "ae": ae, "free": free}
        if s.tv_joint:
            parts["tv"] = total_variation(planes)
            loss = loss + s.tv_joint * parts["tv"]
        self._apply(loss, fraction, rows, leaves, s.joint_rates.scaled(s.decay.at(step / s.joint_steps)))
        return self._reported({name: float(part.detach()) for name, part in parts.items()}, fraction)

    def _apply(
        self,
        loss: Tensor,
        fraction: float,
        rows: list[int],
        leaves: Leaves,
        rates: Rates,
    ) -> None:
        """Backward, then one optimiser step of what it reached and has a rate; `fraction` is the rank's."""
        value = self._ranks.sum({"loss": float(loss.detach())}, fraction)["loss"]
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss of step {self.step_count} ({self.phase}) is {value} at learning rates {rates}"
            )
        self._optimiser.zero_grad(set_to_none=True)
        if self._ae_optimiser is not None:
            self._ae_optimiser.zero_grad(set_to_none=True)
        (loss * fraction).backward()  # type: ignore[no-untyped-call]
        self._require_finite_gradients(leaves, rates)
        self.rates = {name: rate for name, rate in asdict(rates).items() if rate}
        if self._codes.micro is None:
            self.rates.pop("micro", None)
        for group, rate in zip(self._optimiser.param_groups, (rates.base, rates.renderer), strict=True):
            group["lr"] = rate
        self._optimiser.step()
        self._codes.update(rows, leaves, rates)
        if self._ae_optimiser is not None and rates.autoencoder:
            self._ae_optimiser.param_groups[0]["lr"] = rates.autoencoder
            self._ae_optimiser.step()

    def _require_finite_gradients(self, leaves: Leaves, rates: Rates) -> None:
        """Look at all gradients of a step before any of them changes anything; all ranks agree."""
        params = [self.base_planes, *self.renderer.parameters(), *self.autoencoder.parameters(), *leaves]
        broken = 0.0 if is_finite(param.grad for param in params if param is not None) else 1.0
        if self._ranks.sum({"broken": broken})["broken"]:
            raise FloatingPointError(
                f"a gradient of step {self.step_count} ({self.phase}) is not finite at learning rates {rates}"
            )

    def _reported(self, parts: dict[str, float], fraction: float) -> dict[str, float]:
        """Losses of the whole step, all ranks; free space only where the loss looks at it."""
        if not self.settings.lambda_free:
            del parts["free"]
        return self._ranks.sum(parts, fraction)

    def _planes_of(self, rows: list[int]) -> tuple[Leaves, Tensor]:
        """Fuse the planes of a step's objects; their codes become leaves of the step's graph."""
        leaves = self._codes.leaves(rows)
        return leaves, fuse(*leaves, self.base_planes)

    def _free_points(self, generators: list[torch.Generator]) -> Tensor:
        n = self.settings.free_points if self.settings.lambda_free else 0
        random = torch.stack([torch.rand(n, 3, generator=generator) for generator in generators])
        return random.to(self.device)

    def _render(self, planes: Tensor, batch: RayBatch, rows: list[int], random: Tensor) -> Rendered:
        s = self.settings
        table, index = PlaneTable.of(planes, s.geometry), torch.tensor(rows, device=self.device)
        return render_pixels(
            self.renderer, table, self._ray_bank(), batch, index, random, s.geometry, s.n_fine
        )

    def _ray_bank(self) -> RayBank:
        if self._bank is None:
            s = self.settings
            self._bank = build_ray_bank(
                self.objects, self.autoencoder.factor, s.geometry, s.dilate, self.device, self._arrays
            )
        return self._bank

    def _latent_cache(self) -> LatentCache:
        if self._cache is None:  # the autoencoder is frozen during the warm-up
            self._cache = encode_views(self.objects, self.autoencoder, self.device, self._arrays)
        return self._cache

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continued run needs: tensors, plain numbers and strings."""
        alone = self._autoencoder_trainer if self.phase == "autoencoder" else None
        return {
            "step_count": self.step_count,
            "curve": [(p.step, p.phase, p.losses, p.seconds) for p in self.curve],
            "autoencoder_trainer": alone and alone.state_dict(),
            "autoencoder": self.autoencoder.state_dict(),
            "base_planes": self.base_planes.detach(),
            "renderer": self.renderer.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "ae_optimiser": self._ae_optimiser and self._ae_optimiser.state_dict(),
            **self._codes.state_dict(),
            "object_ids": list(self._codes.object_ids),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken; this trainer has not gone further itself.

        Raises:
            StoreMismatchError: If the state is of other objects.
        """
        ids, given = self._codes.object_ids, state["object_ids"]
        if tuple(given) != ids:
            raise StoreMismatchError(f"the checkpoint is of {len(given)} other objects than these {len(ids)}")
        self.step_count = int(state["step_count"])
        self.curve = [CurvePoint(*point) for point in state["curve"]]
        if self.phase == "autoencoder":
            assert self._autoencoder_trainer is not None, "this trainer has gone further than the state"
            self._autoencoder_trainer.load_state_dict(state["autoencoder_trainer"])
        self.autoencoder.load_state_dict(state["autoencoder"])
        with torch.no_grad():
            self.base_planes.copy_(state["base_planes"])
        self.renderer.load_state_dict(state["renderer"])
        self._optimiser.load_state_dict(state["optimiser"])
        if self._ae_optimiser is not None:
            self._ae_optimiser.load_state_dict(state["ae_optimiser"])
        self._codes.load_state_dict(state)
        self._cache = None

    def code(self, index: int) -> tuple[Tensor | None, Tensor]:
        """Micro planes and coefficients of one of this rank's objects, as they are now."""
        return self._codes.of(index)

    def codes(self) -> RegimeOneCodes:
        """Codes of this rank's objects."""
        return self._codes.stored()

    def shared_components(self, codes: RegimeOneCodes | None = None) -> SharedComponents:
        """The shared components as they are now, detached.

        Args:
            codes: Of all ranks' objects, whose mean new fits start from; None for this rank's.
        """
        s, codes = self.settings, codes or self.codes()
        micro = None if codes.micro is None else torch.from_numpy(codes.micro).mean(0).to(self.device)
        return SharedComponents(
            autoencoder=self.autoencoder,
            base_planes=self.base_planes.detach().clone(),
            renderer=self.renderer,
            background_latent=self.autoencoder.background_latent(*self.size_px),
            geometry=s.geometry,
            f_mic=s.f_mic,
            size_px=self.size_px,
            mean_micro=micro,
            mean_coefficients=torch.from_numpy(codes.coefficients).mean(0).to(self.device),
        )
