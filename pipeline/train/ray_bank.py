"""The rays of all training views, clipped to what may hold something: made once, drawn from in every step.

An object may have no ray at all: its silhouettes have no point of the box in common, because cameras do not
fit the images, or because it is thinner than a voxel. Nothing could be drawn for it, so it is refused by name
(`build_ray_bank`) or left out (`build_usable_ray_bank`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.model.geometry import Geometry
from pipeline.model.occupancy import GRID, grow, is_occupied, latent_masks, occupied_span, visual_hull
from pipeline.model.rays import ray_span, view_rays
from pipeline.train.scratch_arrays import ScratchArrays
from pipeline.train.training_views import TrainingViews
from storage.errors import FpipeError

_RAYS_AT_A_TIME = 1 << 14
"""Rays of an object that are marched through its hull at a time: 50 MB instead of some hundreds."""


class EmptyHullError(FpipeError, ValueError):
    """No ray of an object's training views meets its visual hull, so that there is nothing to learn from.

    Attributes:
        object_ids: All such objects of the call.
    """

    def __init__(self, object_ids: Sequence[str]) -> None:
        super().__init__(
            f"no training ray meets the visual hull of {', '.join(object_ids)}: the silhouettes have no "
            "point of the box in common. Check the views' cameras (cam2world in OpenCV axes, intrinsics "
            "in pixels) and geometry.box_half, near and far; raise dilate where the object is thinner than a "
            "latent pixel"
        )
        self.object_ids = tuple(object_ids)


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

    @functools.cached_property
    def pixel_on_host(self) -> Tensor:
        """`pixel` where windows of views are chosen: fetched from the device once, not for every view."""
        return self.pixel.cpu()

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

    Raises:
        EmptyHullError: Objects have no ray; names all of them.
    """
    bank, usable = build_usable_ray_bank(objects, factor, geometry, dilate, device, arrays)
    if len(usable) < len(objects):
        raise EmptyHullError([objects[i].object_id for i in range(len(objects)) if i not in usable])
    return bank


def build_usable_ray_bank(
    objects: Sequence[TrainingViews],
    factor: int,
    geometry: Geometry,
    dilate: int,
    device: torch.device,
    arrays: ScratchArrays | None = None,
) -> tuple[RayBank, list[int]]:
    """Make the rays of those objects that have any; arguments as of `build_ray_bank`.

    Returns:
        The bank, and which of the objects are in it, ascending; the others' hulls are empty.
    """
    grid = (objects[0].rgba.shape[1] // factor, objects[0].rgba.shape[2] // factor)
    most_pixels = sum(len(views.rgba) for views in objects) * grid[0] * grid[1]
    tables = _BankTables(most_pixels, len(objects), geometry, arrays or ScratchArrays())
    view_start, usable = [], []
    for i, views in enumerate(objects):
        part = _object_rays(views, factor, geometry, dilate, device)
        if len(part["pixel"]):
            usable.append(i)
            view_start.append(part.pop("view_start"))
            tables.add(part)
    centres = [np.zeros((0, 3), np.float32), *(objects[i].cam2world[:, :3, 3] for i in usable)]
    first_view = np.cumsum([0, *(len(objects[i].rgba) for i in usable)])[:-1]
    bank = RayBank(
        **tables.tensors(device),
        centres=tables.placed(torch.from_numpy(np.concatenate(centres)), device),
        object_start=torch.tensor(tables.starts),
        view_start=tuple(view_start),
        first_view=tables.placed(torch.from_numpy(first_view), device),
        box_half=geometry.box_half,
        grid=grid,
        factor=factor,
        device=device,
    )
    return bank, usable


def bank_tables(
    n_pixels: int, n_objects: int, geometry: Geometry
) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
    """Shapes and types of a bank's large arrays, in the order in which they are made."""
    n_sub = geometry.supersample**2
    return {
        "directions": ((n_pixels, n_sub, 3), np.float32),
        "near": ((n_pixels, n_sub), np.float32),
        "far": ((n_pixels, n_sub), np.float32),
        "pixel": ((n_pixels,), np.int32),
        "view": ((n_pixels,), np.int32),
        "occupancy": ((n_objects, GRID, GRID, GRID), np.bool_),
    }


class _BankTables:
    """The large arrays of a bank while it is built, one object after the other."""

    def __init__(self, most_pixels: int, n_objects: int, geometry: Geometry, arrays: ScratchArrays) -> None:
        shapes = bank_tables(most_pixels, n_objects, geometry)
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
        ends = dict.fromkeys(self._tables, self.starts[-1]) | {"occupancy": len(self.starts) - 1}
        return {
            name: self.placed(torch.from_numpy(table[: ends[name]]), device)
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
