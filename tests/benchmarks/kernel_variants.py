"""What bench_kernels measures: ways to compute a fit step's features, and from them its pixels.

All take fused planes [B, 3, F, K, K] that need a gradient and a `Problem`, and have a frozen perceptron.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.model.compositing import composite, midpoint_weights, stratified_depths
from pipeline.model.geometry import Geometry
from pipeline.model.kernel_choice import Kernel
from pipeline.model.planes import plane_cells, plane_table, rows_per_object, sample_planes
from pipeline.model.renderer import PlaneTable, Renderer, ray_points, render_rays

BOX_HALF, SIGMA_SCALE, CHANNELS = 0.55, 10.0, 4
PLANES = ((0, 1), (0, 2), (1, 2))


@dataclass(frozen=True)
class Size:
    """Sizes of a step: B objects of as many rays each."""

    objects: int
    rays: int
    samples: int
    features: int
    width: int
    resolution: int = 64

    @property
    def points(self) -> int:
        """Samples of one object."""
        return self.rays * self.samples


class Problem:
    """Random planes, and rays through the middle of the box; the same rays for all objects, as of one rig."""

    def __init__(self, size: Size, device: torch.device) -> None:
        torch.manual_seed(0)
        B, F, K = size.objects, size.features, size.resolution
        self.size = size
        self.planes = (0.1 * torch.randn(B, 3, F, K, K)).to(device).requires_grad_()
        self.renderer = Renderer(F, CHANNELS, size.width).to(device).requires_grad_(False)
        origins = 1.3 * functional.normalize(torch.randn(size.rays, 3), dim=1)
        directions = functional.normalize(0.5 * torch.rand(size.rays, 3) - 0.25 - origins, dim=1)
        ends = torch.full((size.rays,), 1.0), torch.full((size.rays,), 1.5)
        depths = stratified_depths(*ends, size.samples, torch.rand(size.rays, size.samples))
        self.origins, self.directions, self.depths = (x.to(device) for x in (origins, directions, depths))
        self.points = ray_points(self.origins, self.directions, self.depths)
        # For the sparse operator, which is built once for a rig.
        self.operator = _operator(self.points, K) if device.type == "cpu" else None


def ours(problem: Problem, planes: Tensor) -> Tensor:
    """Features [B, n, F]."""
    return sample_planes(planes, problem.points.expand(len(planes), -1, -1), BOX_HALF)


def grid_sample(problem: Problem, planes: Tensor) -> Tensor:
    """The same with torch's image sampling."""
    grid = torch.stack([problem.points[:, list(pair)] for pair in PLANES])[:, None] / BOX_HALF
    B = len(planes)
    found = functional.grid_sample(planes.flatten(0, 1), grid.repeat(B, 1, 1, 1), align_corners=False)
    return found.view(B, 3, planes.shape[2], -1).sum(1).transpose(1, 2)


def embedding_bag(problem: Problem, planes: Tensor) -> Tensor:
    """The same with embedding_bag and its own derivative."""
    B, K = len(planes), planes.shape[-1]
    rows, weights = _bags(problem.points, K)
    first = torch.arange(B, device=rows.device)[:, None, None] * rows_per_object(K)
    every = (rows.long() + first).view(-1, 12)
    table = plane_table(planes)
    found = functional.embedding_bag(
        every, table, per_sample_weights=weights.repeat(B, 1), mode="sum", include_last_offset=False
    )
    return found.view(B, -1, planes.shape[2])


def sparse(problem: Problem, planes: Tensor) -> Tensor:
    """The same as one product with a fixed sparse matrix, for all objects at once."""
    B, F = len(planes), planes.shape[2]
    wide = functional.pad(planes, (1, 1, 1, 1)).permute(1, 3, 4, 0, 2).reshape(-1, B * F)
    product: Tensor = _Sparse.apply(wide, *problem.operator)  # type: ignore[no-untyped-call, misc]
    return product.view(-1, B, F).transpose(0, 1)


LOOKUPS = {"grid_sample": grid_sample, "ours": ours, "embedding_bag": embedding_bag, "sparse": sparse}


def render(problem: Problem, features: Tensor) -> Tensor:
    """Pixels [B·R, C + 1] of features [B, n, F], by this project's perceptron and compositing."""
    raw, colour = problem.renderer(features.reshape(-1, features.shape[2]))
    depths = problem.depths.repeat(len(features), 1)
    weights = midpoint_weights(raw.view(depths.shape), depths, SIGMA_SCALE)
    value, opacity = composite(weights, colour.view(*depths.shape, -1))
    return torch.cat([value, opacity[:, None]], dim=1)


def plain_chain(problem: Problem, planes: Tensor) -> Tensor:
    """The same pixels as most code computes them: grid_sample, torch's layers, cumulative product."""
    R, S = problem.depths.shape
    out = problem.renderer.out(
        functional.softplus(problem.renderer.hidden(grid_sample(problem, planes)))
    ).view(len(planes), R, S, -1)
    raw, colour = out[..., 0], torch.sigmoid(out[..., 1:]) * 1.002 - 0.001
    sigma = SIGMA_SCALE * functional.softplus((raw[..., 1:] + raw[..., :-1]) / 2 - 1)
    alpha = 1 - torch.exp(-sigma * problem.depths.diff(dim=1))
    trans = torch.cumprod(torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha], -1), -1)[..., :-1]
    weights = alpha * trans
    value = (weights[..., None] * (colour[..., 1:, :] + colour[..., :-1, :]) / 2).sum(-2)
    return torch.cat([value, weights.sum(-1, keepdim=True)], dim=-1).flatten(0, 1)


def our_chain(problem: Problem, planes: Tensor, kernel: Kernel = "torch") -> Tensor:
    """The same pixels by `render_rays`."""
    problem.renderer.kernel = kernel
    B, R = len(planes), problem.size.rays
    owner = torch.arange(B, device=planes.device).repeat_interleave(R)
    table = PlaneTable.of(planes, Geometry(box_half=BOX_HALF))
    rays = (x.repeat(B, 1) for x in (problem.origins, problem.directions, problem.depths))
    value, opacity, _ = render_rays(problem.renderer, table, owner, *rays, SIGMA_SCALE)
    return torch.cat([value, opacity[:, None]], dim=1)


def _bags(points: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Rows [n, 12] of one object's padded table and their weights, plane by plane."""
    cells, weights = plane_cells(points, resolution, BOX_HALF)
    width = resolution + 2
    corners = torch.tensor([0, 1, width, width + 1], dtype=cells.dtype, device=cells.device)
    rows = cells[:, None] + corners[:, None]
    return rows.view(12, -1).T.contiguous(), weights.transpose(0, 1).reshape(12, -1).T.contiguous()


def _operator(points: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Bilinear weights as a sparse matrix [n, rows], and its transpose."""
    rows, weights = _bags(points, resolution)
    n = len(points)
    begins, size = torch.arange(0, 12 * n + 1, 12), (n, rows_per_object(resolution))
    columns, values = rows.reshape(-1).long(), weights.reshape(-1)
    matrix = torch.sparse_csr_tensor(begins, columns, values, size, check_invariants=True)
    return matrix, matrix.to_sparse_coo().t().coalesce().to_sparse_csr()


class _Sparse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ table

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transposed @ grads[0].contiguous(), None, None
