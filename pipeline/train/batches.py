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

from pipeline.model.occupancy import GRID, grow, is_occupied, latent_masks, occupied_span, visual_hull
from pipeline.model.rays import ray_span, view_rays
from pipeline.model.renderer import Geometry
from pipeline.train.scratch_arrays import ScratchArrays

_RAYS_AT_A_TIME = 1 << 14
"""Rays of an object that are marched through its hull at a time: 50 MB instead of some hundreds."""


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

    28 bytes per latent pixel with one sub-ray, and 256 KiB per object for its hull. The tensors of pixels and
    hulls lie on `device`, or in the host's memory or a scratch file where that was asked for.

    Attributes:
        centres: [V in all] camera centres of the training views, 3 numbers each, object by object.
        directions: [P, Q, 3] unit directions, Q = supersample².
        near: [P, Q] first distance, world units.
        far: [P, Q] last distance; far <= near for a sub-ray that misses.
        pixel: [P] int32, index into the view's h·w latent pixels.
        view: [P] int32, index into the object's training views.
        object_start: [B + 1] first latent pixel of each object.
        view_start: per object, [V + 1] first latent pixel of each view, counted from the object's first.
        first_view: [B] row of each object's first view in `centres`.
        occupancy: [B, G, G, G] what may hold something.
        box_half: Half side of the hulls' box, world units.
        grid: Height and width of the views, latent pixels.
        factor: f, image pixels per latent pixel.
        device: Where rays are wanted.
    """

    centres: Tensor
    directions: Tensor
    near: Tensor
    far: Tensor
    pixel: Tensor
    view: Tensor
    object_start: Tensor
    view_start: tuple[Tensor, ...]
    first_view: Tensor
    occupancy: Tensor
    box_half: float
    grid: tuple[int, int]
    factor: int
    device: torch.device

    @property
    def n_objects(self) -> int:
        """Number of objects B."""
        return len(self.view_start)

    def view_rows(self, index: Tensor, objects: Tensor) -> Tensor:
        """Rows of latent pixels' views in the stack of all objects' views.

        Args:
            index: [P] latent pixels.
            objects: [P] object of each.
        """
        return self.first_view[objects.to(self.first_view.device)] + self.view[index]

    def rays(self, index: Tensor, objects: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Origins [P, 3], directions [P, Q, 3], near and far [P, Q] of latent pixels, on `device`.

        Args:
            index: [P] latent pixels.
            objects: [P] object of each.
        """
        origins = self.centres[self.view_rows(index, objects)]
        found = (origins, self.directions[index], self.near[index], self.far[index])
        return tuple(part.to(self.device) for part in found)  # type: ignore[return-value]  # four tensors

    def is_occupied(self, points: Tensor, objects: Tensor) -> Tensor:
        """Whether points [n, 3] may hold something of objects [n]."""
        place = self.occupancy.device
        return is_occupied(self.occupancy, points.to(place), self.box_half, objects.to(place)).to(self.device)


