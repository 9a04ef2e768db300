"""Ratios of the two hand-written CPU kernels to plain torch, in one run: plane lookup and renderer's MLP.

Run: python -m tests.benchmarks.bench_kernels  (one JSON line; one thread, so that ratios are comparable)
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from pipeline.model.planes import sample_planes
from pipeline.model.renderer import Renderer

POINTS, CHANNELS, RESOLUTION, REPEATS = 100_000, 32, 64, 7


def milliseconds(forward: Callable[[], Tensor]) -> tuple[float, float]:
    """Returns the quickest forward and backward pass of several, in milliseconds."""
    ahead, back = [], []
    for _ in range(REPEATS):
        began = time.perf_counter()
        value = forward()
        middle = time.perf_counter()
        value.sum().backward()
        ahead.append(middle - began)
        back.append(time.perf_counter() - middle)
    return 1000 * min(ahead), 1000 * min(back)


def lookup() -> dict[str, list[float]]:
    """The tri-plane lookup: ours, and three grid_sample calls."""
    planes = torch.randn(1, 3, CHANNELS, RESOLUTION, RESOLUTION, requires_grad=True)
    points = torch.rand(1, POINTS, 3) - 0.5
    pairs = ((0, 1), (0, 2), (1, 2))

    def plain() -> Tensor:
        grid = torch.stack([points[0, :, list(pair)] for pair in pairs])[:, None] / 0.55
        return grid_sample(planes[0], grid, align_corners=False).sum(0)

    ours = milliseconds(lambda: sample_planes(planes, points, 0.55))
    return {"ours_ms": list(ours), "plain_ms": list(milliseconds(plain))}


def perceptron() -> dict[str, list[float]]:
    """The renderer's MLP: ours, and torch's own layers."""
    features = torch.randn(POINTS, CHANNELS, requires_grad=True)
    renderer = Renderer(CHANNELS, 4, 64)
    plain = nn.Sequential(nn.Linear(CHANNELS, 64), nn.Softplus(), nn.Linear(64, 5))
    ours = milliseconds(lambda: torch.cat([part.flatten() for part in renderer(features)]))
    return {"ours_ms": list(ours), "plain_ms": list(milliseconds(lambda: plain(features)))}


def main() -> None:
    """Prints one JSON line."""
    torch.set_num_threads(1)
    found = {"points": POINTS, "channels": CHANNELS, "lookup": lookup(), "mlp": perceptron()}
    for name in ("lookup", "mlp"):
        part = found[name]
        part["ratio"] = sum(part["plain_ms"]) / sum(part["ours_ms"])
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
