"""The losses of METHOD section 3, and one step's rendering of training rays.

Latents are compared in [-1, 1] as in the paper, although they are kept in [0, 1]: hence the factor 4 on
squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.model.compositing import stratified_depths
from pipeline.model.geometry import Geometry
from pipeline.model.renderer import PlaneTable, Renderer, render_rays, render_rays_twice
from pipeline.model.shapes import Bool, Float, Int
from pipeline.train.batches import RayBatch, ViewBatch
from pipeline.train.ray_bank import RayBank

_COARSE_STEPS = 16


@dataclass(frozen=True)
class Rendered:
    """What one step renders.

    Attributes:
        value: [P, C] premultiplied values of the latent pixels, sub-rays averaged.
        opacity: [P] their opacities.
        free: [B] mean opacity of each object at random points that are known to be empty.
    """

    value: Float[Tensor, "p c"]
    opacity: Float[Tensor, " p"]
    free: Float[Tensor, " b"]


def render_pixels(
    renderer: Renderer,
    table: PlaneTable,
    bank: RayBank,
    batch: RayBatch,
    objects: Int[Tensor, " b"],
    random: Float[Tensor, "b n 3"],
    geometry: Geometry,
    n_fine: int = 0,
) -> Rendered:
    """Render the latent pixels of a batch, and the density at random points of free space with them.

    Rendering a stored fit knows no visual hull, so space that training rays skip has to be learned as empty.

    Args:
        renderer: The MLP.
        table: Planes of the step's objects.
        bank: Rays and hulls.
        batch: Latent pixels of the step.
        objects: Indices of the step's objects in the bank.
        random: Uniform in [0, 1); n may be 0.
        geometry: Plane box and sampling.
        n_fine: How many of the batch's samples per ray are importance samples; the others are stratified.
    """
    n_sub, n_coarse = bank.near.shape[1], batch.jitter.shape[1] - n_fine
    origins, directions, near, far = bank.rays(batch.index, objects[batch.slot])
    depths = stratified_depths(near.reshape(-1), far.reshape(-1), n_coarse, batch.jitter[:, :n_coarse])
    slot, origins = batch.slot.repeat_interleave(n_sub), origins.repeat_interleave(n_sub, dim=0)
    rays = (slot, origins, directions.reshape(-1, 3))
    if n_fine:
        jitter, scale = batch.jitter[:, n_coarse:], geometry.sigma_scale
        value, opacity = render_rays_twice(renderer, table, *rays, depths, n_fine, jitter, scale)
    else:
        value, opacity, _ = render_rays(renderer, table, *rays, depths, geometry.sigma_scale)
    n_pixels = len(batch.index)
    return Rendered(
        value.view(n_pixels, n_sub, renderer.n_channels).mean(1),
        opacity.view(n_pixels, n_sub).mean(1),
        free_opacity(renderer, table, bank, objects, random, geometry),
    )


def free_opacity(
    renderer: Renderer,
    table: PlaneTable,
    bank: RayBank,
    objects: Int[Tensor, " b"],
    random: Float[Tensor, "b n 3"],
    geometry: Geometry,
) -> Float[Tensor, " b"]:
    """Mean opacity of each object at random points of free space; arguments as of `render_pixels`."""
    n_objects, n_points = random.shape[:2]
    if n_points == 0:
        return random.new_zeros(n_objects)
    points = ((2.0 * random - 1.0) * geometry.box_half).reshape(-1, 3)
    slot = torch.arange(n_objects, device=objects.device).repeat_interleave(n_points)
    raw, _ = renderer.decode(table, points, slot)
    is_free = ~bank.is_occupied(points, objects[slot])
    return free_space(raw, is_free, geometry).view(n_objects, n_points).mean(1)


def free_space(
    raw: Float[Tensor, " n"], is_free: Bool[Tensor, " n"], geometry: Geometry
) -> Float[Tensor, " n"]:
    """Opacity of points that are known to be empty, over one step of a coarse march; zero at other points."""
    step_world = 2.0 * geometry.box_half / _COARSE_STEPS
    sigma = geometry.sigma_scale * functional.softplus(raw - 1.0)
    return -torch.expm1(-sigma * step_world) * is_free


def paste_pixels(
    value: Float[Tensor, "p c"],
    opacity: Float[Tensor, " p"],
    batch: ViewBatch,
    background: Float[Tensor, "n c h w"],
) -> Float[Tensor, "n c h w"]:
    """Put rendered pixels over the background latents of their windows.

    Args:
        value: Premultiplied.
        opacity: In [0, 1].
        batch: Windows.
        background: Background latent of each window.

    Returns:
        Latents of the windows; where no ray of the batch goes they are the background latent exactly.
    """
    flat = background.permute(0, 2, 3, 1).reshape(-1, background.shape[1])
    pixels = value + (1.0 - opacity[:, None]) * flat[batch.cell]
    images = flat.index_copy(0, batch.cell, pixels)
    return images.view(len(background), batch.height, batch.width, -1).permute(0, 3, 1, 2)


def total_variation(planes: Float[Tensor, "b 3 f k k"]) -> Float[Tensor, ""]:
    """Squared differences of neighbouring texels of planes, rows and columns.

    Averaged over objects too: the released code sums over the batch, so that its strength depends on the
    batch's size (METHOD section 3).
    """
    return planes.diff(dim=-1).square().mean() + planes.diff(dim=-2).square().mean()


def latent_error(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Squared error of normalised latents in [-1, 1] units, not reduced."""
    return 4.0 * (a - b).square()
