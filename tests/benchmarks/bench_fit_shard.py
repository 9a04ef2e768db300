"""Memory of a shard of 64 objects at the paper's plane sizes, over some steps; one JSON line.

Run: python -m tests.benchmarks.bench_fit_shard [--objects 64] [--batch 64] [--steps 10] [--views 160]
K = 64, F = 10 + 22, M = 50, width 64, 16 × 16 latents of 128 × 128 views (a tenth held out), random
components, a sphere seen from everywhere. Stable Diffusion's decoder is `--decoder sd`; the encoder is
the small one either way, since a step does not use it.

`peak_bytes` is the process's largest resident memory, `grown_bytes` how much of it came after the first
steps: memory that a step does not give back. `fit_hours_of_shard` is *extrapolated* from the seconds of
these few steps to the whole schedule of `--preset`; no whole fit is run.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from dataclasses import replace
from statistics import median

import numpy as np
import torch

from pipeline.fit.batch import FitBatch
from pipeline.fit.resources import FitResources, planned_batch
from pipeline.fit.settings import FitSettings
from pipeline.model.autoencoder import Autoencoder, new_autoencoder
from pipeline.model.geometry import Geometry
from pipeline.model.renderer import Renderer
from pipeline.model.shared import SharedComponents
from pipeline.train.training_views import TrainingViews
from tests.benchmarks.fit_fixture import preset_settings
from tests.benchmarks.plain_vae import STABLE_DIFFUSION, random_vae
from tests.test_pipeline.toy import look_at_origin

SIZE_PX, RADIUS_WORLD, DISTANCE_WORLD = 128, 0.4, 1.3
K, F_MIC, F_MAC, M, WIDTH = 64, 10, 22, 50, 64


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--objects", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64, help="objects at a time; 0 plans it from the memory")
    parser.add_argument("--steps", type=int, default=10, help="of each phase")
    parser.add_argument("--views", type=int, default=160)
    parser.add_argument("--decoder", choices=("tiny", "sd"), default="tiny")
    parser.add_argument("--preset", default="coarse", help="whose schedule the time is extrapolated to")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shared, settings = components(options.decoder, options.device), preset_settings(options.preset)
    resources = FitResources(options.threads, options.device)
    batch = options.batch or planned_batch(shared, settings, options.views, resources)
    sys.stdout.write(json.dumps(measured(shared, settings, batch, options)) + "\n")


def measured(
    shared: SharedComponents, settings: FitSettings, batch: int, options: argparse.Namespace
) -> dict[str, object]:
    """Runs the first batch of the shard for a few steps of each phase."""
    started = _peak_bytes()
    short = replace(settings, latent_steps=options.steps, rgb_steps=options.steps)
    group = FitBatch(shared, short, 0, batch)
    began = time.monotonic()
    for i in range(min(batch, options.objects)):
        group.admit(sphere(f"sphere-{i}", options.views), None)
    preparation_s, ready = time.monotonic() - began, _peak_bytes()
    seconds: list[float] = []
    peaks: list[int] = []
    while not group.finished():
        began = time.monotonic()
        group.step()
        seconds.append(time.monotonic() - began)
        peaks.append(_peak_bytes())
    latent_s, rgb_s = (median(part) for part in (seconds[: options.steps], seconds[options.steps :]))
    batches = -(-options.objects // batch)
    whole_s = preparation_s + latent_s * settings.latent_steps + rgb_s * settings.rgb_steps
    return {
        "objects": options.objects,
        "batch": batch,
        "planes": f"K {K}, F {F_MIC}+{F_MAC}, M {M}",
        "decoder": options.decoder,
        "device": options.device,
        "threads": options.threads,
        "steps_measured": len(seconds),
        "start_bytes": started,
        "ready_bytes": ready,
        "peak_bytes": peaks[-1],
        "grown_bytes": peaks[-1] - peaks[min(options.steps + 2, len(peaks) - 1)],
        "preparation_s": round(preparation_s, 2),
        "latent_step_s": round(latent_s, 3),
        "rgb_step_s": round(rgb_s, 3),
        "fit_hours_of_shard_extrapolated": round(batches * whole_s / 3600, 3),
        "schedule": f"{options.preset}: {settings.latent_steps} + {settings.rgb_steps} steps, no early end",
    }


def components(decoder: str, device: str) -> SharedComponents:
    """Random shared components of the paper's sizes."""
    torch.manual_seed(0)
    autoencoder = new_autoencoder("tiny", factor=8, latent_channels=4)
    if decoder == "sd":
        autoencoder.decode = (
            Autoencoder(random_vae(STABLE_DIFFUSION, seed=0)).to(device).requires_grad_(False).decode
        )  # type: ignore[method-assign]
    return SharedComponents(
        autoencoder=autoencoder,
        base_planes=0.1 * torch.randn(M, 3, F_MAC, K, K),
        renderer=Renderer(F_MIC + F_MAC, 4, WIDTH),
        background_latent=torch.full((4, SIZE_PX // 8, SIZE_PX // 8), 0.5),
        geometry=Geometry(sigma_scale=10.0),
        f_mic=F_MIC,
        size_px=(SIZE_PX, SIZE_PX),
        mean_micro=torch.zeros(3, F_MIC, K, K),
        mean_coefficients=torch.zeros(M),
    ).freeze(device)


def sphere(object_id: str, n_views: int) -> TrainingViews:
    """The training views of a sphere, nine tenths of all: a disc from everywhere."""
    rng = np.random.default_rng(0)
    n = n_views - max(1, round(n_views / 10))
    heights, angles = rng.uniform(0, 1, n), rng.uniform(0, 2 * np.pi, n)
    flat = np.sqrt(1 - heights**2)
    places = DISTANCE_WORLD * np.stack([flat * np.cos(angles), flat * np.sin(angles), heights], axis=1)
    focal = 1.02 * SIZE_PX
    matrix = np.array([[focal, 0, SIZE_PX / 2], [0, focal, SIZE_PX / 2], [0, 0, 1]], np.float32)
    radius_px = focal * RADIUS_WORLD / np.sqrt(DISTANCE_WORLD**2 - RADIUS_WORLD**2)
    row, column = np.mgrid[:SIZE_PX, :SIZE_PX] + 0.5 - SIZE_PX / 2
    image = np.zeros((SIZE_PX, SIZE_PX, 4), np.uint8)
    image[..., :3] = 128
    image[..., 3] = 255 * (np.hypot(row, column) < radius_px)
    cam2world = np.stack([look_at_origin(place) for place in places]).astype(np.float32)
    return TrainingViews(
        object_id, np.repeat(image[None], n, axis=0), cam2world, np.repeat(matrix[None], n, axis=0)
    )


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
