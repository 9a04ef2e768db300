from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from pipeline.model import kernel_choice
from pipeline.model.kernel_choice import takes_fused, torch_decode
from storage.errors import EnvironmentProblem

CPU, CUDA, SIZES = torch.device("cpu"), torch.device("cuda"), (5, 20, 4)
PARAMS = tuple(torch.zeros(shape) for shape in ((20, 5), (20,), (4, 20), (4,)))


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    kernel_choice.fault.cache_clear()
    kernel_choice._has_triton.cache_clear()


def _stand_in(monkeypatch: pytest.MonkeyPatch, decode: Callable[..., Tensor]) -> None:
    """Puts another function into the place of the kernel, which needs triton."""
    name = "pipeline.model.fused_kernel"
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(fused_decode=decode))  # type: ignore[arg-type]


def test_on_a_cpu_torch_computes() -> None:
    table = torch.zeros(3 * 8 * 8, 5)
    assert not takes_fused("auto", table, PARAMS)
    assert not takes_fused("torch", table, PARAMS)
    with pytest.raises(EnvironmentProblem, match=r"tensors are on cpu.*choose kernel auto or torch"):
        takes_fused("fused", table, PARAMS)


def test_on_a_gpu_the_kernel_computes_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_choice, "fault", lambda *_: None)
    monkeypatch.setattr(kernel_choice, "_has_triton", lambda: True)
    assert kernel_choice._obstacle(CUDA, {torch.float32}, SIZES, insists=False) is None
    half = kernel_choice._obstacle(CUDA, {torch.float32, torch.bfloat16}, SIZES, insists=True)
    assert half is not None
    assert "bfloat16" in half
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert kernel_choice._obstacle(CUDA, {torch.float32}, SIZES, insists=False) is not None
    assert kernel_choice._obstacle(CUDA, {torch.float32}, SIZES, insists=True) is None
    monkeypatch.setattr(kernel_choice, "_has_triton", lambda: False)
    missing = kernel_choice._obstacle(CUDA, {torch.float32}, SIZES, insists=True)
    assert missing is not None
    assert "triton is not installed" in missing


def test_a_kernel_that_equals_torch_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(monkeypatch, torch_decode)
    before = torch.get_rng_state()
    assert kernel_choice.fault(CPU, *SIZES) is None
    assert torch.equal(torch.get_rng_state(), before)  # the check draws nothing from a training's generator


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0] * 1.001


@pytest.mark.parametrize(
    "wrong",
    [
        lambda *values: torch_decode(*values) * 1.001,
        lambda *values: torch_decode(*values) * float("nan"),
        lambda *values: _WrongGradient.apply(torch_decode(*values)),
    ],
    ids=["values", "nan", "gradients"],
)
def test_a_kernel_that_differs_is_refused_once_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wrong: Callable[..., Tensor]
) -> None:
    _stand_in(monkeypatch, wrong)
    with caplog.at_level(logging.WARNING):
        found = [kernel_choice.fault(CPU, *SIZES) for _ in range(2)]
    assert found[0] is not None
    assert "differs from torch's code" in found[0]
    assert found[0] == found[1]
    assert len(caplog.records) == 1


def test_a_kernel_that_does_not_compile_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> Tensor:
        raise RuntimeError("out of resource: shared memory\nRequired: 148736")

    _stand_in(monkeypatch, broken)
    found = kernel_choice.fault(CPU, *SIZES)
    assert found is not None
    assert "RuntimeError: out of resource: shared memory Required: 148736" in found
    assert "the fused kernel is not used" in caplog.text
