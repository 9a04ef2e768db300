"""Which code decodes points: torch's, or the fused kernel where there is one that can be trusted.

``kernel`` chooses. "torch" is the reference. "auto" takes the fused kernel on CUDA with triton and float32,
unless torch is asked for deterministic algorithms (the kernel's gradients differ in their last bits from run
to run). "fused" insists on it. At the first use on a device, the kernel is compared with torch's code on a
small problem; one that differs or does not compile is not used.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from typing import Literal

import torch
from torch import Tensor

from pipeline.model.geometry import Axes
from pipeline.model.mlp import mlp
from pipeline.model.planes import rows_per_object, sample_table
from pipeline.model.shapes import Float, Int
from storage.errors import EnvironmentProblem

Kernel = Literal["auto", "torch", "fused"]
Params = tuple[Tensor, Tensor, Tensor, Tensor]

LOGGER = logging.getLogger(__name__)
_TOLERANCE = 1e-4  # of the largest value; float32 in another order differs by 1e-6


def takes_fused(kernel: Kernel, table: Float[Tensor, "rows f"], params: Params) -> bool:
    """Whether points are decoded by `pipeline.model.fused_kernel`.

    Args:
        kernel: See the module's text.
        table: `pipeline.model.planes.plane_table` of all objects.
        params: weight1 [h, f], bias1 [h], weight2 [o, h], bias2 [o].

    Raises:
        EnvironmentProblem: "fused", and the fused kernel cannot be used.
    """
    if kernel == "torch":
        return False
    width, n_features = params[0].shape
    dtypes, sizes = {tensor.dtype for tensor in (table, *params)}, (n_features, width, len(params[3]))
    obstacle = _obstacle(table.device, dtypes, sizes, insists=kernel == "fused")
    if obstacle is not None and kernel == "fused":
        raise EnvironmentProblem(f"the fused kernel cannot be used: {obstacle}; choose kernel auto or torch")
    return obstacle is None


def torch_decode(
    table: Float[Tensor, "rows f"],
    points: Float[Tensor, "n 3"],
    object_index: Int[Tensor, " n"],
    params: Params,
    resolution: int,
    box_half: float,
    axes: Axes,
) -> Float[Tensor, "o n"]:
    """What the fused kernel computes, in torch's own operations."""
    return mlp(sample_table(table, points, object_index, resolution, box_half, axes), *params)


def _obstacle(
    device: torch.device, dtypes: set[torch.dtype], sizes: tuple[int, int, int], *, insists: bool
) -> str | None:
    """Why the fused kernel is not used for such tensors; None where it is."""
    if device.type != "cuda":
        return f"tensors are on {device}, not on a CUDA device"
    if dtypes != {torch.float32}:
        return f"it computes in float32, tensors are {', '.join(sorted(map(str, dtypes)))}"
    if not insists and torch.are_deterministic_algorithms_enabled():
        return "torch is asked for deterministic algorithms"
    if not _has_triton():
        return "triton is not installed (it comes with CUDA builds of torch)"
    return fault(device, *sizes)


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def fault(device: torch.device, n_features: int, width: int, n_out: int) -> str | None:
    """What is wrong with the fused kernel at these sizes on a device; None where it equals torch's code.

    Found by computing a small problem both ways, values and gradients. Logged once where something is wrong.
    """
    try:
        worst = _largest_difference(device, n_features, width, n_out)
    except Exception as error:  # noqa: BLE001 - compilers and drivers fail in many ways; all mean: not this kernel
        found = f"it fails on {device}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    else:
        if worst < _TOLERANCE:  # false for NaN too
            return None
        found = f"it differs from torch's code on {device} by {worst:.1e} of the largest value"
    LOGGER.warning("the fused kernel is not used: %s", found)
    return found


def _largest_difference(device: torch.device, n_features: int, width: int, n_out: int) -> float:
    """Largest difference of values and gradients, each relative to the largest value of its tensor."""
    from pipeline.model.fused_kernel import fused_decode

    generator = torch.Generator().manual_seed(0)
    resolution, n_objects, n_points = 6, 2, 333

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    table = random(n_objects * rows_per_object(resolution), n_features).requires_grad_()
    shapes = ((width, n_features), (width,), (n_out, width), (n_out,))
    params = tuple((0.3 * random(*shape)).requires_grad_() for shape in shapes)
    points, upstream = 0.5 * random(3, n_points).T, random(n_out, n_points)
    owner = (torch.arange(n_points) % n_objects).to(device)
    worst = torch.zeros((), device=device)
    for leaves in ((table, *params), (table,)):  # with the params' gradients, and frozen as in a fit
        used = params if len(leaves) > 1 else tuple(param.detach() for param in params)
        results = []
        for decode in (torch_decode, fused_decode):
            with torch.enable_grad(), torch.autocast(device.type, enabled=False):
                out = decode(table, points, owner, used, resolution, 0.55, "xyz")  # type: ignore[arg-type]
                results.append([out.detach(), *torch.autograd.grad(out, leaves, upstream)])
        for expected, found in zip(*results, strict=True):
            worst = torch.maximum(worst, (found - expected).abs().max() / expected.abs().max())
    return float(worst)
