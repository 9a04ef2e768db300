"""Rays: one or more per latent pixel, and the part of a ray that can meet the object.

Conventions: OpenCV camera axes, pixel centres at +0.5, row 0 on top, *unit* directions in world axes,
distances along the ray in world units.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.model.shapes import Float


def view_rays(
    cam2world: Float[Tensor, "v 4 4"],
    intrinsics: Float[Tensor, "v 3 3"],
    height: int,
    width: int,
    downsample: int = 1,
    supersample: int = 1,
) -> tuple[Float[Tensor, "v 3"], Float[Tensor, "v p q 3"]]:
    """Make the rays of views at latent resolution.

    Args:
        cam2world: Camera poses.
        intrinsics: Camera matrices of the full-size image, pixels.
        height: Image height, pixels.
        width: Image width, pixels.
        downsample: f, pixels per latent pixel along a side. The ray of a latent pixel goes through the centre
        of its
            f×f block.
        supersample: s; s×s rays per latent pixel, each through the centre of its part of the block.

    Returns:
        Origins per view, and unit directions [V, (H/f)·(W/f), s·s, 3], pixels in row-major order.
    """
    step = downsample / supersample
    rows = (torch.arange(height // downsample * supersample, device=cam2world.device) + 0.5) * step
    cols = (torch.arange(width // downsample * supersample, device=cam2world.device) + 0.5) * step
    v, u = torch.meshgrid(rows.to(cam2world), cols.to(cam2world), indexing="ij")
    uv1 = torch.stack([u, v, torch.ones_like(u)], dim=-1)
    h, w = height // downsample, width // downsample
    uv1 = uv1.view(h, supersample, w, supersample, 3).transpose(1, 2).reshape(-1, 3)
    to_world = cam2world[:, :3, :3] @ torch.linalg.inv(intrinsics.to(cam2world))
    directions = torch.einsum("vij,pj->vpi", to_world, uv1)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    return cam2world[:, :3, 3], directions.view(len(cam2world), -1, supersample * supersample, 3)


def box_span(
    origins: Float[Tensor, "*r 3"], directions: Float[Tensor, "*r 3"], box_half: float
) -> tuple[Float[Tensor, "*r"], Float[Tensor, "*r"]]:
    """Clip rays to the axis-aligned box [-box_half, box_half]³; a miss has far <= near."""
    safe = torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
    a = (-box_half - origins) / safe
    b = (box_half - origins) / safe
    near = torch.minimum(a, b).amax(dim=-1).clamp(min=0.0)
    far = torch.maximum(a, b).amin(dim=-1)
    return near, far


def sphere_span(
    origins: Float[Tensor, "*r 3"], directions: Float[Tensor, "*r 3"], radius: float
) -> tuple[Float[Tensor, "*r"], Float[Tensor, "*r"]]:
    """Clip rays to a sphere around the world origin; a miss has near == far."""
    middle = -(origins * directions).sum(dim=-1)
    closest = (origins + middle[..., None] * directions).square().sum(dim=-1)
    half = (radius * radius - closest).clamp(min=0.0).sqrt()
    return (middle - half).clamp(min=0.0), middle + half


def ray_span(
    origins: Float[Tensor, "*r 3"],
    directions: Float[Tensor, "*r 3"],
    box_half: float,
    near: float,
    far: float,
    radius: float | None = None,
) -> tuple[Float[Tensor, "*r"], Float[Tensor, "*r"]]:
    """Distances between which a ray can meet the object: range, box and sphere; a miss has far <= near."""
    start, end = box_span(origins, directions, box_half)
    if radius is not None:
        sphere_start, sphere_end = sphere_span(origins, directions, radius)
        start, end = torch.maximum(start, sphere_start), torch.minimum(end, sphere_end)
    return start.clamp(min=near), end.clamp(max=far)
