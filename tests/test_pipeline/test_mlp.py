from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pipeline.model import mlp as module
from pipeline.model.mlp import mlp, softplus_


def _params(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(11, 3), (5, 3), (5,), (2, 5), (2,)]
    return [torch.randn(s, generator=generator, dtype=dtype, requires_grad=True) for s in shapes]


def test_equals_linear_softplus_linear_and_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SAMPLES_PER_PIECE", 4)  # 11 samples: two whole pieces and a part
    params = _params(torch.float64)
    x, w1, b1, w2, b2 = params
    expected = functional.linear(functional.softplus(functional.linear(x, w1, b1)), w2, b2)
    torch.testing.assert_close(mlp(*params), expected)
    assert torch.autograd.gradcheck(mlp, params)


def test_frozen_params_get_no_gradient() -> None:
    x, *rest = _params(torch.float32)
    frozen = [param.detach() for param in rest]
    mlp(x, *frozen).sum().backward()
    assert x.grad is not None


def test_softplus_at_the_extremes() -> None:
    values = torch.tensor([-200.0, -20.0, 0.0, 20.0, 500.0])
    torch.testing.assert_close(softplus_(values.clone()), functional.softplus(values), atol=1e-7, rtol=1e-6)
