"""Triton kernels: tri-plane lookup and the renderer's perceptron in one pass, forward and backward.

Only ever run in Triton's interpreter, and compiled for an L4 (sm_89): no GPU was at hand.
`pipeline.model.kernel_choice` therefore compares it with the torch code on every device before it is used.
Importing needs triton.

A program takes blocks of points. Features and hidden layer live in registers and never reach memory; the
backward computes them again instead of reading them. The table's gradient is made of atomic additions, whose
order, and so the last bits, differ from run to run. The parameters' gradients are summed per program, then
over programs. Everything is float32, products in full precision (no TF32).
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# The kernels' types are Triton's, known when they are compiled.

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.model.geometry import Axes
from pipeline.model.planes import rows_per_object
from pipeline.model.shapes import Float, Int

# Points of a block. Compiled for an L4 (sm_89) at F = 32, width 64 and four warps, 32 points forward and 16
# backward are the most that leave half of a thread's 255 registers free, so that other warps run meanwhile.
_BLOCK_FORWARD, _BLOCK_BACKWARD = 32, 16
_MOST_PROGRAMS = 1024  # each writes one partial gradient of the parameters
_LEAST_SIDE = 16  # of a product's operand in Triton


def fused_decode(
    table: Float[Tensor, "rows f"],
    points: Float[Tensor, "n 3"],
    object_index: Int[Tensor, " n"],
    params: tuple[Tensor, Tensor, Tensor, Tensor],
    resolution: int,
    box_half: float,
    axes: Axes,
) -> Float[Tensor, "o n"]:
    """Look points up in their objects' planes and decode the features: `sample_table`, then `mlp`.

    Args:
        table: `plane_table` of all objects.
        points: World coordinates; no copy is made of the transpose of a contiguous [3, n].
        object_index: Whose planes each point is in.
        params: weight1 [h, f], bias1 [h], weight2 [o, h], bias2 [o].
        resolution: K.
        box_half: Half the side of the planes' box, world units.
        axes: Which axes the planes hold.

    Returns:
        Outputs of the perceptron, channel-major. Differentiable once, in the table and in the params.
    """
    place = (resolution, float(box_half), axes == "eg3d")
    result: Tensor = _FusedDecode.apply(table, points, object_index, *params, place)  # type: ignore[no-untyped-call]
    return result


class _FusedDecode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        table: Tensor,
        points: Tensor,
        object_index: Tensor,
        weight1: Tensor,
        bias1: Tensor,
        weight2: Tensor,
        bias2: Tensor,
        place: tuple[int, float, bool],
    ) -> Tensor:
        ctx.place = place
        inputs = [table, points.T, object_index, weight1, bias1, weight2, bias2]
        inputs = [tensor.detach().contiguous() for tensor in inputs]
        ctx.save_for_backward(*inputs)
        n = len(points)
        out = table.new_empty(len(bias2), n)
        if n:
            grid = (triton.cdiv(n, _BLOCK_FORWARD),)
            _forward_kernel[grid](*inputs, out, n, **_sizes(inputs, place, _BLOCK_FORWARD))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        table, weight1, weight2 = inputs[0], inputs[3], inputs[5]
        upstream = grads[0].contiguous()
        n, needs_params = upstream.shape[1], any(ctx.needs_input_grad[3:7])
        n_programs = max(1, min(triton.cdiv(n, _BLOCK_BACKWARD), _MOST_PROGRAMS))
        grad_table = torch.zeros_like(table)
        shapes = (weight1.shape, weight1.shape[:1], weight2.shape, weight2.shape[:1])
        rows = n_programs if needs_params else 0
        parts = [table.new_zeros(rows, *shape) for shape in shapes]
        if n:
            sizes = _sizes(inputs, ctx.place, _BLOCK_BACKWARD)
            _backward_kernel[(n_programs,)](
                *inputs, upstream, grad_table, *parts, n, NEEDS_PARAMS=needs_params, **sizes
            )
        params = [part.sum(0) for part in parts] if needs_params else [None] * 4
        return grad_table, None, None, *params, None


def _sizes(inputs: Any, place: tuple[int, float, bool], block: int) -> dict[str, Any]:
    """Compile-time sizes of the kernels; sides are padded to powers of two."""
    resolution, box_half, eg3d = place
    width, n_features = inputs[3].shape
    n_out = len(inputs[6])
    padded = {
        f"{name}_PAD": max(_LEAST_SIDE, triton.next_power_of_2(size))
        for name, size in (("F", n_features), ("H", width), ("O", n_out))
    }
    return {
        "scale": resolution / (2.0 * box_half),
        "object_rows": rows_per_object(resolution),
        "K": resolution,
        "EG3D": eg3d,
        "F": n_features,
        "H": width,
        "N_OUT": n_out,
        "BLOCK": block,
        "enable_fp_fusion": True,  # said, because Triton's default is about to change
        "num_stages": 1,  # prefetching the next block would take 150 KB of shared memory; an L4 has 99
        **padded,
    }


@triton.jit
def _coordinate(points, n, axis: tl.constexpr, index, inside, scale, K: tl.constexpr):
    """Lower texel of a cell along one axis, counted in the padded plane, and the place within the cell."""
    position = tl.load(points + axis * n + index, mask=inside, other=0.0) * scale + (0.5 * K - 0.5)
    position = tl.minimum(tl.maximum(position, -1.0), 1.0 * K)
    low = tl.minimum(tl.floor(position), K - 1.0)
    return low.to(tl.int32) + 1, position - low


@triton.jit
def _corner(table, row, weight, f, inside, F: tl.constexpr):
    """Weighted features of one corner of every point's cell."""
    at = table + row[:, None] * F + f[None, :]
    return weight[:, None] * tl.load(at, mask=inside[:, None] & (f < F)[None, :], other=0.0)