def build_ray_bank(
    objects: Sequence[TrainingViews],
    factor: int,
    geometry: Geometry,
    dilate: int,
    device: torch.device,
    arrays: ScratchArrays | None = None,
) -> RayBank:
    """Make the rays of objects, clipped to what their training alphas leave.

    Args:
        objects: Training views per object.
        factor: f, image pixels per latent pixel.
        geometry: Plane box and sampling.
        dilate: Growth of the silhouettes, latent pixels.
        device: Where rays are wanted, and computed.
        arrays: Where the bank is kept; None for memory.
    """
    grid = (objects[0].rgba.shape[1] // factor, objects[0].rgba.shape[2] // factor)
    counts = [len(views.rgba) for views in objects]
    tables = _BankTables(sum(counts) * grid[0] * grid[1], len(objects), geometry, arrays or ScratchArrays())
    view_start = []
    for views in objects:
        part = _object_rays(views, factor, geometry, dilate, device)
        view_start.append(part.pop("view_start"))
        tables.add(part)
    centres = np.concatenate([views.cam2world[:, :3, 3] for views in objects])
    return RayBank(
        **tables.tensors(device),
        centres=tables.placed(torch.from_numpy(np.ascontiguousarray(centres)), device),
        object_start=torch.tensor(tables.starts),
        view_start=tuple(view_start),
        first_view=tables.placed(torch.tensor([0, *counts[:-1]]).cumsum(0), device),
        box_half=geometry.box_half,
        grid=grid,
        factor=factor,
        device=device,
    )


class _BankTables:
    """The large arrays of a bank while it is built, one object after the other."""

    def __init__(self, most_pixels: int, n_objects: int, geometry: Geometry, arrays: ScratchArrays) -> None:
        n_sub = geometry.supersample**2
        shapes: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
            "directions": ((most_pixels, n_sub, 3), np.float32),
            "near": ((most_pixels, n_sub), np.float32),
            "far": ((most_pixels, n_sub), np.float32),
            "pixel": ((most_pixels,), np.int32),
            "view": ((most_pixels,), np.int32),
            "occupancy": ((n_objects, GRID, GRID, GRID), np.bool_),
        }
        made = {name: arrays.empty(f"rays ({name})", *shape) for name, shape in shapes.items()}
        self._tables = {name: array for name, (array, _) in made.items()}
        self._in_files = any(in_file for _, in_file in made.values())
        self.starts = [0]

    def add(self, part: dict[str, Tensor]) -> None:
        """Append the next object."""
        start, end = self.starts[-1], self.starts[-1] + len(part["pixel"])
        self._tables["occupancy"][len(self.starts) - 1] = part.pop("occupancy").cpu().numpy()
        for name, values in part.items():
            self._tables[name][start:end] = values.cpu().numpy()
        self.starts.append(end)

    def tensors(self, device: torch.device) -> dict[str, Tensor]:
        """What was added, where it belongs."""
        end = self.starts[-1]
        return {
            name: self.placed(torch.from_numpy(table if name == "occupancy" else table[:end]), device)
            for name, table in self._tables.items()
        }

    def placed(self, tensor: Tensor, device: torch.device) -> Tensor:
        """Move a tensor to the device unless the bank is too large for memory."""
        return tensor if self._in_files else tensor.to(device)


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
    parts = [
        _hull_span(occupancy, some_origins, some_directions, geometry)
        for some_origins, some_directions in zip(
            torch.split(flat_origins, _RAYS_AT_A_TIME),
            torch.split(flat_directions, _RAYS_AT_A_TIME),
            strict=True,
        )
    ]
    near, far = (torch.cat(ends).view(-1, n_sub) for ends in zip(*parts, strict=True))
    hit = (far > near).any(dim=1).nonzero()[:, 0]
    view = view[hit]
    view_start = torch.zeros(n_views + 1, dtype=torch.long)
    view_start[1:] = torch.bincount(view.cpu(), minlength=n_views).cumsum(0)
    return {
        "directions": chosen[hit],
        "near": near[hit],
        "far": far[hit],
        "pixel": near_mask[hit] % n_pixels,
        "view": view,
        "view_start": view_start,
        "occupancy": occupancy,
    }


def _hull_span(
    occupancy: Tensor, origins: Tensor, directions: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """First and last distance of rays within an object's hull."""
    span = ray_span(origins, directions, geometry.box_half, geometry.near, geometry.far, geometry.clip_radius)
    return occupied_span(occupancy, origins, directions, *span, geometry.box_half)


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
        index.append(torch.randint(start, max(end, start + 1), (n_pixels,), generator=generator))
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
            pixel = bank.pixel[part.to(bank.pixel.device)].cpu().long()
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


def cycle(n: int, count: int, position: int, *labels: object) -> list[int]:
    """Items ``position .. position + count`` of an endless sequence of seeded permutations of range(n)."""
    items: list[int] = []
    epoch, offset = divmod(position, n)
    while len(items) < count:
        order = torch.randperm(n, generator=seeded_generator("cycle", epoch, *labels)).tolist()
        items.extend(order[offset : offset + count - len(items)])
        epoch, offset = epoch + 1, 0
    return items
