"""Fused planes: composition from base planes and bilinear sampling at 3D points.

Conventions: ``planes[p, f, row, col]`` with plane order xy, xz, yz; col runs along the first axis of the
plane's name, row along the second, both increasing. Planes span [-box_half, box_half]³ in world units; texel
centres lie at half-integer positions (``align_corners=False``), and everything outside the box reads as zero.

The lookup works on one table of all objects in a step, so that a point costs twelve weighted rows and one
``embedding_bag`` call serves all objects and planes. Planes are padded by a ring of zeros there: every sample
then lies in one cell per plane and reads its four corners. The backward sorts what falls on each row, and is
one more ``embedding_bag`` call. With many samples or a large table sorting by row would cost most: there it
sorts by cell and makes four calls, one per corner, added to the table shifted by that corner's offset.
tests/benchmarks/bench_kernels.py compares it with ``grid_sample`` in one run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pipeline.model.geometry import Axes
from pipeline.model.shapes import Float, Int

_SHORT_KEYS = 1 << 16  # rows that 16 bits can number: one object up to K = 145

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
    Differentiable once.
    """
    result: Tensor = _Table.apply(planes)  # type: ignore[no-untyped-call]
    return result


class _Table(torch.autograd.Function):
    """Channels last and padded in one copy, and back in one; torch's own operations take two each."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor) -> Tensor:
        b, _, f, K, _ = ctx.shape = planes.shape
        table = planes.new_zeros(b, 3, K + 2, K + 2, f)
        table[:, :, 1:-1, 1:-1].copy_(planes.permute(0, 1, 3, 4, 2))
        return table.view(-1, f)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        b, _, f, K, _ = ctx.shape
        return grads[0].view(b, 3, K + 2, K + 2, f)[:, :, 1:-1, 1:-1].permute(0, 1, 4, 2, 3)


def plane_cells(
    points: Float[Tensor, "n 3"], resolution: int, box_half: float, axes: Axes = "xyz"
) -> tuple[Int[Tensor, "3 n"], Float[Tensor, "4 3 n"]]:
    """Find the cell that each point lies in, per plane, and the bilinear weights of its four corners.

    Args:
        points: World coordinates; quickest as the transpose of a contiguous [3, n].
        resolution: K, texels along a side.
        box_half: Half the side of the box that the planes span, world units.
        axes: Which axes the planes hold.

    Returns:
        Row of the cell's first corner in one object's padded table (int32), per plane, and the weights of the
        corners (row, col), (row, col + 1), (row + 1, col), (row + 1, col + 1).
    """
    K = resolution
    # Coordinate-major: every operation below runs over n contiguous numbers. What lies outside is moved to
    # the ring of zeros: it reads zero, and its gradient falls on the ring.
    position = (points.T * (K / (2.0 * box_half))).add_(0.5 * K - 0.5).clamp_(-1.0, float(K))
    low = torch.floor(position).clamp_(max=K - 1)
    high_weight = position.sub_(low)
    low_weight = 1.0 - high_weight
    index = low.to(torch.int32).add_(1)
    cells = index.new_empty(index.shape)
    weights = low.new_empty(4, *low.shape)
    for plane, (col, row) in enumerate(PLANE_AXES[axes]):
        torch.add(index[col] + plane * (K + 2) ** 2, index[row], alpha=K + 2, out=cells[plane])
        corners = [(r[row], c[col]) for r in (low_weight, high_weight) for c in (low_weight, high_weight)]
        for corner, (along_rows, along_cols) in enumerate(corners):
            torch.mul(along_rows, along_cols, out=weights[corner, plane])
    return cells, weights


class _TableLookup(torch.autograd.Function):
    """Weighted sum of the corners of cells; differentiable in the table only."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, cells: Tensor, weights: Tensor, width: int) -> Tensor:
        ctx.save_for_backward(cells, weights)
        ctx.n_rows, ctx.width = table.shape[0], width
        corners = torch.tensor(_corner_offsets(width), dtype=cells.dtype, device=cells.device)
        rows = (cells + corners[:, None, None]).view(12, -1).T.contiguous()
        flat = weights.view(12, -1).T.contiguous()
        return functional.embedding_bag(rows, table, per_sample_weights=flat, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        cells, weights = ctx.saved_tensors
        upstream = grads[0].contiguous()
        on_cpu = cells.device.type == "cpu"
        few = cells.shape[1] <= ctx.n_rows <= _SHORT_KEYS
        add_up = _one_bag_per_row if on_cpu and few else _four_bags_per_row
        return add_up(upstream, cells, weights, ctx.n_rows, ctx.width), None, None, None


def _one_bag_per_row(upstream: Tensor, cells: Tensor, weights: Tensor, n_rows: int, width: int) -> Tensor:
    """Gradient of a table's rows, all corners of all cells sorted together."""
    corners = torch.tensor(_corner_offsets(width), dtype=cells.dtype)
    order, starts = _grouped((cells + corners[:, None, None]).view(-1), n_rows)
    points = torch.arange(cells.shape[1], dtype=torch.int32).repeat(12).index_select(0, order)
    own = weights.view(-1).index_select(0, order)
    return functional.embedding_bag(points, upstream, starts, per_sample_weights=own, mode="sum")


def _four_bags_per_row(upstream: Tensor, cells: Tensor, weights: Tensor, n_rows: int, width: int) -> Tensor:
    """The same where sorting costs more than the table's memory: a quarter as much to sort, four tables."""
    order, starts = _grouped(cells.view(-1), n_rows)
    points = torch.arange(cells.shape[1], dtype=torch.int32, device=cells.device).repeat(3)
    points = points.index_select(0, order)
    grad: Tensor | None = None
    for offset, own in zip(_corner_offsets(width), weights.view(4, -1), strict=True):
        sorted_weights = own.index_select(0, order)
        part = functional.embedding_bag(
            points, upstream, starts, per_sample_weights=sorted_weights, mode="sum"
        )
        if grad is None:
            grad = part
        else:
            grad[offset:] += part[: n_rows - offset]
    assert grad is not None
    return grad


def _grouped(rows: Int[Tensor, " n"], n_rows: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " rows"]]:
    """Order that puts equal rows together, and where each row begins in it.

    The sort is stable: that keeps the order of additions fixed, hence bit-equal gradients.
    """
    if rows.device.type == "cpu" and n_rows <= _SHORT_KEYS:
        # numpy sorts 16-bit keys by radix: eight times as quick as torch at 12,000 of them.
        order = torch.from_numpy(rows.to(torch.uint16).numpy().argsort(kind="stable"))
    else:
        order = torch.sort(rows, stable=True).indices
    count = torch.bincount(rows, minlength=n_rows)
    return order, (torch.cumsum(count, 0) - count).to(torch.int32)