@triton.jit
def _read_plane(table, start, col, row, u, v, f, inside, K: tl.constexpr, F: tl.constexpr):
    """Bilinear features [BLOCK, F_PAD] of one plane, whose first row in the table is ``start``."""
    first = start + row * (K + 2) + col
    found = _corner(table, first, (1.0 - v) * (1.0 - u), f, inside, F)
    found += _corner(table, first + 1, (1.0 - v) * u, f, inside, F)
    found += _corner(table, first + K + 2, v * (1.0 - u), f, inside, F)
    found += _corner(table, first + K + 3, v * u, f, inside, F)
    return found


@triton.jit
def _add_plane(grad, start, col, row, u, v, f, inside, value, K: tl.constexpr, F: tl.constexpr):
    """Add gradients of features [BLOCK, F_PAD] to the corners of one plane."""
    mask = inside[:, None] & (f < F)[None, :]
    at = grad + (start + row * (K + 2) + col)[:, None] * F + f[None, :]
    tl.atomic_add(at, ((1.0 - v) * (1.0 - u))[:, None] * value, mask=mask, sem="relaxed")
    tl.atomic_add(at + F, ((1.0 - v) * u)[:, None] * value, mask=mask, sem="relaxed")
    tl.atomic_add(at + (K + 2) * F, (v * (1.0 - u))[:, None] * value, mask=mask, sem="relaxed")
    tl.atomic_add(at + (K + 3) * F, (v * u)[:, None] * value, mask=mask, sem="relaxed")


@triton.jit
def _third_plane(x, z, y, xu, zu, yu, EG3D: tl.constexpr):
    """Columns and rows of the third plane: (y, z), or (z, x) in the released code's order."""
    if EG3D:
        col, row, u, v = z, x, zu, xu
    else:
        col, row, u, v = y, z, yu, zu
    return col, row, u, v


@triton.jit
def _softplus(x):
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def _load_matrix(at, rows, cols, n_rows: tl.constexpr, n_cols: tl.constexpr):
    """A row-major [n_rows, n_cols] matrix in a padded block."""
    mask = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]
    return tl.load(at + rows[:, None] * n_cols + cols[None, :], mask=mask, other=0.0)


