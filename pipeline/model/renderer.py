"""The renderer: planes + rays → latents (or RGB). A small MLP, and volume rendering around it.

Conventions: rendered values are normalised latents in [0, 1] like those of the autoencoder. A rendered pixel
is (premultiplied value, opacity); the caller puts the background latent behind it. No view dependence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.model.compositing import (
    add_up,
    composite,
    importance_depths,
    inverse,
    merge_depths,
    midpoint_weights,
    reorder,
    sample_weights,
    stratified_depths,
)
from pipeline.model.geometry import Axes, Geometry
from pipeline.model.kernel_choice import Kernel, takes_fused
from pipeline.model.mlp import mlp
from pipeline.model.planes import plane_table, sample_table
from pipeline.model.rays import ray_span, view_rays
from pipeline.model.shapes import Float, Int

# Slightly more than the sigmoid's range, so that 0 and 1 are reached at finite inputs (paper's code, after
# Mip-NeRF).
_COLOUR_RANGE = 1.002
_RAYS_PER_CHUNK = 8192


class Renderer(nn.Module):
    """Linear(F, width) → Softplus → Linear(width, 1 + C): features to raw density and colour.

    Attributes:
        kernel: What computes it, see `pipeline.model.kernel_choice`. Not a parameter, and not stored.
    """

    def __init__(self, n_features: int, n_channels: int, width: int = 64) -> None:
        super().__init__()
        self.kernel: Kernel = "torch"
        self.n_features, self.n_channels, self.width = n_features, n_channels, width
        self.hidden = nn.Linear(n_features, width)
        self.out = nn.Linear(width, 1 + n_channels)

    def forward(self, features: Float[Tensor, "n f"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n c"]]:
        """Decode features to raw density (unbounded) and colour in [0, 1]."""
        return self._activate(mlp(features, *self._params()))

    def decode(
        self, table: PlaneTable, points: Float[Tensor, "n 3"], object_index: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n c"]]:
        """Raw density and colour at points, each in the planes of its object. No gradient for the points."""
        place = (table.resolution, table.box_half, table.axes)
        params = self._params()
        if not takes_fused(self.kernel, table.rows, params):
            found: tuple[Tensor, Tensor] = self(sample_table(table.rows, points, object_index, *place))
            return found
        from pipeline.model.fused_kernel import fused_decode

        return self._activate(fused_decode(table.rows, points, object_index, params, *place))

    def _params(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.hidden.weight, self.hidden.bias, self.out.weight, self.out.bias

    def _activate(self, out: Tensor) -> tuple[Tensor, Tensor]:
        raw, logits = torch.split(out, [1, self.n_channels])
        colour = torch.sigmoid(logits) * _COLOUR_RANGE - 0.5 * (_COLOUR_RANGE - 1.0)
        return raw[0], colour.T


@dataclass(frozen=True)
class PlaneTable:
    """Planes of B objects as one lookup table.

    Attributes:
        rows: `plane_table` of the objects' fused planes.
        resolution: K.
        box_half: Half side of the planes' box, world units.
        axes: Plane axes.
    """

    rows: Tensor
    resolution: int
    box_half: float
    axes: Axes

    @staticmethod
    def of(planes: Float[Tensor, "b 3 f k k"], geometry: Geometry) -> PlaneTable:
        """Build the table of fused planes."""
        return PlaneTable(plane_table(planes), planes.shape[-1], geometry.box_half, geometry.axes)


def render_rays(
    renderer: Renderer,
    table: PlaneTable,
    object_index: Int[Tensor, " r"],
    origins: Float[Tensor, "r 3"],
    directions: Float[Tensor, "r 3"],
    depths: Float[Tensor, "r s"],
    sigma_scale: float = 1.0,
) -> tuple[Float[Tensor, "r c"], Float[Tensor, " r"], Float[Tensor, "r s-1"]]:
    """Render rays at given sample distances.

    Args:
        renderer: The MLP.
        table: Planes of the objects.
        object_index: Which object each ray looks at.
        origins: Ray origins.
        directions: Unit directions.
        depths: Sample distances, increasing along each ray.
        sigma_scale: Factor on the density.

    Returns:
        Premultiplied value, opacity and compositing weights.
    """
    n_rays, n_samples = depths.shape
    points = ray_points(origins, directions, depths)
    raw, colour = renderer.decode(table, points, object_index.repeat_interleave(n_samples))
    weights = midpoint_weights(raw.view(n_rays, n_samples), depths, sigma_scale)
    value, opacity = composite(weights, colour.view(n_rays, n_samples, renderer.n_channels))
    return value, opacity, weights


def render_rays_twice(
    renderer: Renderer,
    table: PlaneTable,
    object_index: Int[Tensor, " r"],
    origins: Float[Tensor, "r 3"],
    directions: Float[Tensor, "r 3"],
    depths: Float[Tensor, "r s"],
    n_fine: int,
    jitter: Float[Tensor, "r n"] | None = None,
    sigma_scale: float = 1.0,
) -> tuple[Float[Tensor, "r c"], Float[Tensor, " r"]]:
    """Render rays at given samples and at importance samples drawn from their weights, all in one sum.

    What was decoded for the weights is used again: each sample is decoded once. No gradient flows through the
    places of the importance samples.

    Args:
        renderer: The MLP.
        table: Planes of the objects.
        object_index: Which object each ray looks at.
        origins: Ray origins.
        directions: Unit directions.
        depths: Distances of the first pass's samples, increasing along each ray.
        n_fine: Importance samples per ray.
        jitter: Of the importance samples, see `importance_depths`.
        sigma_scale: Factor on the density.

    Returns:
        Premultiplied value and opacity.
    """

    def decode(at: Tensor) -> tuple[Tensor, Tensor]:
        points = ray_points(origins, directions, at)
        raw, colour = renderer.decode(table, points, object_index.repeat_interleave(at.shape[1]))
        return raw.view(at.shape), colour.view(*at.shape, renderer.n_channels)

    raw, colour = decode(depths)
    first = midpoint_weights(raw.detach(), depths, sigma_scale)
    fine = importance_depths(first, depths, n_fine, jitter)
    fine_raw, fine_colour = decode(fine)
    merged, order = merge_depths(depths, fine)
    back = inverse(order)
    weights = midpoint_weights(reorder(torch.cat([raw, fine_raw], dim=1), order, back), merged, sigma_scale)
    # Weights go back to the order of the passes instead of four channels of colour into the order of depth.
    own = reorder(sample_weights(weights), back, order)
    n = depths.shape[1]
    return add_up(own[:, :n], colour) + add_up(own[:, n:], fine_colour), weights.sum(dim=1)


def ray_points(
    origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"], depths: Float[Tensor, "r s"]
) -> Float[Tensor, "rs 3"]:
    """Sample points along rays, ray by ray. In memory coordinate-major, as `plane_cells` likes them."""
    return (origins.T[..., None] + directions.T[..., None] * depths).flatten(1).T


@torch.no_grad()
def render_views(
    renderer: Renderer,
    planes: Float[Tensor, "3 f k k"],
    cam2world: Float[Tensor, "v 4 4"],
    intrinsics: Float[Tensor, "v 3 3"],
    size_px: tuple[int, int],
    factor: int,
    geometry: Geometry,
    background: Float[Tensor, "c h w"],
) -> Float[Tensor, "v c h w"]:
    """Render whole views of one object from its planes alone: no jitter, two passes, no gradient.

    Args:
        renderer: The MLP.
        planes: Fused planes of the object.
        cam2world: Cameras.
        intrinsics: Camera matrices of the full-size image, pixels.
        size_px: Full-size image height and width.
        factor: f, image pixels per latent pixel.
        geometry: Plane box and sampling.
        background: Background latent.

    Returns:
        Normalised latents in [0, 1].
    """
    table = PlaneTable.of(planes[None], geometry)
    n_sub = geometry.supersample**2
    origins, directions = view_rays(cam2world, intrinsics, *size_px, factor, geometry.supersample)
    n_views, n_pixels = directions.shape[:2]
    origins = origins[:, None, None].expand_as(directions).reshape(-1, 3)
    values, opacities = _render_flat(renderer, table, origins, directions.reshape(-1, 3), geometry)
    value = values.view(n_views, n_pixels, n_sub, -1).mean(2)
    opacity = opacities.view(n_views, n_pixels, n_sub).mean(2)
    flat = background.flatten(1).T
    latents = value + (1.0 - opacity[..., None]) * flat
    return latents.transpose(1, 2).reshape(n_views, *background.shape)


def _render_flat(
    renderer: Renderer, table: PlaneTable, origins: Tensor, directions: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """Coarse and fine pass over rays of one object, in chunks; rays that miss cost nothing."""
    near, far = ray_span(
        origins, directions, geometry.box_half, geometry.near, geometry.far, geometry.clip_radius
    )
    hit = (far > near).nonzero()[:, 0]
    value = origins.new_zeros(len(origins), renderer.n_channels)
    opacity = origins.new_zeros(len(origins))
    for part in torch.split(hit, _RAYS_PER_CHUNK):
        zero = torch.zeros_like(part)
        rays = (zero, origins[part], directions[part])
        depths = stratified_depths(near[part], far[part], geometry.n_coarse)
        if geometry.n_fine:
            n_fine, scale = geometry.n_fine, geometry.sigma_scale
            found = render_rays_twice(renderer, table, *rays, depths, n_fine, sigma_scale=scale)
            value[part], opacity[part] = found
        else:
            value[part], opacity[part], _ = render_rays(renderer, table, *rays, depths, geometry.sigma_scale)
    return value, opacity
