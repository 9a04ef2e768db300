"""The renderer's two-layer perceptron, computed in pieces that stay in the processor's cache.

Same function as Linear → Softplus → Linear. Written out because over a step's 100,000 samples the hidden
layer does not fit the cache, and because its backward skips frozen parameters.
tests/benchmarks/bench_kernels.py compares it with torch's own layers in one run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.model.shapes import Float

_SAMPLES_PER_PIECE = 4096  # 4096 × 64 × 4 bytes: 1 MiB of hidden layer


def mlp(
    x: Float[Tensor, "n f"],
    weight1: Float[Tensor, "h f"],
    bias1: Float[Tensor, " h"],
    weight2: Float[Tensor, "o h"],
    bias2: Float[Tensor, " o"],
) -> Float[Tensor, "n o"]:
    """Linear → Softplus → Linear. Differentiable once in all arguments."""
    result: Tensor = _Mlp.apply(x, weight1, bias1, weight2, bias2)  # type: ignore[no-untyped-call]
    return result


def softplus_(values: Tensor) -> Tensor:
    """log(1 + e^x) in place, as max(x, 0) + log(1 + e^-|x|): twice as fast as torch's on a CPU."""
    tail = values.abs().neg_().exp_().add_(1.0).log_()
    return values.clamp_(min=0.0).add_(tail)


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
    ) -> Tensor:
        hidden, out = x.new_empty(len(x), len(bias1)), x.new_empty(len(x), len(bias2))
        for part in _pieces(x):
            piece = softplus_(torch.addmm(bias1, x[part], weight1.T, out=hidden[part]))
            torch.addmm(bias2, piece, weight2.T, out=out[part])
        ctx.save_for_backward(x, hidden, weight1, weight2)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, weight1, weight2 = ctx.saved_tensors
        upstream = grads[0].contiguous()
        needs_params = any(ctx.needs_input_grad[1:])
        grad_x = torch.empty_like(x)
        grad_1, grad_b1 = torch.zeros_like(weight1), weight1.new_zeros(len(weight1))
        grad_2 = torch.zeros_like(weight2)
        for part in _pieces(x):
            below = upstream[part] @ weight2
            # The derivative of softplus is sigmoid(x) = 1 − e^(−softplus(x)).
            below.mul_(hidden[part].neg().exp_().neg_().add_(1.0))
            torch.mm(below, weight1, out=grad_x[part])
            if needs_params:
                grad_1.addmm_(below.T, x[part])
                grad_b1 += below.sum(0)
                grad_2.addmm_(upstream[part].T, hidden[part])
        if not needs_params:
            return grad_x, None, None, None, None
        return grad_x, grad_1, grad_b1, grad_2, upstream.sum(0)


def _pieces(x: Tensor) -> list[slice]:
    size = _SAMPLES_PER_PIECE if x.device.type == "cpu" else max(len(x), 1)
    return [slice(start, start + size) for start in range(0, len(x), size)]
