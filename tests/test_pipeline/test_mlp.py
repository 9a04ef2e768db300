from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pipeline.model import mlp as module
from pipeline.model.mlp import biased_softplus_, mlp, torch_mlp


def _params(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(11, 3), (5, 3), (5,), (2, 5), (2,)]
    return [torch.randn(s, generator=generator, dtype=dtype, requires_grad=True) for s in shapes]


def test_equals_linear_softplus_linear_and_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SAMPLES_PER_PIECE", 4)  # 11 samples: two whole pieces and a part
    params = _params(torch.float64)
    x, w1, b1, w2, b2 = params
    expected = functional.linear(functional.softplus(functional.linear(x, w1, b1)), w2, b2).T
    torch.testing.assert_close(mlp(*params), expected)
    torch.testing.assert_close(torch_mlp(*params), expected)
    assert torch.autograd.gradcheck(mlp, params)


def test_frozen_params_get_no_gradient() -> None:
    x, *rest = _params(torch.float32)
    frozen = [param.detach() for param in rest]
    mlp(x, *frozen).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("bias", [-30.0, 0.0, 3.0, 39.0, 60.0])
def test_biased_softplus_on_both_ways(bias: float) -> None:
    small = torch.tensor([[-200.0, -90.0, -20.0, 0.0, 1.0, 20.0, 39.0]])
    for values in (small, torch.cat([small, torch.tensor([[500.0]])], dim=1)):
        biases = torch.full((values.shape[1],), bias)
        expected = functional.softplus(values + biases)
        torch.testing.assert_close(biased_softplus_(values.clone(), biases), expected, atol=1.5e-7, rtol=1e-6)
