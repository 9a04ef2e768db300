"""How well small autoencoders do on objects that they were not trained on, over the CPU they were given.

Run: make bench-autoencoder, or python -m tests.benchmarks.bench_autoencoder [--seconds 60] [--only f4-c4].
Trains every variant on four fifths of the *objects* of five built-in classes (rendered once, kept in the
output folder) with as many steps as the CPU-seconds allow, evaluation not counted, and reconstructs
views of the others at 128x128. One JSON line per variant, and ``autoencoder.png`` with PSNR over CPU-seconds.
The learning rate falls to zero at the end of each curve: a shorter run ends above the middle of a longer one.
One thread, so that CPU-seconds do not depend on who else is running.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.model.autoencoder import Autoencoder, new_autoencoder
from pipeline.train.autoencoder import AutoencoderTrainer
from pipeline.train.settings import AutoencoderRecipe
from pipeline.train.training_views import over_white
from storage.plan import read_plan
from storage.store import Store
from storage.views import ViewsStore
from tests.benchmarks.plot import save_plot

CLASSES = ("car", "sofa", "cabinet", "speaker", "chair")
EVALUATIONS = 6
TIMED_STEPS = 6
TEST_EVERY = 4
"""Of the unseen objects' views; the others would cost more than they tell."""

Views = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Variant:
    """One autoencoder: factor f, latent channels C, size, and what its recipe changes."""

    factor: int
    channels: int
    size: str = "tiny"
    recipe: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    "f2-c4": Variant(2, 4),
    "f4-c4": Variant(4, 4),
    "f4-c8": Variant(4, 8),
    "f8-c8": Variant(8, 8),
    "f8-c16": Variant(8, 16),
    "f4-c4-batch4": Variant(4, 4, recipe={"batch_size": 4}),
    "f8-c8-slow": Variant(8, 8, recipe={"learning_rate": 3e-4}),
    "f4-c8-bf16": Variant(4, 8, recipe={"dtype": "bfloat16"}),
}


def main() -> None:
    """Prints one JSON line per variant and writes the plot."""
    arguments = parsed()
    torch.set_num_threads(1)
    train, test = views_of(arguments.out / "views", arguments.objects, arguments.views)
    curves: dict[str, list[tuple[float, float]]] = {}
    for name in arguments.only:
        found = measured(VARIANTS[name], train, test, arguments.seconds)
        curves[name] = found["cpu_s_and_psnr_db"]
        sys.stdout.write(json.dumps({"variant": name, **found}) + "\n")
        sys.stdout.flush()
        save_plot(arguments.out / "autoencoder.png", curves, "CPU-seconds of training", "PSNR, dB")
    sys.stderr.write(f"plot: {arguments.out / 'autoencoder.png'}\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="PSNR of small autoencoders over CPU-seconds of training")
    parser.add_argument("--seconds", type=float, default=60, help="CPU-seconds of training per variant")
    parser.add_argument("--objects", type=int, default=12, help="objects per class, every fifth held out")
    parser.add_argument("--views", type=int, default=24, help="views per object")
    parser.add_argument("--out", type=Path, default=Path("bench-autoencoder"), help="folder for everything")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="variants")
    return parser.parse_args()


def views_of(root: Path, n_objects: int, n_views: int) -> tuple[Views, Views]:
    """Views [n, 128, 128, 4] of the objects to train on and of those held out."""
    render(root, n_objects, n_views)
    store = Store(str(root))
    views, plan = ViewsStore.open(store), read_plan(store)
    train, test = [], []
    counts: dict[str, int] = {}
    for row in range(len(plan.rows)):
        name = plan.rows[row].object_id.split("-")[0]
        counts[name] = counts.get(name, 0) + 1
        found = views.read(row)
        if counts[name] % 5 == 0:
            test.append(found.images[::TEST_EVERY])
        else:
            train.append(found.images[~found.heldout])
    return np.concatenate(train), np.concatenate(test)


def measured(variant: Variant, train: Views, test: Views, seconds: float) -> dict[str, Any]:
    """Trains one variant with a step budget that takes so many CPU-seconds."""
    step_s = seconds_per_step(variant, train)
    steps = max(EVALUATIONS, round(seconds / step_s))
    began = time.process_time()
    trainer = trainer_of(variant, train, steps)
    cpu_s = time.process_time() - began
    trainer.fit_normaliser()
    curve = [(round(cpu_s, 2), round(psnr_db(trainer.autoencoder, test), 2))]
    for part in range(1, EVALUATIONS + 1):
        began = time.process_time()
        trainer.run(until=steps * part // EVALUATIONS)
        cpu_s += time.process_time() - began
        trainer.fit_normaliser()
        curve.append((round(cpu_s, 2), round(psnr_db(trainer.autoencoder, test), 2)))
    return {
        "psnr_db": curve[-1][1],
        "steps": steps,
        "cpu_ms_a_step": round(1000 * step_s, 1),
        "params": sum(param.numel() for param in trainer.autoencoder.parameters()),
        "train_views": len(train),
        "unseen_views": len(test),
        "cpu_s_and_psnr_db": curve,
    }


def trainer_of(variant: Variant, train: Views, steps: int) -> AutoencoderTrainer:
    autoencoder = new_autoencoder(variant.size, factor=variant.factor, latent_channels=variant.channels)
    recipe = AutoencoderRecipe(**{"steps": steps, "seed": 0, **variant.recipe})
    return AutoencoderTrainer(autoencoder, train, recipe)


def seconds_per_step(variant: Variant, train: Views) -> float:
    """CPU-seconds of a step, the quickest of a few: the first ones also fill caches."""
    trainer = trainer_of(variant, train, TIMED_STEPS)
    found = []
    for step in range(TIMED_STEPS - 1):  # the last would set the normaliser, too
        began = time.process_time()
        trainer.run(until=step + 1)
        found.append(time.process_time() - began)
    return min(found)


@torch.no_grad()
def psnr_db(autoencoder: Autoencoder, views: Views) -> float:
    """Mean over views of the PSNR of whole images over white."""
    found = []
    for start in range(0, len(views), 16):
        rgb = over_white(torch.from_numpy(views[start : start + 16]))
        decoded = autoencoder.decode(autoencoder.encode(rgb)).clamp(0, 1)
        found.append(-10 * torch.log10((decoded - rgb).square().mean((1, 2, 3))))
    return float(torch.cat(found).mean())


def render(root: Path, n_objects: int, n_views: int) -> None:
    """Renders the built-in classes; does nothing where they are."""
    classes = ",".join(f"{name}:{n_objects}" for name in CLASSES)
    source = ["--source", "procedural", "--classes", classes, "--views", str(n_views)]
    command = [sys.executable, "-m", "cli.main", "render", str(root), *source, "--executor", "local"]
    subprocess.run(command, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
