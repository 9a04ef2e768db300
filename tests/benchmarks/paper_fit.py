"""Regime 2 as the paper has it, on our renderer, with all shared components frozen: bench_fit's baselines.

Micro planes and coefficients start from N(0, 1). 30 epochs of latent loss against latents encoded once, then
50 of RGB loss through the frozen decoder. Every ray of a view takes 48 stratified and 48 importance samples,
whatever the object. Adam with a rate of 1e-2, in the RGB epochs 1e-3 for micro planes and 1e-2 for
coefficients; times 0.941 after every epoch; the RGB epochs start with new moments.

Where the paper leaves a choice, the one that is kinder to it is taken:

- Its batches hold 32 views drawn from hundreds of objects, mostly of different ones. So a step here holds one
  view of every object (at most 32), and an object gets one update per view, 30 V + 50 V in all. 32 views of
  few objects in a step would give them a tenth as many updates.
- A ray's samples lie between near and far and where planes and judge reach (`ray_span`); one that meets
  nothing costs as much as any other. The paper's planes fill the whole range. Ours end at the object, what
  the frozen renderer makes of nothing is fog, and marching through it cost the sane baseline 1.7 dB.
- Only the step's objects are updated: a dense Adam over hundreds of objects spends more on the others than on
  these.
- Losses are means over a view and summed over objects, not divided by the batch: Adam's epsilon weighs least.
- Latents are encoded once, and on CPUs objects are computed one after the other, as ours are
  (`sum_by_object`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.model.compositing import stratified_depths
from pipeline.model.planes import fuse
from pipeline.model.rays import ray_span, view_rays
from pipeline.model.renderer import PlaneTable, render_rays_twice
from pipeline.model.shared import SharedComponents
from pipeline.train.by_object import sum_by_object
from pipeline.train.draws import seeded_generator
from pipeline.train.losses import latent_error
from pipeline.train.training_views import TrainingViews

MAX_OBJECTS = 32


@dataclass(frozen=True)
class PaperRecipe:
    """Numbers of tables 22 and 23 of the paper; what is not there is the released code's.

    Attributes:
        sane: Planes start from N(0, 0.1²) and coefficients from N(0, 1/M), and Adam's epsilon is 1e-15.
    """

    sane: bool = False
    latent_epochs: int = 30
    rgb_epochs: int = 50
    latent_rate: float = 1e-2
    rgb_micro_rate: float = 1e-3
    rgb_coefficients_rate: float = 1e-2
    decay: float = 0.941
    n_coarse: int = 48
    n_fine: int = 48


class PaperFit:
    """Fits objects in one batch.

    Attributes:
        micro: [n, 3, F_mic, K, K], None for ULW.
        coefficients: [n, M].
        views_rendered: Of each object so far.
        rates: Learning rates of the last epoch: micro planes, coefficients.
    """

    def __init__(
        self, shared: SharedComponents, objects: Sequence[TrainingViews], recipe: PaperRecipe, seed: int = 0
    ) -> None:
        if len(objects) > MAX_OBJECTS or len({len(own.rgba) for own in objects}) != 1:
            raise ValueError(f"a batch holds up to {MAX_OBJECTS} objects with equally many views")
        self.shared, self.recipe, self.seed = shared, recipe, seed
        self.device = shared.base_planes.device
        self.views_rendered = 0
        self.rates = (0.0, 0.0)
        self._ids = [own.object_id for own in objects]
        self._rgb = torch.stack([own.rgb(self.device) for own in objects])
        self._n, self._n_views = self._rgb.shape[:2]
        with torch.no_grad():
            views = torch.split(self._rgb.flatten(0, 1), 32)
            latents = torch.cat([shared.autoencoder.encode(part) for part in views])
        self._latents = latents.unflatten(0, (self._n, self._n_views))
        rays = [self._rays_of(own) for own in objects]
        self._origins = torch.stack([origins for origins, _ in rays])
        self._directions = torch.stack([directions for _, directions in rays])
        self._generators = [seeded_generator("paper", seed, object_id) for object_id in self._ids]
        self._start()

    def _rays_of(self, own: TrainingViews) -> tuple[Tensor, Tensor]:
        """[V, 3] and [V, P, 3], one ray per latent pixel."""
        cameras = (torch.from_numpy(values).to(self.device) for values in (own.cam2world, own.intrinsics))
        origins, directions = view_rays(*cameras, *own.rgba.shape[1:3], self.shared.autoencoder.factor)
        return origins, directions[:, :, 0]

    def _start(self) -> None:
        n_base, _, _, K, _ = self.shared.base_planes.shape
        planes_scale = 0.1 if self.recipe.sane else 1.0
        scale = n_base**-0.5 if self.recipe.sane else 1.0
        draws = [seeded_generator("paper code", self.seed, object_id) for object_id in self._ids]
        coefficients = scale * torch.stack([torch.randn(n_base, generator=own) for own in draws])
        self.coefficients = coefficients.to(self.device).requires_grad_()
        self.micro: Tensor | None = None
        if self.shared.f_mic:
            shape = (3, self.shared.f_mic, K, K)
            micro = planes_scale * torch.stack([torch.randn(shape, generator=own) for own in draws])
            self.micro = micro.to(self.device).requires_grad_()

    def run(self) -> Iterator[int]:
        """Do all epochs; yields their number, from 1, after each."""
        r = self.recipe
        phases = (
            (r.latent_epochs, r.latent_rate, r.latent_rate, self._latent_losses),
            (r.rgb_epochs, r.rgb_micro_rate, r.rgb_coefficients_rate, self._rgb_losses),
        )
        done = 0
        for epochs, micro_rate, coefficients_rate, losses_of in phases:
            leaves = [leaf for leaf in (self.micro, self.coefficients) if leaf is not None]
            epsilon = 1e-15 if r.sane else 1e-8
            groups = [{"params": [leaf]} for leaf in leaves]
            optimiser = torch.optim.Adam(groups, lr=0.0, eps=epsilon, fused=True)
            for epoch in range(epochs):
                self.rates = (micro_rate * r.decay**epoch, coefficients_rate * r.decay**epoch)
                for group, rate in zip(optimiser.param_groups, self.rates[-len(leaves) :], strict=True):
                    group["lr"] = rate
                for views in self._order(done):
                    optimiser.zero_grad(set_to_none=True)
                    planes = fuse(self.micro, self.coefficients, self.shared.base_planes)
                    sum_by_object(_summed(losses_of, views), planes).backward()
                    optimiser.step()
                    self.views_rendered += 1
                done += 1
                yield done

    def _order(self, epoch: int) -> Tensor:
        """[V, n]: each row has one view of every object, and each object sees every view once."""
        orders = [
            torch.randperm(self._n_views, generator=seeded_generator("order", self.seed, epoch, object_id))
            for object_id in self._ids
        ]
        return torch.stack(orders, dim=1).to(self.device)

    def _latent_losses(self, part: slice, planes: Tensor, views: Tensor) -> Tensor:
        rendered = self._render(part, planes, views)
        return latent_error(rendered, self._of(self._latents, part, views)).mean((1, 2, 3))

    def _rgb_losses(self, part: slice, planes: Tensor, views: Tensor) -> Tensor:
        decoded = self.shared.autoencoder.decode(self._render(part, planes, views))
        return (decoded - self._of(self._rgb, part, views)).square().mean((1, 2, 3))

    def _of(self, values: Tensor, part: slice, views: Tensor) -> Tensor:
        """Values of one view of each object of the part."""
        objects = torch.arange(part.start, part.stop, device=self.device)
        return values[objects, views[part]]

    def _render(self, part: slice, planes: Tensor, views: Tensor) -> Tensor:
        """Latents [b, C, h, w] of one view of each object of the part."""
        r, shared, geometry = self.recipe, self.shared, self.shared.geometry
        directions = self._of(self._directions, part, views)
        b, n_pixels = directions.shape[:2]
        origins = self._of(self._origins, part, views)[:, None].expand_as(directions).reshape(-1, 3)
        jitter = torch.cat(
            [torch.rand(n_pixels, r.n_coarse + r.n_fine, generator=own) for own in self._generators[part]]
        ).to(self.device)
        directions = directions.reshape(-1, 3)
        near, far = ray_span(
            origins, directions, geometry.box_half, geometry.near, geometry.far, geometry.clip_radius
        )
        value, opacity = render_rays_twice(
            shared.renderer,
            PlaneTable.of(planes, geometry),
            torch.arange(b, device=self.device).repeat_interleave(n_pixels),
            origins,
            directions,
            stratified_depths(near, far, r.n_coarse, jitter[:, : r.n_coarse]),
            r.n_fine,
            jitter[:, r.n_coarse :],
            geometry.sigma_scale,
        )
        background = shared.background_latent.flatten(1).T
        value, opacity = value.view(b, n_pixels, -1), opacity.view(b, n_pixels, 1)
        latents = value + (1.0 - opacity) * background
        return latents.transpose(1, 2).reshape(b, *shared.background_latent.shape)


def _summed(losses_of: Callable[[slice, Tensor, Tensor], Tensor], views: Tensor) -> Callable[..., Tensor]:
    """Loss of a part of the objects, as `sum_by_object` takes it."""
    return lambda part, own: losses_of(part, own, views).sum()
