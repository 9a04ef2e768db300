"""What is known about where an object is: a visual hull from the alpha of its training views.

Conventions: a grid ``[G, G, G]`` of bool over [-box_half, box_half]³, indexed x, y, z. True means "may hold
something". Without alpha the hull is the clip sphere. Only training views may be given.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.model.shapes import Bool, Float

GRID = 64


def latent_masks(alpha: Float[Tensor, "v hh ww"], factor: int, dilate: int) -> Bool[Tensor, "v h w"]:
    """Latent pixels that any part of the object touches.

    Args:
        alpha: Full-size alpha in [0, 1].
        factor: f, image pixels per latent pixel.
        dilate: Latent pixels to grow the mask by: the encoder spreads a silhouette over its neighbours.
    """
    return grow(functional.max_pool2d(alpha[:, None], factor)[:, 0] > 0, dilate)


def grow(masks: Bool[Tensor, "v h w"], by: int) -> Bool[Tensor, "v h w"]:
    """Grow masks by so many pixels in every direction, diagonals included."""
    if not by:
        return masks
    return functional.max_pool2d(masks[:, None].float(), 2 * by + 1, stride=1, padding=by)[:, 0] > 0


def visual_hull(
    masks: Bool[Tensor, "v h w"],
    cam2world: Float[Tensor, "v 4 4"],
    intrinsics: Float[Tensor, "v 3 3"],
    factor: int,
    box_half: float,
    radius: float | None,
    grid: int = GRID,
) -> Bool[Tensor, "g g g"]:
    """Carve a grid by masks: a voxel stays when its centre projects into every mask (or out of the image)."""
    points = grid_points(grid, box_half, cam2world)
    left = torch.arange(len(points), device=points.device)
    if radius is not None:
        left = left[points.norm(dim=1) <= radius]
    world2cam = torch.linalg.inv(cam2world)
    for mask, transform, matrix in zip(masks, world2cam, intrinsics, strict=True):
        left = left[_may_hold(points[left], mask, matrix @ transform[:3], factor)]
    occupied = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    occupied[left] = True
    hull = occupied.view(grid, grid, grid)
    # Half a voxel of slack on each side: centres alone lose what is thinner than a voxel.
    return functional.max_pool3d(hull[None].float(), 3, stride=1, padding=1)[0] > 0


def _may_hold(
    points: Float[Tensor, "n 3"], mask: Bool[Tensor, "h w"], projection: Float[Tensor, "3 4"], factor: int
) -> Bool[Tensor, " n"]:
    """Whether points project into a mask, out of the image, or lie behind the camera."""
    height, width = mask.shape
    u, v, depth = projection[:, :3] @ points.T + projection[:, 3:]
    scale = 1.0 / (depth.clamp(min=1e-6) * factor)
    col, row = (u * scale).floor().long(), (v * scale).floor().long()
    inside = (col >= 0) & (col < width) & (row >= 0) & (row < height) & (depth > 0)
    seen: Tensor = mask[row.clamp(0, height - 1), col.clamp(0, width - 1)] | ~inside
    return seen


def grid_points(grid: int, box_half: float, like: Tensor) -> Float[Tensor, "n 3"]:
    """Voxel centres in x, y, z order, world units."""
    axis = (torch.arange(grid, device=like.device, dtype=like.dtype) + 0.5) * (2 * box_half / grid) - box_half
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


def is_occupied(
    occupancy: Bool[Tensor, "*b g g g"],
    points: Float[Tensor, "n 3"],
    box_half: float,
    index: Tensor | None = None,
) -> Bool[Tensor, " n"]:
    """Look points up in one grid, or in the grid ``index`` of a stack; outside the box is empty."""
    G = occupancy.shape[-1]
    cell = ((points + box_half) * (G / (2 * box_half))).floor().long()
    inside = ((cell >= 0) & (cell < G)).all(dim=-1)
    cell = cell.clamp(0, G - 1)
    flat = (cell[..., 0] * G + cell[..., 1]) * G + cell[..., 2]
    if index is not None:
        flat = flat + index * G**3
    return occupancy.reshape(-1)[flat] & inside


def occupied_span(
    occupancy: Bool[Tensor, "g g g"],
    origins: Float[Tensor, "r 3"],
    directions: Float[Tensor, "r 3"],
    near: Float[Tensor, " r"],
    far: Float[Tensor, " r"],
    box_half: float,
    steps: int = 48,
) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"]]:
    """Shrink ray spans to their first and last occupied of ``steps`` parts; a miss has far <= near."""
    edges = torch.arange(steps, device=near.device, dtype=near.dtype)
    length = (far - near).clamp(min=0.0) / steps
    depths = near[:, None] + length[:, None] * (edges + 0.5)
    points = origins[:, None] + directions[:, None] * depths[..., None]
    hit = is_occupied(occupancy, points.reshape(-1, 3), box_half).view(depths.shape) & (far > near)[:, None]
    first = hit.float().argmax(dim=1)
    last = steps - 1 - hit.flip(1).float().argmax(dim=1)
    found = hit.any(dim=1)
    start = near + length * first
    end = torch.where(found, near + length * (last + 1), start)
    return start, end
