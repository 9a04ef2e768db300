"""A step's loss and gradient, one object after the other: what one object needs stays in the cache.

The loss of a step is a sum over its objects, so its gradient may be taken object by object. On a CPU that is
quicker than one graph for all: an object's table of planes (1.7 MB at the paper's size) is read from the
processor's cache, and nothing of the size of a step's samples is ever written to memory. Other devices take
all objects at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.model.shapes import Float

LossOf = Callable[[slice, Tensor], Tensor]


def sum_by_object(
    loss_of: LossOf,
    planes: Float[Tensor, "b 3 f k k"],
    params: Sequence[Tensor] = (),
    *,
    at_once: bool = False,
) -> Float[Tensor, ""]:
    """Sum the losses of a step's objects. Differentiable once, in planes and params.

    Args:
        loss_of: Loss of the objects of a slice, given their fused planes. It may use ``params``, and nothing
            else that needs a gradient.
        planes: Fused planes of all objects.
        params: Parameters that ``loss_of`` uses and that need a gradient.
        at_once: Take all objects in one graph on a CPU too.
    """
    if at_once or planes.device.type != "cpu":
        return loss_of(slice(0, len(planes)), planes)
    result: Tensor = _SumByObject.apply(loss_of, planes, *params)  # type: ignore[no-untyped-call]
    return result


class _SumByObject(torch.autograd.Function):
    """Gradients are taken in the forward, as soon as an object's loss is known."""

    @staticmethod
    def forward(ctx: Any, loss_of: LossOf, planes: Tensor, *params: Tensor) -> Tensor:
        total, plane_grads = planes.new_zeros(()), torch.empty_like(planes)
        param_grads = [torch.zeros_like(param) for param in params]
        for i in range(len(planes)):
            part = slice(i, i + 1)
            with torch.enable_grad():
                own = planes[part].detach().requires_grad_()
                loss = loss_of(part, own)
            first, *rest = torch.autograd.grad(loss, [own, *params])
            plane_grads[part] = first
            for param_grad, piece in zip(param_grads, rest, strict=True):
                param_grad += piece
            total += loss.detach()
        ctx.save_for_backward(plane_grads, *param_grads)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        upstream, kept = grads[0], ctx.saved_tensors
        if float(upstream) == 1.0:
            return None, *kept
        return None, *(upstream * grad for grad in kept)
