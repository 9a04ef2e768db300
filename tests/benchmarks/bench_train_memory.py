"""Memory of training predicted from shapes against what a process takes, on the CPU.

    python -m tests.benchmarks.bench_train_memory [demo|demo-files|paper-warmup|paper-joint] ...

The cases of the paper have its sizes (K=64, F=10+22, M=50, N1=500, 48 samples, 4096 latent pixels per
object), scaled down where 8 GiB and minutes do not suffice: one view per object, 8 objects a warm-up step,
2 objects a joint step, which goes through Stable Diffusion's autoencoder with random parameters. Every case
runs in a process of its own, which trains on ray-traced ellipsoids; the peak is the kernel's (VmHWM).

Two errors are said. `total_error` is of what `fpipe plan` prints, the worker, against the whole process.
`growth_error` leaves out what the process took before it had data, and predicts with the share of pixels that
the stand-ins really show: it tests the counting alone, without the two constants of the prediction.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipeline.config import load_config, read_preset
from pipeline.forecast_memory import worker_memory
from pipeline.model.autoencoder import new_autoencoder
from pipeline.model.geometry import Geometry
from pipeline.train.footprint import WorkerLoad, architecture, training_footprint
from pipeline.train.joint import JointTrainer
from pipeline.train.scratch_arrays import ScratchArrays
from pipeline.train.settings import AutoencoderRecipe, JointSettings
from pipeline.train.training_views import TrainingViews
from tests.test_pipeline.toy import toy_object, toy_trainer, trained_shared

SIZE_PX = 128
RADIUS_SHARE = 0.35
"""Latent pixels that can meet a stand-in object, as the prediction assumes."""

DEMO = JointSettings(
    autoencoder=AutoencoderRecipe(steps=2),
    geometry=Geometry(sigma_scale=10.0),
    resolution=64,
    f_mic=8,
    f_mac=8,
    n_base=12,
    width=32,
    dilate=0,
    warmup_steps=2,
    warmup_objects=12,
    warmup_pixels=256,
    joint_steps=2,
    joint_objects=12,
    joint_views=1,
    crop_px=64,
    ae_every=4,
)
PAPER = JointSettings(
    autoencoder=AutoencoderRecipe(steps=0),
    resolution=64,
    f_mic=10,
    f_mac=22,
    n_base=50,
    n_samples=48,
    warmup_steps=0,
    warmup_objects=8,
    warmup_pixels=4096,
    joint_steps=2,
    joint_objects=2,
    joint_views=1,
)
PAPER_WARMUP = replace(PAPER, warmup_steps=2, joint_steps=0)
CASES: dict[str, tuple[JointSettings, str, int | None, WorkerLoad]] = {
    "demo": (DEMO, "tiny", 2, WorkerLoad(20, 36, (SIZE_PX, SIZE_PX))),
    "demo-files": (DEMO, "tiny", 2, WorkerLoad(60, 36, (SIZE_PX, SIZE_PX), budget_bytes=50_000_000)),
    "paper-warmup": (PAPER_WARMUP, "tiny", 8, WorkerLoad(500, 1, (SIZE_PX, SIZE_PX))),
    "paper-joint": (PAPER, "sd", None, WorkerLoad(500, 1, (SIZE_PX, SIZE_PX))),
}

PLANNED: dict[str, tuple[str, ...]] = {
    "demo": (),
    "demo-files": ("train.objects=60", "compute.train_memory_bytes=50000000"),
}
"""Settings with which preset demo is the case."""


def status_bytes(field: str) -> int:
    """One of the kernel's figures of this process."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def stand_ins(load: WorkerLoad, arrays: ScratchArrays) -> list[TrainingViews]:
    """Objects of the wanted number and size: a few ellipsoids, again and again, in memory of their own."""
    known = [toy_object(seed, load.views + 1).training() for seed in range(3)]
    shape = (load.objects * load.views, *load.size_px, 4)
    table, _ = arrays.empty("training views", shape, np.uint8)
    objects = []
    for i in range(load.objects):
        own = known[i % len(known)]
        rgba = table[i * load.views : (i + 1) * load.views]
        times = load.size_px[0] // own.rgba.shape[1]
        rgba[:] = own.rgba.repeat(times, axis=1).repeat(times, axis=2)
        matrix = own.intrinsics * np.array([times, times, 1], np.float32)[:, None]
        objects.append(TrainingViews(f"{own.object_id}-{i}", rgba, own.cam2world, matrix))
    return objects


