"""Fused planes: composition from base planes and bilinear sampling at 3D points.

Conventions: ``planes[p, f, row, col]`` with plane order xy, xz, yz; col runs along the first axis of the
plane's name, row along the second, both increasing. Planes span [-box_half, box_half]³ in world units; texel
centres lie at half-integer positions (``align_corners=False``), and everything outside the box reads as zero.

The lookup works on one table of all objects in a step, so that a point costs twelve weighted rows and one
``embedding_bag`` call serves all objects and planes. Planes are padded by a ring of zeros there: every sample
then lies in one cell per plane and reads its four corners. The backward sorts samples by cell and is four
more ``embedding_bag`` calls, one per corner, which are added to the table shifted by that corner's offset.
tests/benchmarks/bench_kernels.py compares it with ``grid_sample`` in one run.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pipeline.model.shapes import Float, Int

Axes = Literal["xyz", "eg3d"]

# (axis along the columns, axis along the rows) of each plane. "eg3d" is what the paper's released code
# samples: its third plane is (z, x), so that there is no yz plane; needed only to read checkpoints made by
# that code.
PLANE_AXES: dict[str, tuple[tuple[int, int], ...]] = {
    "xyz": ((0, 1), (0, 2), (1, 2)),
    "eg3d": ((0, 1), (0, 2), (2, 0)),
}


def fuse(
    micro: Float[Tensor, "b 3 fmic k k"] | None,
    coefficients: Float[Tensor, "b m"],
    base_planes: Float[Tensor, "m 3 fmac k k"],
) -> Float[Tensor, "b 3 f k k"]:
    """Compose fused planes: micro planes first, then the coefficient-weighted sum of the base planes.

    Args:
        micro: Object-specific planes, or None for the ULW variant (F_mic = 0).
        coefficients: One scalar per object and base plane.
        base_planes: Planes shared by all objects; none of them (M = 0) where all planes are micro planes.
    """
    if not len(base_planes):
        assert micro is not None, "no base planes and no micro planes: nothing to fuse"
        return micro
    macro = (coefficients @ base_planes.flatten(1)).view(-1, *base_planes.shape[1:])
    return macro if micro is None else torch.cat([micro, macro], dim=2)


def plane_table(planes: Float[Tensor, "b 3 f k k"]) -> Float[Tensor, "rows f"]:
    """Lay planes out as one row of features per texel, within a ring of zeros.

    Row ``((b·3 + p)·(K + 2) + row + 1)·(K + 2) + col + 1`` holds ``planes[b, p, :, row, col]``.
    """
    channels_last = planes.permute(0, 1, 3, 4, 2)
    return functional.pad(channels_last, (0, 0, 1, 1, 1, 1)).reshape(-1, planes.shape[2])


def plane_cells(
    points: Float[Tensor, "n 3"], resolution: int, box_half: float, axes: Axes = "xyz"
) -> tuple[Int[Tensor, "n 3"], Float[Tensor, "n 3 4"]]:
    """Find the cell that each point lies in, per plane, and the bilinear weights of its four corners.

    Args:
        points: World coordinates.
        resolution: K, texels along a side.
        box_half: Half the side of the box that the planes span, world units.
        axes: Which axes the planes hold.

    Returns:
        Row of the cell's first corner in one object's padded table (int32), and the weights of the corners
        (row, col), (row, col + 1), (row + 1, col), (row + 1, col + 1); all 0 outside the padded planes.
    """
    K = resolution
    # Coordinate-major: every operation below runs over n contiguous numbers.
    position = (points.T + box_half) * (K / (2.0 * box_half)) - 0.5
    low = torch.floor(position)
    inside = ((low >= -1) & (low <= K - 1)).to(points.dtype)
    high_weight = (position - low) * inside
    low_weight = inside - high_weight
    index = low.clamp_(-1, K - 1).to(torch.int32) + 1
    cells, weights = [], []
    for plane, (col, row) in enumerate(PLANE_AXES[axes]):
        cells.append(index[row] * (K + 2) + index[col] + plane * (K + 2) ** 2)
        weights += [r[row] * c[col] for r in (low_weight, high_weight) for c in (low_weight, high_weight)]
    return torch.stack(cells, dim=1), torch.stack(weights, dim=1).view(-1, 3, 4)


class _TableLookup(torch.autograd.Function):
    """Weighted sum of the corners of cells; differentiable in the table only."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, cells: Tensor, weights: Tensor, width: int) -> Tensor:
        ctx.save_for_backward(cells, weights)
        ctx.n_rows, ctx.width = table.shape[0], width
        corners = torch.tensor(_corner_offsets(width), dtype=cells.dtype, device=cells.device)
        rows = (cells[..., None] + corners).reshape(len(cells), 12)
        flat = weights.reshape(len(cells), 12)
        return functional.embedding_bag(rows, table, per_sample_weights=flat, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        cells, weights = ctx.saved_tensors
        # A stable sort keeps the order of additions fixed, hence bit-equal gradients.
        ordered, order = torch.sort(cells.reshape(-1), stable=True)
        count = torch.bincount(ordered, minlength=ctx.n_rows)
        starts = torch.cumsum(count, 0) - count
        points = torch.div(order, 3, rounding_mode="floor")
        by_corner = weights.reshape(-1, 4)[order].T.contiguous()
        upstream = grads[0].contiguous()
        grad = torch.zeros(ctx.n_rows, upstream.shape[1], dtype=upstream.dtype, device=upstream.device)
        for offset, own in zip(_corner_offsets(ctx.width), by_corner, strict=True):
            part = functional.embedding_bag(points, upstream, starts, per_sample_weights=own, mode="sum")
            grad[offset:] += part[: ctx.n_rows - offset]
        return grad, None, None, None


def _corner_offsets(width: int) -> tuple[int, int, int, int]:
    """Rows from a cell's first corner to each of its corners, in a table of planes ``width`` texels wide."""
    return 0, 1, width, width + 1


def lookup(
    table: Float[Tensor, "rows f"],
    cells: Int[Tensor, "n 3"],
    weights: Float[Tensor, "n 3 4"],
    resolution: int,
) -> Float[Tensor, "n f"]:
    """Sum the weighted corners of three cells per point. Differentiable once, in ``table`` only."""
    result: Tensor = _TableLookup.apply(table, cells, weights, resolution + 2)  # type: ignore[no-untyped-call]
    return result


def rows_per_object(resolution: int) -> int:
    """Rows of `plane_table` that one object has."""
    return int(3 * (resolution + 2) ** 2)


def sample_planes(
    planes: Float[Tensor, "b 3 f k k"],
    points: Float[Tensor, "b p 3"],
    box_half: float,
    axes: Axes = "xyz",
) -> Float[Tensor, "b p f"]:
    """Sample planes at points: bilinear, zeros outside, features of the three planes summed.

    Differentiable in ``planes``, not in ``points``.
    """
    n_objects, n_points = points.shape[:2]
    K = planes.shape[-1]
    cells, weights = plane_cells(points.reshape(-1, 3), K, box_half, axes)
    object_index = torch.arange(n_objects, dtype=cells.dtype, device=cells.device).repeat_interleave(n_points)
    features = lookup(plane_table(planes), cells + object_index[:, None] * rows_per_object(K), weights, K)
    return features.view(n_objects, n_points, -1)
