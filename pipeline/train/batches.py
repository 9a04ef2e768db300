"""Which rays a training or fitting step sees: latent pixels drawn at random, or windows of whole views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.train.ray_bank import RayBank
from pipeline.train.training_views import TrainingViews, over_white


@dataclass(frozen=True)
class RayBatch:
    """Latent pixels of one step.

    Attributes:
        index: [P] into the bank, on the bank's device.
        slot: [P] position of the pixel's object in the step's list of objects.
        jitter: [P·Q, S] uniform in [0, 1).
    """

    index: Tensor
    slot: Tensor
    jitter: Tensor

    def of_objects(self, part: slice, n_objects: int) -> RayBatch:
        """The latent pixels of consecutive objects, out of ``n_objects`` that have equally many."""
        pixels, rays = (_share(len(values), part, n_objects) for values in (self.index, self.jitter))
        return RayBatch(self.index[pixels], self.slot[pixels] - part.start, self.jitter[rays])


def _share(n: int, part: slice, n_objects: int) -> slice:
    return slice(part.start * n // n_objects, part.stop * n // n_objects)


@dataclass(frozen=True)
class ViewBatch:
    """Windows of views for one step, and the latent pixels in them that can meet an object.

    Attributes:
        rays: The latent pixels.
        cell: [P] index of each into the stack of windows [n · height · width].
        windows: Per window its object's position in the step, view, and first latent row and column.
        height: Window height, latent pixels.
        width: Window width, latent pixels.
        factor: f, image pixels per latent pixel.
    """

    rays: RayBatch
    cell: Tensor
    windows: tuple[tuple[int, int, int, int], ...]
    height: int
    width: int
    factor: int

    def rgb(self, objects: Sequence[TrainingViews], device: torch.device) -> Tensor:
        """[n, 3, height·f, width·f] pixels of the windows in [0, 1], over white."""
        f = self.factor
        parts = [
            objects[slot].rgba[view, top * f : (top + self.height) * f, left * f : (left + self.width) * f]
            for slot, view, top, left in self.windows
        ]
        return over_white(torch.from_numpy(np.stack(parts)).to(device))

    def crop(self, maps: Sequence[Tensor]) -> Tensor:
        """[n, C, height, width] windows of latent maps, one [C, h, w] per window."""
        parts = [
            latent[:, top : top + self.height, left : left + self.width]
            for latent, (_, _, top, left) in zip(maps, self.windows, strict=True)
        ]
        return torch.stack(parts)


def draw_pixels(
    bank: RayBank,
    objects: Sequence[int],
    generators: Sequence[torch.Generator],
    n_pixels: int,
    n_samples: int,
) -> RayBatch:
    """Draw latent pixels of objects uniformly, each object with its own generator.

    An object's draw does not depend on which other objects are in the step.
    """
    n_sub = bank.near.shape[1]
    index, jitter = [], []
    for i, generator in zip(objects, generators, strict=True):
        start, end = int(bank.object_start[i]), int(bank.object_start[i + 1])
        index.append(torch.randint(start, end, (n_pixels,), generator=generator))
        jitter.append(torch.rand(n_pixels * n_sub, n_samples, generator=generator))
    device = bank.device
    slot = torch.arange(len(objects), device=device).repeat_interleave(n_pixels)
    return RayBatch(torch.cat(index).to(bank.near.device), slot, torch.cat(jitter).to(device))


def view_pixels(
    bank: RayBank,
    objects: Sequence[int],
    views: Sequence[Sequence[int]],
    generators: Sequence[torch.Generator],
    n_samples: int,
    crop_px: int = 0,
) -> ViewBatch:
    """Take the latent pixels of chosen views of objects, or of random windows of them.

    Args:
        bank: Rays.
        objects: Indices of the step's objects in the bank.
        views: Chosen views of each object.
        generators: One per object; its choices do not depend on the other objects.
        n_samples: Samples per ray.
        crop_px: Side of square windows around or inside the object, image pixels; 0 takes whole views.
    """
    n_sub = bank.near.shape[1]
    height, width = ((min(crop_px // bank.factor, side) if crop_px else side) for side in bank.grid)
    index, slot, jitter, cell = [], [], [], []
    windows: list[tuple[int, int, int, int]] = []
    for s, (i, chosen, generator) in enumerate(zip(objects, views, generators, strict=True)):
        for view in chosen:
            first = int(bank.object_start[i])
            part = torch.arange(
                first + int(bank.view_start[i][view]), first + int(bank.view_start[i][view + 1])
            )
            pixel = bank.pixel_on_host[part].long()
            row, col = pixel // bank.grid[1], pixel % bank.grid[1]
            top = _window_start(row, height, bank.grid[0], generator)
            left = _window_start(col, width, bank.grid[1], generator)
            inside = (row >= top) & (row < top + height) & (col >= left) & (col < left + width)
            cell.append(((row - top) * width + col - left)[inside] + len(windows) * height * width)
            index.append(part[inside])
            slot.append(torch.full_like(index[-1], s))
            jitter.append(torch.rand(len(index[-1]) * n_sub, n_samples, generator=generator))
            windows.append((s, view, top, left))
    device = bank.device
    rays = RayBatch(
        torch.cat(index).to(bank.near.device), torch.cat(slot).to(device), torch.cat(jitter).to(device)
    )
    return ViewBatch(rays, torch.cat(cell).to(device), tuple(windows), height, width, bank.factor)


def _window_start(inside: Tensor, size: int, side: int, generator: torch.Generator) -> int:
    """First row (or column) of a window that covers the object, or lies within it where that is larger."""
    if size >= side:
        return 0
    first, end = (int(inside.min()), int(inside.max()) + 1) if len(inside) else (0, side)
    low, high = sorted((first, end - size))
    low, high = max(0, min(low, side - size)), min(max(high, 0), side - size)
    return int(torch.randint(low, high + 1, (), generator=generator))
