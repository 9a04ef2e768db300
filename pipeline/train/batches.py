"""What a training or fitting step sees: rays of training views, chosen as a pure function of (seed, step).

Held-out views never enter: `TrainingViews.of` drops them before anything is computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.model.occupancy import grow, latent_masks, occupied_span, visual_hull
from pipeline.model.rays import ray_span, view_rays
from pipeline.model.renderer import Geometry


def seeded_generator(*labels: object) -> torch.Generator:
    """A generator that depends on the labels alone (sha256), the same in every process."""
    digest = hashlib.sha256("\x1f".join(str(label) for label in labels).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class TrainingViews:
    """Training views of one object.

    Attributes:
        object_id: The object.
        rgba: [V, H, W, 4] uint8, straight alpha, sRGB.
        cam2world: [V, 4, 4] OpenCV axes.
        intrinsics: [V, 3, 3] pixels.
        has_alpha: Whether alpha tells where the object is.
    """

    object_id: str
    rgba: npt.NDArray[np.uint8]
    cam2world: npt.NDArray[np.float32]
    intrinsics: npt.NDArray[np.float32]
    has_alpha: bool = True

    @staticmethod
    def of(
        object_id: str,
        images: npt.NDArray[np.uint8],
        cam2world: npt.NDArray[np.float32],
        intrinsics: npt.NDArray[np.float32],
        heldout: npt.NDArray[np.bool_],
        has_alpha: bool = True,
    ) -> TrainingViews:
        """Keep the training views of an object.

        Raises:
            ValueError: If no training view is left.
        """
        keep = ~heldout
        if not keep.any():
            raise ValueError(f"object {object_id} has no training view: all {len(heldout)} are held out")
        return TrainingViews(object_id, images[keep], cam2world[keep], intrinsics[keep], has_alpha)

    def rgb(self, device: torch.device) -> Tensor:
        """[V, 3, H, W] in [0, 1], composited over white."""
        return over_white(torch.from_numpy(self.rgba).to(device))


class AllViews:
    """All training views of objects in one row space: what the autoencoder's trainer reads."""

    def __init__(self, objects: Sequence[TrainingViews]) -> None:
        self._objects = list(objects)
        self._start = np.cumsum([0] + [len(views.rgba) for views in objects])

    def __len__(self) -> int:
        """Views in all."""
        return int(self._start[-1])

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Views [len(rows), H, W, 4]."""
        owner = np.searchsorted(self._start, rows, side="right") - 1
        return np.stack(
            [self._objects[i].rgba[row - self._start[i]] for i, row in zip(owner, rows, strict=True)]
        )


def over_white(rgba: Tensor) -> Tensor:
    """Composite uint8 RGBA [..., H, W, 4] over white: [..., 3, H, W] in [0, 1]."""
    values = rgba.movedim(-1, -3).float() / 255.0
    alpha = values[..., 3:, :, :]
    return values[..., :3, :, :] * alpha + (1.0 - alpha)


@dataclass(frozen=True)
class RayBank:
    """Latent pixels of several objects' training views that can meet the object, by object and view.

    Attributes:
        origins: [P, 3] camera centre of each latent pixel.
        directions: [P, Q, 3] unit directions, Q = supersample².
        near: [P, Q] first distance, world units.
        far: [P, Q] last distance; far <= near for a sub-ray that misses.
        pixel: [P] index into the view's h·w latent pixels.
        view: [P] index into the object's training views.
        object_start: [B + 1] first latent pixel of each object.
        view_start: per object, [V + 1] first latent pixel of each view, counted from the object's first.
        occupancy: [B, G, G, G] what may hold something.
        grid: Height and width of the views, latent pixels.
        factor: f, image pixels per latent pixel.
    """

    origins: Tensor
    directions: Tensor
    near: Tensor
    far: Tensor
    pixel: Tensor
    view: Tensor
    object_start: Tensor
    view_start: tuple[Tensor, ...]
    occupancy: Tensor
    grid: tuple[int, int]
    factor: int

    @property
    def n_objects(self) -> int:
        """Number of objects B."""
        return len(self.view_start)


def build_ray_bank(
    objects: Sequence[TrainingViews], factor: int, geometry: Geometry, dilate: int, device: torch.device
) -> RayBank:
    """Make the rays of objects, clipped to what their training alphas leave.

    Args:
        objects: Training views per object.
        factor: f, image pixels per latent pixel.
        geometry: Plane box and sampling.
        dilate: Growth of the silhouettes, latent pixels.
        device: Where the tensors live.
    """
    parts = [_object_rays(views, factor, geometry, dilate, device) for views in objects]
    counts = torch.tensor([0] + [len(part["pixel"]) for part in parts])
    return RayBank(
        **{key: torch.cat([part[key] for part in parts]) for key in ("origins", "directions", "near", "far")},
        pixel=torch.cat([part["pixel"] for part in parts]),
        view=torch.cat([part["view"] for part in parts]),
        object_start=counts.cumsum(0),
        view_start=tuple(part["view_start"] for part in parts),
        occupancy=torch.stack([part["occupancy"] for part in parts]),
        grid=(objects[0].rgba.shape[1] // factor, objects[0].rgba.shape[2] // factor),
        factor=factor,
    )


def _object_rays(
    views: TrainingViews, factor: int, geometry: Geometry, dilate: int, device: torch.device
) -> dict[str, Tensor]:
    n_views, height, width = views.rgba.shape[:3]
    cam2world = torch.from_numpy(views.cam2world).to(device)
    intrinsics = torch.from_numpy(views.intrinsics).to(device)
    grid = (height // factor, width // factor)
    masks = torch.ones(n_views, *grid, dtype=torch.bool, device=device)
    if views.has_alpha:
        masks = latent_masks(torch.from_numpy(views.rgba[..., 3]).to(device).float() / 255.0, factor, dilate)
    occupancy = visual_hull(masks, cam2world, intrinsics, factor, geometry.box_half, geometry.clip_radius)
    origins, directions = view_rays(cam2world, intrinsics, height, width, factor, geometry.supersample)
    # Only latent pixels whose ray can meet the hull are marched through it: it lies within every mask, up
    # to the slack of one voxel, which is less than a latent pixel or two.
    near_mask = grow(masks, 2).flatten(1).reshape(-1).nonzero()[:, 0]
    n_pixels, n_sub = directions.shape[1:3]
    view = near_mask // n_pixels
    chosen = directions.reshape(-1, n_sub, 3)[near_mask]
    flat_directions = chosen.reshape(-1, 3)
    flat_origins = origins[view].repeat_interleave(n_sub, dim=0)
    span = ray_span(
        flat_origins, flat_directions, geometry.box_half, geometry.near, geometry.far, geometry.clip_radius
    )
    near, far = occupied_span(occupancy, flat_origins, flat_directions, *span, geometry.box_half)
    near, far = near.view(-1, n_sub), far.view(-1, n_sub)
    hit = (far > near).any(dim=1).nonzero()[:, 0]
    view = view[hit]
    view_start = torch.zeros(n_views + 1, dtype=torch.long)
    view_start[1:] = torch.bincount(view.cpu(), minlength=n_views).cumsum(0)
    return {
        "origins": origins[view],
        "directions": chosen[hit],
        "near": near[hit],
        "far": far[hit],
        "pixel": near_mask[hit] % n_pixels,
        "view": view,
        "view_start": view_start,
        "occupancy": occupancy,
    }


@dataclass(frozen=True)
class RayBatch:
    """Latent pixels of one step.

    Attributes:
        index: [P] into the bank.
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
        index.append(torch.randint(start, max(end, start + 1), (n_pixels,), generator=generator))
        jitter.append(torch.rand(n_pixels * n_sub, n_samples, generator=generator))
    device = bank.near.device
    slot = torch.arange(len(objects), device=device).repeat_interleave(n_pixels)
    return RayBatch(torch.cat(index).to(device), slot, torch.cat(jitter).to(device))


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
            pixel = bank.pixel[part.to(bank.pixel.device)].cpu()
            row, col = pixel // bank.grid[1], pixel % bank.grid[1]
            top = _window_start(row, height, bank.grid[0], generator)
            left = _window_start(col, width, bank.grid[1], generator)
            inside = (row >= top) & (row < top + height) & (col >= left) & (col < left + width)
            cell.append(((row - top) * width + col - left)[inside] + len(windows) * height * width)
            index.append(part[inside])
            slot.append(torch.full_like(index[-1], s))
            jitter.append(torch.rand(len(index[-1]) * n_sub, n_samples, generator=generator))
            windows.append((s, view, top, left))
    device = bank.near.device
    rays = RayBatch(*(torch.cat(parts).to(device) for parts in (index, slot, jitter)))
    return ViewBatch(rays, torch.cat(cell).to(device), tuple(windows), height, width, bank.factor)


def _window_start(inside: Tensor, size: int, side: int, generator: torch.Generator) -> int:
    """First row (or column) of a window that covers the object, or lies within it where that is larger."""
    if size >= side:
        return 0
    first, end = (int(inside.min()), int(inside.max()) + 1) if len(inside) else (0, side)
    low, high = sorted((first, end - size))
    low, high = max(0, min(low, side - size)), min(max(high, 0), side - size)
    return int(torch.randint(low, high + 1, (), generator=generator))


def cycle(n: int, count: int, position: int, *labels: object) -> list[int]:
    """Items ``position .. position + count`` of an endless sequence of seeded permutations of range(n)."""
    items: list[int] = []
    epoch, offset = divmod(position, n)
    while len(items) < count:
        order = torch.randperm(n, generator=seeded_generator("cycle", epoch, *labels)).tolist()
        items.extend(order[offset : offset + count - len(items)])
        epoch, offset = epoch + 1, 0
    return items