def file_bytes() -> float:
    """Resident pages of mapped files; where TMPDIR is in memory, the kernel calls them shared."""
    return status_bytes("RssFile") + status_bytes("RssShmem")


def measure(name: str) -> dict[str, float]:
    """Train a little; returns the peak growth per phase in bytes, and what else decides the prediction."""
    settings, size, factor, load = CASES[name]
    trained_shared(toy_trainer(2))  # all code is loaded: the program before it has data
    arrays = ScratchArrays(load.budget_bytes)
    before = {name: status_bytes(name) for name in ("VmRSS", "RssAnon")}
    files_before = file_bytes()
    trainer = JointTrainer(
        stand_ins(load, arrays), new_autoencoder(size, factor=factor), settings, 0, arrays=arrays
    )
    peaks: dict[str, float] = {}
    while trainer.phase != "done":
        phase = trainer.phase
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
        trainer.step()
        peaks[phase] = max(peaks.get(phase, 0.0), status_bytes("VmHWM") - before["VmRSS"])
        peaks[f"{phase} kept"] = status_bytes("RssAnon") - before["RssAnon"]
        # By phase: the latents' file goes with the warm-up.
        peaks[f"{phase} files"] = file_bytes() - files_before
    bank = trainer._ray_bank()
    cells = sum(len(views.rgba) for views in trainer.objects) * bank.grid[0] * bank.grid[1]
    return {**peaks, "program": before["VmRSS"], "ray_share": len(bank.near) / cells}


def main() -> None:
    """Compare every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="case", help=f"Of {', '.join(CASES)}; default: demo.")
    parser.add_argument("--measure", choices=[*CASES], help="Measure in this process and print JSON.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))  # noqa: T201
        return
    for name in arguments.cases or ["demo"]:
        print(json.dumps({"case": name, **compare(name)}, indent=1))  # noqa: T201


def planned_total(name: str) -> int:
    """What `fpipe plan` says of a training worker, where a preset makes the case; else what it would."""
    settings, size, factor, load = CASES[name]
    if name not in PLANNED:
        return training_footprint(settings, architecture(size, factor, None), load).total
    memory = worker_memory(load_config(read_preset("demo"), settings=PLANNED[name]), 2 * load.objects)
    assert memory is not None
    return memory["train"]["total"]


def compare(name: str) -> dict[str, float | dict[str, float]]:
    """Predicted and measured memory of one case, in MiB, and the errors of the prediction as shares."""
    arguments = [sys.executable, "-m", "tests.benchmarks.bench_train_memory", "--measure", name]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    settings, size, factor, load = CASES[name]
    load = replace(load, ray_share=found["ray_share"])
    predicted = training_footprint(settings, architecture(size, factor, None), load)
    # The kernel counts resident pages of mapped files, too, although it may drop them.
    phases = [phase for phase in ("autoencoder", "warmup", "joint") if phase in found]
    growth = max(found[phase] - found[f"{phase} files"] for phase in phases)
    expected = predicted.total - predicted.program
    planned, total = planned_total(name), growth + found["program"]
    return {
        "predicted": {key: round(value / 2**20) for key, value in predicted.to_dict().items()},
        "measured": {key: round(value / 2**20) for key, value in found.items() if key != "ray_share"},
        "ray_share": round(found["ray_share"], 3),
        "predicted_growth": round(expected / 2**20),
        "measured_growth": round(growth / 2**20),
        "growth_error": round(expected / growth - 1, 3),
        "planned_total": round(planned / 2**20),
        "measured_total": round(total / 2**20),
        "total_error": round(planned / total - 1, 3),
    }


if __name__ == "__main__":
    main()
