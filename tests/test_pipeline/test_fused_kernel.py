"""Runs fused_kernel_cases.py, and compiles the kernels for GPUs that are not here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CASES = Path(__file__).with_name("fused_kernel_cases.py")


def test_the_kernel_equals_torch() -> None:
    # A process of its own: Triton decides at its import, which torch may have done already, whether kernels
    # are compiled or interpreted.
    pytest.importorskip("triton", reason="needs triton")
    environment = dict(os.environ) | ({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=500)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.slow
def test_the_kernels_compile_for_an_l4_without_its_last_shared_memory() -> None:
    # Of the paper's card (sm_89) a program may have 99 KiB of shared memory, at F = 32, width 64 and C = 4.
    pytest.importorskip("triton", reason="needs triton")
    command = [sys.executable, "-c", f"from {__name__} import shared_bytes; print(*shared_bytes())"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    found = [int(text) for text in done.stdout.split()]
    assert len(found) == 2
    assert max(found) < 99 * 1024 // 2  # two programs at a time


def shared_bytes() -> list[int]:
    """Shared memory of the forward and the backward kernel, compiled for sm_89."""
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pipeline.model import fused_kernel

    shapes = ((1,), (3, 1), (1,), (64, 32), (64,), (5, 64), (5,))
    inputs = [torch.empty(shape) for shape in shapes]
    found = []
    for kernel, block in (
        (fused_kernel._forward_kernel, fused_kernel._BLOCK_FORWARD),
        (fused_kernel._backward_kernel, fused_kernel._BLOCK_BACKWARD),
    ):
        sizes = fused_kernel._sizes(inputs, (64, 0.55, False), block) | {"NEEDS_PARAMS": True}
        known = dict.fromkeys(("n", "object_rows"), "i32") | {"scale": "fp32", "object_index": "*i64"}
        constants = {name: sizes[name] for name in kernel.arg_names if name in sizes and name not in known}
        types = {name: known.get(name, "*fp32") for name in kernel.arg_names}
        types |= dict.fromkeys(constants, "constexpr")
        source = ASTSource(fn=kernel, signature=types, constexprs=constants)
        options = {name: sizes[name] for name in ("num_stages", "enable_fp_fusion")}
        found.append(
            compile_kernel(source, target=GPUTarget("cuda", 89, 32), options=options).metadata.shared
        )
    return found
