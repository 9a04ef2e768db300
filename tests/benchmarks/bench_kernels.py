"""The sampling and decoding kernel of a fit step against plain torch, in one run; one JSON line.

Run: make bench-kernels, or python -m tests.benchmarks.bench_kernels [--device cuda] [--threads 1 2]
Needs torch and numpy (and triton for the fused kernel) alone. Milliseconds of a step, forward and gradient of
the planes together: the quickest of several rounds, in which every way has its turn. On a CPU they are
CPU-milliseconds, of all threads.

- `lookup`: features of a step's samples. `chain`: its pixels (lookup, perceptron, compositing).
- On a CPU our code takes one object after the other as the fit does, and so do `grid_sample` and
  `embedding_bag`; `sparse` is one fixed matrix for all objects (the same rays for all), built once outside of
  the timing; `compiled` is torch.compile of the `grid_sample` chain, where there is a C++ compiler.
- On CUDA all objects at once: `grid_sample`, our code in torch (`torch`), and the `fused` kernel, with its
  distance to the bandwidth and the float32 arithmetic that a copy and a product reach in the same run.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.model.kernel_choice import takes_fused
from tests.benchmarks.kernel_variants import CHANNELS, LOOKUPS, Problem, Size, our_chain, plain_chain, render

SIZES = {
    "cpu": {
        "demo: 8 × 256 × 16, F 16, width 32": Size(8, 256, 16, 16, 32),
        "default: 8 × 256 × 16, F 32, width 64": Size(8, 256, 16, 32, 64),
        "8 × 512 × 16, F 32, width 64": Size(8, 512, 16, 32, 64),
    },
    "cuda": {
        "8 × 512 × 16, F 32, width 64": Size(8, 512, 16, 32, 64),
        "paper: 32 × 256 × 48, F 32, width 64": Size(32, 256, 48, 32, 64),
    },
}
Way = Callable[[Problem, Tensor], Tensor]
Step = Callable[[Problem], object]


def loss(values: Tensor) -> Tensor:
    """A loss whose gradient is not constant."""
    return values.square().sum()


def at_once(way: Way) -> Step:
    """Takes all objects in one graph."""
    return lambda problem: torch.autograd.grad(loss(way(problem, problem.planes)), problem.planes)


def by_object(way: Way) -> Step:
    """Takes objects one after the other, each with its gradient, as a fit on a CPU does."""

    def step(problem: Problem) -> None:
        for i in range(len(problem.planes)):
            own = problem.planes[i : i + 1].detach().requires_grad_()
            torch.autograd.grad(loss(way(problem, own)), own)

    return step


def chain_of(name: str) -> Way:
    """Our perceptron and compositing after one of the lookups."""
    return lambda problem, planes: render(problem, LOOKUPS[name](problem, planes))


def milliseconds(steps: dict[str, Step], problem: Problem, rounds: int) -> dict[str, float]:
    """The quickest of several rounds, per way."""
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):  # the first is not counted
        for name, step in steps.items():
            began = _now(problem)
            step(problem)
            seconds = _now(problem) - began
            if turn:
                spent[name].append(seconds)
    return {name: round(1000 * min(times), 3) for name, times in spent.items()}


def _now(problem: Problem) -> float:
    """CPU-seconds of this process; seconds, all work done, on CUDA."""
    if problem.planes.device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def with_ratios(found: dict[str, float]) -> dict[str, object]:
    """Milliseconds, and how many times as quick as grid_sample each way is."""
    return {"ms": found, "ratio": {name: round(found["grid_sample"] / ms, 2) for name, ms in found.items()}}


def on_cpu(size: Size, rounds: int, *, compiled: bool) -> dict[str, object]:
    """Lookup and chain of one size."""
    problem = Problem(size, torch.device("cpu"))
    lookups = {name: at_once(way) if name == "sparse" else by_object(way) for name, way in LOOKUPS.items()}
    chains = {"grid_sample": by_object(plain_chain), "ours": by_object(our_chain)}
    chains |= {"embedding_bag": by_object(chain_of("embedding_bag")), "sparse": at_once(chain_of("sparse"))}
    found: dict[str, object] = {"lookup": with_ratios(milliseconds(lookups, problem, rounds))}
    if compiled:
        chains["compiled"] = by_object(torch.compile(plain_chain, dynamic=False))
        began = time.perf_counter()
        chains["compiled"](problem)
        found["compile_s"] = round(time.perf_counter() - began, 1)
    return found | {"chain": with_ratios(milliseconds(chains, problem, rounds))}


def on_cuda(size: Size, rounds: int, device: torch.device) -> dict[str, object]:
    """Lookup and chain of one size, and how far the fused kernel's chain is from the card's limits."""
    problem = Problem(size, device)
    lookups = {"grid_sample": at_once(LOOKUPS["grid_sample"]), "torch": at_once(LOOKUPS["ours"])}
    chains = {"grid_sample": at_once(plain_chain), "torch": at_once(our_chain)}
    params = tuple(problem.renderer.parameters())
    usable = takes_fused("auto", problem.planes, params)  # type: ignore[arg-type]
    if usable:
        chains["fused"] = at_once(functools.partial(our_chain, kernel="fused"))
    found = {
        "lookup": with_ratios(milliseconds(lookups, problem, rounds)),
        "chain": with_ratios(milliseconds(chains, problem, rounds)),
        "fused_usable": usable,
        "peak_MiB": round(torch.cuda.max_memory_allocated() / 2**20),
    }
    if usable:
        found["limits"] = limits(size, device, found["chain"]["ms"]["fused"])  # type: ignore[index]
    return found


def limits(size: Size, device: torch.device, step_ms: float) -> dict[str, float]:
    """What a step must move and compute at least, and the time that takes at measured peak rates.

    Bytes: planes read and gradients written, in both layouts; points, owners, outputs and their gradients
    once each way. What the gathers read again is meant to stay in the cache. Operations: the products,
    forward, again in the backward, and for the gradient; 24 per feature for the lookup, as often.
    """
    n, texels = size.objects * size.points, size.objects * 3 * size.resolution**2 * size.features
    moved = 4 * (8 * texels + n * (2 * 5 + 2 * (1 + CHANNELS)))
    products = 2 * size.width * (size.features + 1 + CHANNELS)
    computed = n * (3 * products + 3 * 24 * size.features)
    big = torch.empty(2**26, device=device)
    square = torch.randn(4096, 4096, device=device)
    torch.backends.cuda.matmul.allow_tf32 = False
    copy_s, product_s = (_seconds(work) for work in (big.clone, lambda: square @ square))
    bandwidth, arithmetic = 2 * 4 * 2**26 / copy_s, 2 * 4096**3 / product_s
    least_ms = 1000 * max(moved / bandwidth, computed / arithmetic)
    return {
        "GB_per_s": round(bandwidth / 1e9),
        "TFLOP_per_s": round(arithmetic / 1e12, 1),
        "bytes_ms": round(1000 * moved / bandwidth, 3),
        "arithmetic_ms": round(1000 * computed / arithmetic, 3),
        "times_the_limit": round(step_ms / least_ms, 2),
    }


def _seconds(work: Callable[[], object], repeats: int = 10) -> float:
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*Sparse CSR tensor support.*")
    sizes, found = SIZES[arguments.device], {"torch": torch.__version__}
    if arguments.device == "cuda":
        found["device"] = torch.cuda.get_device_name()
        for name, size in sizes.items():
            found[name] = on_cuda(size, arguments.rounds, torch.device("cuda"))  # type: ignore[assignment]
    else:
        compiled = shutil.which("g++") is not None
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            part = {name: on_cpu(size, arguments.rounds, compiled=compiled) for name, size in sizes.items()}
            found[f"{threads} threads"] = part  # type: ignore[assignment]
            torch.compiler.reset()
    found["load"] = [round(value, 1) for value in os.getloadavg()]  # type: ignore[assignment]
    sys.stdout.write(json.dumps(found, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