@triton.jit
def _forward_kernel(
    table, points, object_index, weight1, bias1, weight2, bias2, out, n, scale, object_rows,
    K: tl.constexpr, EG3D: tl.constexpr, F: tl.constexpr, H: tl.constexpr, N_OUT: tl.constexpr,
    BLOCK: tl.constexpr, F_PAD: tl.constexpr, H_PAD: tl.constexpr, O_PAD: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < n
    f, h, o = tl.arange(0, F_PAD), tl.arange(0, H_PAD), tl.arange(0, O_PAD)
    start = tl.load(object_index + index, mask=inside, other=0).to(tl.int64) * object_rows
    x, xu = _coordinate(points, n, 0, index, inside, scale, K)
    y, yu = _coordinate(points, n, 1, index, inside, scale, K)
    z, zu = _coordinate(points, n, 2, index, inside, scale, K)
    area: tl.constexpr = (K + 2) * (K + 2)
    features = _read_plane(table, start, x, y, xu, yu, f, inside, K, F)
    features += _read_plane(table, start + area, x, z, xu, zu, f, inside, K, F)
    col, row, u, v = _third_plane(x, z, y, xu, zu, yu, EG3D)
    features += _read_plane(table, start + 2 * area, col, row, u, v, f, inside, K, F)
    w1, w2 = _load_matrix(weight1, h, f, H, F), _load_matrix(weight2, o, h, N_OUT, H)
    b1 = tl.load(bias1 + h, mask=h < H, other=0.0)
    b2 = tl.load(bias2 + o, mask=o < N_OUT, other=0.0)
    hidden = _softplus(tl.dot(features, tl.trans(w1), input_precision="ieee") + b1[None, :])
    result = tl.dot(hidden, tl.trans(w2), input_precision="ieee") + b2[None, :]
    at = out + o[None, :].to(tl.int64) * n + index[:, None]
    tl.store(at, result, mask=inside[:, None] & (o < N_OUT)[None, :])


@triton.jit
def _backward_kernel(
    table, points, object_index, weight1, bias1, weight2, bias2,
    upstream, grad_table, part_w1, part_b1, part_w2, part_b2, n, scale, object_rows,
    NEEDS_PARAMS: tl.constexpr,
    K: tl.constexpr, EG3D: tl.constexpr, F: tl.constexpr, H: tl.constexpr, N_OUT: tl.constexpr,
    BLOCK: tl.constexpr, F_PAD: tl.constexpr, H_PAD: tl.constexpr, O_PAD: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    f, h, o = tl.arange(0, F_PAD), tl.arange(0, H_PAD), tl.arange(0, O_PAD)
    w1, w2 = _load_matrix(weight1, h, f, H, F), _load_matrix(weight2, o, h, N_OUT, H)
    b1 = tl.load(bias1 + h, mask=h < H, other=0.0)
    area: tl.constexpr = (K + 2) * (K + 2)
    if NEEDS_PARAMS:
        sum_w1 = tl.zeros((H_PAD, F_PAD), tl.float32)
        sum_w2 = tl.zeros((O_PAD, H_PAD), tl.float32)
        sum_b1, sum_b2 = tl.zeros((H_PAD,), tl.float32), tl.zeros((O_PAD,), tl.float32)
    for block in range(program, tl.cdiv(n, BLOCK), tl.num_programs(0)):
        index = block * BLOCK + tl.arange(0, BLOCK)
        inside = index < n
        start = tl.load(object_index + index, mask=inside, other=0).to(tl.int64) * object_rows
        x, xu = _coordinate(points, n, 0, index, inside, scale, K)
        y, yu = _coordinate(points, n, 1, index, inside, scale, K)
        z, zu = _coordinate(points, n, 2, index, inside, scale, K)
        col, row, u, v = _third_plane(x, z, y, xu, zu, yu, EG3D)
        features = _read_plane(table, start, x, y, xu, yu, f, inside, K, F)
        features += _read_plane(table, start + area, x, z, xu, zu, f, inside, K, F)
        features += _read_plane(table, start + 2 * area, col, row, u, v, f, inside, K, F)
        before = tl.dot(features, tl.trans(w1), input_precision="ieee") + b1[None, :]
        at = upstream + o[None, :].to(tl.int64) * n + index[:, None]
        above = tl.load(at, mask=inside[:, None] & (o < N_OUT)[None, :], other=0.0)
        below = tl.dot(above, w2, input_precision="ieee") * tl.sigmoid(before)
        grad = tl.dot(below, w1, input_precision="ieee")
        _add_plane(grad_table, start, x, y, xu, yu, f, inside, grad, K, F)
        _add_plane(grad_table, start + area, x, z, xu, zu, f, inside, grad, K, F)
        _add_plane(grad_table, start + 2 * area, col, row, u, v, f, inside, grad, K, F)
        if NEEDS_PARAMS:
            sum_w1 += tl.dot(tl.trans(below), features, input_precision="ieee")
            sum_w2 += tl.dot(tl.trans(above), _softplus(before), input_precision="ieee")
            sum_b1 += tl.sum(below, 0)
            sum_b2 += tl.sum(above, 0)
    if NEEDS_PARAMS:
        at_w1 = part_w1 + program * H * F + h[:, None] * F + f[None, :]
        tl.store(at_w1, sum_w1, mask=(h < H)[:, None] & (f < F)[None, :])
        at_w2 = part_w2 + program * N_OUT * H + o[:, None] * H + h[None, :]
        tl.store(at_w2, sum_w2, mask=(o < N_OUT)[:, None] & (h < H)[None, :])
        tl.store(part_b1 + program * H + h, sum_b1, mask=h < H)
        tl.store(part_b2 + program * N_OUT + o, sum_b2, mask=o < N_OUT)
