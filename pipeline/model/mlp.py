"""The renderer's two-layer perceptron, computed on CPUs in pieces that stay in the processor's cache.

Same function as Linear → Softplus → Linear, which is what other devices compute. Written out because torch's
softplus takes three times as long as exp and log, because adding a bias to a narrow product takes as long as
the product, and because the backward skips frozen parameters. Outputs are channel-major: what follows runs
over one channel of all samples. tests/benchmarks/bench_kernels.py compares it with torch's own layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pipeline.model.shapes import Float

_SAMPLES_PER_PIECE = 2048  # 2048 × 64 × 4 bytes: 512 KiB of hidden layer
_EXP_FITS = 40.0  # e^(40 + 40) is far from float32's end, and log(1 + e^x) is x there


def mlp(
    x: Float[Tensor, "n f"],
    weight1: Float[Tensor, "h f"],
    bias1: Float[Tensor, " h"],
    weight2: Float[Tensor, "o h"],
    bias2: Float[Tensor, " o"],
) -> Float[Tensor, "o n"]:
    """Linear → Softplus → Linear. Differentiable once in all arguments."""
    if x.device.type != "cpu":
        return torch_mlp(x, weight1, bias1, weight2, bias2)
    result: Tensor = _Mlp.apply(x, weight1, bias1, weight2, bias2)  # type: ignore[no-untyped-call]
    return result


def torch_mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """The same in torch's own operations."""
    hidden = functional.softplus(functional.linear(x, weight1, bias1))
    return functional.linear(hidden, weight2, bias2).T


def biased_softplus_(values: Float[Tensor, "n h"], bias: Float[Tensor, " h"]) -> Tensor:
    """log(1 + e^(x + b)) in place, to the precision that numbers around 1 have.

    As log(1 + e^x·e^b) where that cannot overflow: the bias then costs nothing.
    """
    if values.numel() and bool(values.amax() < _EXP_FITS) and bool(bias.amax() < _EXP_FITS):
        one = torch.ones((), dtype=values.dtype, device=values.device)
        return torch.addcmul(one, values.exp_(), bias.exp(), out=values).log_()
    values.add_(bias)
    tail = values.abs().neg_().exp_().add_(1.0).log_()
    return values.clamp_(min=0.0).add_(tail)


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
    ) -> Tensor:
        hidden, out = x.new_empty(len(x), len(bias1)), x.new_empty(len(bias2), len(x))
        for part in _pieces(len(x)):
            piece = biased_softplus_(torch.mm(x[part], weight1.T, out=hidden[part]), bias1)
            torch.mm(weight2, piece.T, out=out[:, part])
        ctx.save_for_backward(x, hidden, weight1, weight2)
        return out.add_(bias2[:, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, weight1, weight2 = ctx.saved_tensors
        upstream = grads[0]
        needs_params = any(ctx.needs_input_grad[1:])
        grad_x = torch.empty_like(x)
        grad_1, grad_b1 = torch.zeros_like(weight1), weight1.new_zeros(len(weight1))
        grad_2 = torch.zeros_like(weight2)
        scratch = hidden.new_empty(2, min(len(x), _SAMPLES_PER_PIECE), hidden.shape[1])
        for part in _pieces(len(x)):
            own, above = hidden[part], upstream[:, part]
            below, decay = scratch[0, : len(own)], scratch[1, : len(own)]
            torch.mm(above.T, weight2, out=below)
            # The derivative of softplus is sigmoid(x) = 1 − e^(−softplus(x)).
            below.addcmul_(below, torch.neg(own, out=decay).exp_(), value=-1.0)
            torch.mm(below, weight1, out=grad_x[part])
            if needs_params:
                grad_1.addmm_(below.T, x[part])
                grad_b1 += below.sum(0)
                grad_2.addmm_(above, own)
        if not needs_params:
            return grad_x, None, None, None, None
        return grad_x, grad_1, grad_b1, grad_2, upstream.sum(1)


def _pieces(n: int) -> list[slice]:
    return [slice(start, min(start + _SAMPLES_PER_PIECE, n)) for start in range(0, n, _SAMPLES_PER_PIECE)]
