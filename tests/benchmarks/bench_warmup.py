"""CPU-milliseconds per latent view of one warm-up step at the paper's sizes; one JSON line.

Run: make bench-warmup, or python -m tests.benchmarks.bench_warmup [--objects 500] [--threads 1 2] [--steps 4]
Frozen random latents; K = 64, F = 10 + 22, M = 50, MLP 32 → 64 → 5; a step is 32 latent views of 16×16 rays,
each view of another object. Forward, backward and optimiser; process CPU time, the quickest of several steps.

- `plain`: `plain_warmup` with one dense Adam over the step's 32 objects and the shared parameters.
- `ours`: `JointTrainer` with the same mathematics: every ray through the whole box, 48 stratified and 48
  importance samples. Only the 32 objects of a step, out of 64, are touched by the optimiser.
- `clipped`: *another schedule*, this project's own: rays that meet the visual hull, clipped to it, 16
  samples, and 512 points of free space per object.
- `adam`: optimisers alone, for the codes of all `objects` (dense torch) or of the step's 32 (ours).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from pipeline.model.autoencoder import new_autoencoder
from pipeline.model.geometry import Geometry
from pipeline.model.rays import view_rays
from pipeline.train.joint import JointTrainer
from pipeline.train.row_adam import RowAdam
from pipeline.train.settings import AutoencoderRecipe, JointSettings
from pipeline.train.training_views import TrainingViews
from render_jobs.cameras import hemisphere_cameras
from tests.benchmarks.plain_warmup import PlainWarmup

SIDE_PX, VIEWS_PER_OBJECT, TRAINED, BATCH, K, F_MIC, F_MAC, M, WIDTH = 128, 2, 64, 32, 64, 10, 22, 50, 64
# The paper's cameras and box: every ray crosses it from 0.5 to 2.1.
PAPER = Geometry(box_half=1.0, near=0.5, far=2.1, clip_radius=None)
RAYS = 256


def cameras() -> tuple[np.ndarray, np.ndarray]:
    """Cameras of two views: cam2world [2, 4, 4] and intrinsics [2, 3, 3]."""
    poses = hemisphere_cameras(VIEWS_PER_OBJECT, 1.3, seed=0)
    focal = 1.02 * SIDE_PX
    matrix = np.array([[focal, 0, SIDE_PX / 2], [0, focal, SIDE_PX / 2], [0, 0, 1]], np.float32)
    return np.asarray(poses, np.float32), np.repeat(matrix[None], VIEWS_PER_OBJECT, 0)


def objects(n: int, *, ball: bool) -> list[TrainingViews]:
    """Objects of random pixels; with a silhouette of radius 0.35, or without alpha."""
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (VIEWS_PER_OBJECT, SIDE_PX, SIDE_PX, 4), np.uint8)
    offset = np.arange(SIDE_PX) + 0.5 - SIDE_PX / 2
    disc = np.hypot(*np.meshgrid(offset, offset)) < 1.02 * SIDE_PX * 0.35 / 1.25
    rgba[..., 3] = np.where(disc, 255, 0)
    return [TrainingViews(f"object-{i}", rgba, *cameras(), has_alpha=ball) for i in range(n)]


def trainer(*, clipped: bool, n: int = TRAINED) -> JointTrainer:
    """A trainer that stands at the start of its warm-up, after one step."""
    sampling = {"n_samples": 16} if clipped else {"n_samples": 48, "n_fine": 48, "lambda_free": 0.0}
    settings = JointSettings(
        AutoencoderRecipe(steps=0),
        geometry=Geometry() if clipped else PAPER,
        resolution=K,
        f_mic=F_MIC,
        f_mac=F_MAC,
        n_base=M,
        width=WIDTH,
        warmup_steps=1000,
        warmup_objects=BATCH,
        warmup_pixels=RAYS,
        **sampling,
    )
    made = JointTrainer(objects(n, ball=clipped), new_autoencoder("tiny", factor=8), settings, seed=0)
    made.step()  # carves hulls and encodes the latents once
    return made


def plain_step(n: int) -> Callable[[], None]:
    """One step of the plain model, with n objects."""
    torch.manual_seed(0)
    model = PlainWarmup(n, K, F_MIC, F_MAC, M, WIDTH)
    optimiser = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99), eps=1e-15)
    target = torch.rand(BATCH, RAYS, 4)
    poses, intrinsics = (torch.from_numpy(values) for values in cameras())
    origins, directions = view_rays(poses, intrinsics, SIDE_PX, SIDE_PX, 8)
    view = torch.arange(BATCH) % VIEWS_PER_OBJECT

    def step() -> None:
        rows = torch.randperm(n)[:BATCH]
        optimiser.zero_grad()
        value, opacity = model(rows, origins[view], directions[view, :, 0], (PAPER.near, PAPER.far), (48, 48))
        (4 * (value + (1 - opacity[..., None]) - target).square()).mean().backward()
        optimiser.step()

    return step


def cpu_ms(step: Callable[[], object], repeats: int, per: int = BATCH) -> float:
    """CPU-milliseconds of the quickest of several calls, over ``per``."""
    step()
    spent = []
    for _ in range(repeats):
        began = time.process_time()
        step()
        spent.append(time.process_time() - began)
    return round(1000 * min(spent) / per, 2)


def adam_of(n: int, repeats: int) -> dict[str, float]:
    """Micro planes' optimisers alone, per latent view."""
    shape = (3, F_MIC, K, K)
    param = torch.nn.Parameter(torch.randn(n, *shape))
    param.grad = torch.randn(n, *shape)
    found = {}
    for name, options in (("dense", {}), ("dense_fused", {"fused": True})):
        found[name] = cpu_ms(torch.optim.Adam([param], **options).step, repeats)
    grad, rows = param.grad[:BATCH].clone(), torch.randperm(n)[:BATCH].tolist()
    param.grad = None
    ours = RowAdam(param.detach())
    found["touched_rows"] = cpu_ms(lambda: ours.update(rows, grad, 1e-2), repeats)
    return found


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--objects", type=int, default=500, help="objects of `adam` (N1)")
    parser.add_argument("--steps", type=int, default=4, help="timed steps of each kind")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", default=["plain", "ours", "clipped", "adam"])
    arguments = parser.parse_args()
    makers: dict[str, Callable[[], Callable[[], object]]] = {
        "plain": lambda: plain_step(BATCH),
        "ours": lambda: trainer(clipped=False).step,
        "clipped": lambda: trainer(clipped=True).step,
    }
    found: dict[str, object] = {"objects": arguments.objects, "unit": "CPU-ms per latent view"}
    found |= {f"{threads}_threads": {} for threads in arguments.threads}
    for name in [name for name in makers if name in arguments.only]:
        step = makers[name]()
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            found[f"{threads}_threads"][name] = cpu_ms(step, arguments.steps)  # type: ignore[index]
        del step
    if "adam" in arguments.only:
        torch.set_num_threads(1)
        found["adam"] = adam_of(arguments.objects, arguments.steps)
    found["load"] = [round(value, 1) for value in os.getloadavg()]
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
