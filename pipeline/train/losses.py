"""The losses of METHOD section 3, and one step's rendering of training rays.

Latents are compared in [-1, 1] as in the paper, although they are kept in [0, 1]: hence the factor 4 on
squares.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.model.compositing import stratified_depths
from pipeline.model.occupancy import is_occupied
from pipeline.model.renderer import Geometry, PlaneTable, Renderer, free_space_penalty, render_rays
from pipeline.train.batches import RayBank, RayBatch, ViewBatch


def render_pixels(
    renderer: Renderer, table: PlaneTable, bank: RayBank, batch: RayBatch, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """Render the latent pixels of a batch, sub-rays averaged.

    Returns:
        Premultiplied values [P, C] and opacities [P].
    """
    n_sub = bank.near.shape[1]
    near, far = bank.near[batch.index].reshape(-1), bank.far[batch.index].reshape(-1)
    depths = stratified_depths(near, far, batch.jitter.shape[1], batch.jitter)
    origins = bank.origins[batch.index].repeat_interleave(n_sub, dim=0)
    directions = bank.directions[batch.index].reshape(-1, 3)
    slot = batch.slot.repeat_interleave(n_sub)
    value, opacity, _ = render_rays(renderer, table, slot, origins, directions, depths, geometry.sigma_scale)
    return value.view(len(batch.index), n_sub, -1).mean(1), opacity.view(-1, n_sub).mean(1)


def paste_pixels(value: Tensor, opacity: Tensor, batch: ViewBatch, background: Tensor) -> Tensor:
    """Put rendered pixels over the background latents of their windows.

    Args:
        value: [P, C] premultiplied.
        opacity: [P].
        batch: Windows.
        background: [n, C, h, w] background latent of each window.

    Returns:
        [n, C, h, w]; latent pixels that no ray of the batch meets are the background latent exactly.
    """
    flat = background.permute(0, 2, 3, 1).reshape(-1, background.shape[1])
    pixels = value + (1.0 - opacity[:, None]) * flat[batch.cell]
    images = flat.index_copy(0, batch.cell, pixels)
    return images.view(len(background), batch.height, batch.width, -1).permute(0, 3, 1, 2)


def latent_error(a: Tensor, b: Tensor) -> Tensor:
    """Squared error of normalised latents in [-1, 1] units, not reduced."""
    return 4.0 * (a - b).square()


def free_space(
    renderer: Renderer,
    table: PlaneTable,
    bank: RayBank,
    objects: Tensor,
    random: Tensor,
    geometry: Geometry,
) -> Tensor:
    """Mean opacity at random points outside the objects' visual hulls, per object [B].

    Rendering a stored fit knows no hull, so space that training rays skip has to be learned as empty.

    Args:
        renderer: The MLP.
        table: Planes of the step's objects.
        bank: Rays and hulls.
        objects: [B] indices of the step's objects in the bank.
        random: [B, n, 3] uniform in [0, 1).
        geometry: Plane box and sampling.
    """
    n_objects, n_points = random.shape[:2]
    half = geometry.box_half
    points = ((2.0 * random - 1.0) * half).reshape(-1, 3)
    slot = torch.arange(n_objects, device=points.device).repeat_interleave(n_points)
    free = ~is_occupied(bank.occupancy, points, half, objects.repeat_interleave(n_points))
    step_world = 2.0 * half / 16  # one step of a coarse march through the box
    penalty = free_space_penalty(renderer, table, slot, points, free, step_world, geometry.sigma_scale)
    return penalty.view(n_objects, n_points).mean(1)