def _corner_offsets(width: int) -> tuple[int, int, int, int]:
    """Rows from a cell's first corner to each of its corners, in a table of planes ``width`` texels wide."""
    return 0, 1, width, width + 1


def lookup(
    table: Float[Tensor, "rows f"],
    cells: Int[Tensor, "3 n"],
    weights: Float[Tensor, "4 3 n"],
    resolution: int,
) -> Float[Tensor, "n f"]:
    """Sum the weighted corners of three cells per point. Differentiable once, in ``table`` only."""
    result: Tensor = _TableLookup.apply(table, cells, weights, resolution + 2)  # type: ignore[no-untyped-call]
    return result


def rows_per_object(resolution: int) -> int:
    """Rows of `plane_table` that one object has."""
    return int(3 * (resolution + 2) ** 2)


def sample_table(
    table: Float[Tensor, "rows f"],
    points: Float[Tensor, "n 3"],
    object_index: Int[Tensor, " n"],
    resolution: int,
    box_half: float,
    axes: Axes = "xyz",
) -> Float[Tensor, "n f"]:
    """Features of points, each in the planes of its object. Differentiable in ``table`` only."""
    cells, weights = plane_cells(points, resolution, box_half, axes)
    offset = (object_index * rows_per_object(resolution)).to(cells.dtype)
    return lookup(table, cells + offset, weights, resolution)


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
    owner = torch.arange(n_objects, device=points.device).repeat_interleave(n_points)
    features = sample_table(plane_table(planes), points.reshape(-1, 3), owner, K, box_half, axes)
    return features.view(n_objects, n_points, -1)
