"""The objects that are fitted together, and one tensor step of all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.fit.codes import CodeSlots, InitCode, Leaves
from pipeline.fit.draws import uniform
from pipeline.fit.lane import Lane, Phase, join_banks, open_lane
from pipeline.fit.settings import FitSettings, FittedCode
from pipeline.model.renderer import PlaneTable
from pipeline.model.shared import SharedComponents
from pipeline.train.batches import RayBatch, view_pixels
from pipeline.train.by_object import sum_by_object
from pipeline.train.draws import cycle, seeded_generator
from pipeline.train.losses import Rendered, latent_error, paste_pixels, render_pixels
from pipeline.train.ray_bank import EmptyHullError, RayBank
from pipeline.train.schedule import Rates
from pipeline.train.training_views import TrainingViews


@dataclass(frozen=True)
class _Group:
    """Lanes of one phase, and what all of their steps read; made anew when a lane comes or goes.

    Attributes:
        lanes: B objects.
        bank: Rays of all of them, P latent pixels.
        targets: [P, C] the latent that each pixel shows.
        background: [P, C] the background latent behind it.
        keys: [B] of random numbers, int64.
        index: [B] slots.
        steps: [B] steps done.
        first: [B] each object's first pixel in the bank.
        count: [B] its pixels.
    """

    lanes: list[Lane]
    bank: RayBank
    targets: Tensor
    background: Tensor
    keys: Tensor
    index: Tensor
    steps: Tensor
    first: Tensor
    count: Tensor

    @staticmethod
    def of(lanes: list[Lane], background: Tensor) -> _Group:
        bank = join_banks([lane.bank for lane in lanes])
        start = bank.object_start.to(bank.device)
        return _Group(
            lanes,
            bank,
            torch.cat([lane.targets for lane in lanes]),
            background.flatten(1).T[bank.pixel.long()],
            torch.tensor([lane.key for lane in lanes], device=bank.device),
            torch.tensor([lane.slot for lane in lanes], device=bank.device),
            torch.tensor([lane.steps for lane in lanes], device=bank.device),
            start[:-1],
            start.diff(),
        )

    @property
    def slots(self) -> list[int]:
        return [lane.slot for lane in self.lanes]


class FitBatch:
    """At most ``size`` objects, each in a slot of its own; see `pipeline.fit.optimise.fit_stream`."""

    def __init__(self, shared: SharedComponents, settings: FitSettings, seed: int, size: int) -> None:
        self.shared, self.settings, self.seed = shared, settings, seed
        self._codes = CodeSlots(shared, size, settings.levels, settings.betas)
        self._lanes: dict[int, Lane] = {}
        self._free = list(range(size))[::-1]
        self._groups: dict[str, _Group] = {}
        self._losses = shared.base_planes.new_zeros(size)  # summed since each object's last point

    @property
    def has_room(self) -> bool:
        """Whether another object can be admitted."""
        return bool(self._free)

    @property
    def busy(self) -> bool:
        """Whether there is an object."""
        return bool(self._lanes)

    def admit(self, views: TrainingViews, start: InitCode | None) -> FittedCode | None:
        """Take an object in; return a failed result if nothing can be learned about it."""
        began = _now()
        slot = self._free[-1]
        s = self.settings
        self._codes.start(slot, start)
        try:
            lane = open_lane(self.shared, views, slot, s.dilate, self.seed, s.stopping)
        except EmptyHullError as error:
            return FittedCode(
                views.object_id, *self._codes.code(slot), failure=str(error), failure_kind="empty_hull"
            )
        self._free.pop()
        self._lanes[slot] = lane
        self._losses[slot] = 0.0
        if not s.latent_steps:
            self._next_phase(lane)
        self._groups.clear()
        _charge([lane], began)
        return None

    def step(self) -> None:
        """One step of every object."""
        groups = [self._group(phase) for phase in ("latent", "rgb")]  # before an object changes its phase
        for group in filter(None, groups):
            began = _now()
            losses = self._latent_step(group) if group is groups[0] else self._rgb_step(group)
            self._losses[group.index] += losses
            group.steps.add_(1)
            self._count_step(group)
            _charge(group.lanes, began)

    def finished(self) -> list[FittedCode]:
        """Results of objects that are done, whose slots are free again."""
        done = [lane for lane in self._lanes.values() if lane.phase == "done"]
        for lane in done:
            del self._lanes[lane.slot]
            self._free.append(lane.slot)
        return [self._result(lane) for lane in done]

    def _group(self, phase: str) -> _Group | None:
        if phase not in self._groups:
            lanes = [lane for _, lane in sorted(self._lanes.items()) if lane.phase == phase]
            if not lanes:
                return None
            self._groups[phase] = _Group.of(lanes, self.shared.background_latent)
        return self._groups[phase]

    def _latent_step(self, group: _Group) -> Tensor:
        """A step on random latent pixels; returns the loss per object."""
        s, n = self.settings, len(group.lanes)
        batch, points = self._drawn(group)
        leaves = self._codes.leaves(group.index)
        index = torch.arange(n, device=group.keys.device)
        target, background = group.targets[batch.index], group.background[batch.index]
        losses = torch.empty(n, device=index.device)

        def loss_of(part: slice, own: Tensor) -> Tensor:
            rendered = self._render(own, group, batch.of_objects(part, n), index[part], points[part])
            pixels = slice(part.start * s.latent_pixels, part.stop * s.latent_pixels)
            predicted = rendered.value + (1.0 - rendered.opacity[:, None]) * background[pixels]
            error = latent_error(predicted, target[pixels]).reshape(len(own), -1).mean(1)
            losses[part] = error.detach()
            return (error + s.lambda_free * rendered.free).sum()

        # Frozen in every fit; a block of `pipeline.frozen` may train it.
        trained = [param for param in self.shared.renderer.parameters() if param.requires_grad]
        sum_by_object(loss_of, leaves.planes, trained).backward()  # type: ignore[no-untyped-call]
        self._update(group, leaves)
        return losses

    def _rgb_step(self, group: _Group) -> Tensor:
        """A step on whole views through the decoder; returns the RGB loss per object."""
        s, shared, lanes = self.settings, self.shared, group.lanes
        rows = list(range(len(lanes)))
        generators = [seeded_generator("fit", lane.key, lane.steps) for lane in lanes]
        batch = view_pixels(
            group.bank, rows, [self._views(lane) for lane in lanes], generators, self._samples, s.crop_px
        )
        leaves = self._codes.leaves(group.index)
        index = torch.arange(len(lanes), device=group.keys.device)
        points = self._free_points(uniform(group.keys, group.steps, self._n_free * 3))
        rendered = self._render(leaves.planes, group, batch.rays, index, points)
        latents = paste_pixels(
            rendered.value,
            rendered.opacity,
            batch,
            batch.crop([shared.background_latent] * len(batch.windows)),
        )
        rgb = batch.rgb([lane.views for lane in lanes], latents.device)
        error = (shared.autoencoder.decode(latents) - rgb).square().reshape(len(lanes), -1).mean(1)
        losses = s.lambda_rgb * error
        if s.lambda_latent:
            target = batch.crop([lanes[row].latents[view] for row, view, _, _ in batch.windows])
            own = latent_error(latents, target).reshape(len(lanes), -1).mean(1)
            losses = losses + s.lambda_latent * own
        (losses + s.lambda_free * rendered.free).sum().backward()  # type: ignore[no-untyped-call]
        self._update(group, leaves)
        return error.detach()

    def _update(self, group: _Group, leaves: Leaves) -> None:
        rates = [self._rates(lane) for lane in group.lanes]
        self._codes.update(group.slots, leaves, rates, self.settings.lambda_tv)

    def _drawn(self, group: _Group) -> tuple[RayBatch, Tensor]:
        """Latent pixels [n·P] of the lanes with their jitter, and points of space [n, free, 3]."""
        n, n_pixels = len(group.lanes), self.settings.latent_pixels
        n_jitter = n_pixels * group.bank.near.shape[1] * self._samples
        numbers = uniform(group.keys, group.steps, n_pixels + n_jitter + self._n_free * 3)
        pixels, jitter, points = torch.split(numbers, [n_pixels, n_jitter, self._n_free * 3], dim=1)
        # A float32 product may round up to the count itself.
        own = torch.minimum((pixels * group.count[:, None]).long(), group.count[:, None] - 1)
        slot = torch.arange(n, device=own.device).repeat_interleave(n_pixels)
        batch = RayBatch((group.first[:, None] + own).flatten(), slot, jitter.reshape(-1, self._samples))
        return batch, self._free_points(points)

    @property
    def _samples(self) -> int:
        return self.settings.n_samples + self.settings.n_fine

    @property
    def _n_free(self) -> int:
        return self.settings.free_points if self.settings.lambda_free else 0

    def _free_points(self, numbers: Tensor) -> Tensor:
        return numbers.reshape(len(numbers), self._n_free, 3)

    def _views(self, lane: Lane) -> list[int]:
        count = self.settings.rgb_views
        return cycle(len(lane.views.rgba), count, lane.step * count, "views", lane.key)

    def _render(
        self, planes: Tensor, group: _Group, rays: RayBatch, objects: Tensor, points: Tensor
    ) -> Rendered:
        shared = self.shared
        table = PlaneTable.of(planes, shared.geometry)
        return render_pixels(
            shared.renderer, table, group.bank, rays, objects, points, shared.geometry, self.settings.n_fine
        )

    def _rates(self, lane: Lane) -> Rates:
        s = self.settings
        if lane.phase == "latent":
            return s.latent_rates.scaled(s.latent_decay.at(lane.step / s.latent_steps) * lane.pace.scale)
        return s.rgb_rates.scaled(s.rgb_decay.at(lane.step / s.rgb_steps) * lane.pace.scale)

    def _count_step(self, group: _Group) -> None:
        """Move the lanes on; at fixed intervals of its own steps an object's loss is looked at."""
        due = []
        for lane in group.lanes:
            lane.step, lane.steps = lane.step + 1, lane.steps + 1
            if lane.step % self.settings.curve_every == 0 or lane.step == self._steps_of(lane):
                due.append(lane)
        if due:  # one transfer for all, and none where no lane is due
            sums = self._losses.tolist()
            for lane in due:
                self._look(lane, sums[lane.slot])

    def _look(self, lane: Lane, loss_sum: float) -> None:
        since = (lane.step - 1) % self.settings.curve_every + 1
        self._losses[lane.slot] = 0.0
        lane.see(loss_sum / since)
        if lane.failure is None and (lane.pace.ended or lane.step == self._steps_of(lane)):
            self._next_phase(lane)
        if lane.phase == "done":
            self._groups.clear()

    def _steps_of(self, lane: Lane) -> int:
        return self.settings.latent_steps if lane.phase == "latent" else self.settings.rgb_steps

    def _next_phase(self, lane: Lane) -> None:
        following: Phase = "rgb" if lane.phase == "latent" and self.settings.rgb_steps else "done"
        lane.enter(following, self.settings.stopping)
        self._groups.clear()

    def _result(self, lane: Lane) -> FittedCode:
        micro, coefficients = self._codes.code(lane.slot)
        return FittedCode(
            lane.views.object_id,
            micro,
            coefficients,
            lane.curve,
            lane.failure,
            steps=(lane.latent_steps, lane.steps - lane.latent_steps),
            seconds=lane.seconds,
            cpu_seconds=lane.cpu_seconds,
        )


def _now() -> tuple[float, float]:
    return time.monotonic(), time.process_time()


def _charge(lanes: Sequence[Lane], began: tuple[float, float]) -> None:
    """Share the time since then among objects."""
    wall, cpu = (now - then for now, then in zip(_now(), began, strict=True))
    for lane in lanes:
        lane.seconds += wall / len(lanes)
        lane.cpu_seconds += cpu / len(lanes)
