"""Makes the input of bench_fit: renders objects, trains shared components on some, keeps views of others.

Run: python -m tests.benchmarks.fit_fixture --size small --out FILE.npz [--meshes FOLDER] [--scratch FOLDER]
Rendering is the real stage and training the real joint training. The views of all objects are kept in the
scratch folder as ``views.npz``; where that file is, nothing is rendered, and torch and numpy are enough for
size `paper` (its autoencoder has random parameters unless --vae gives a folder, which takes diffusers). So
for a GPU machine without Blender: --size paper --only-views here, copy the scratch folder, and the same
without --only-views there.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.fit.settings import FitSettings
from pipeline.model.autoencoder import Autoencoder, load_autoencoder, new_autoencoder
from pipeline.model.geometry import Geometry
from pipeline.train.joint import JointTrainer
from pipeline.train.schedule import Rates
from pipeline.train.settings import AutoencoderRecipe, JointSettings
from tests.benchmarks.fit_case import VIEW_ARRAYS, CaseObject, FitCase, save_case
from tests.benchmarks.plain_vae import STABLE_DIFFUSION, random_vae

PRESET = "coarse"
"""Whose fit settings are made for latents like these."""
HELDOUT = {"small": 0.2, "paper": 0.1}
_GEOMETRY = Geometry(sigma_scale=10.0)
_RATES = Rates(micro=0.06, coefficients=0.04, base=0.04, renderer=0.005)


@dataclass(frozen=True)
class Size:
    """How large a benchmark is; the planes always have the paper's K = 64 and F = 10 + 22.

    Attributes:
        trained: Objects of the joint training.
        fitted: Objects that bench_fit fits.
        views: Views per object, held-out ones included.
        n_base: M.
        ae_steps, warmup_steps, joint_steps: Of the joint training.
        objects_per_step: In both phases.
    """

    trained: int
    fitted: int
    views: int
    n_base: int
    ae_steps: int
    warmup_steps: int
    joint_steps: int
    objects_per_step: int

    def settings(self, pretrained: bool) -> JointSettings:
        """Of the joint training; rates as in preset default."""
        return JointSettings(
            AutoencoderRecipe(steps=0 if pretrained else self.ae_steps),
            geometry=_GEOMETRY,
            resolution=64,
            f_mic=10,
            f_mac=22,
            n_base=self.n_base,
            dilate=0,
            warmup_steps=self.warmup_steps,
            warmup_objects=self.objects_per_step,
            warmup_pixels=256,
            joint_steps=self.joint_steps,
            joint_objects=self.objects_per_step,
            joint_views=1,
            ae_every=4,
            warmup_rates=_RATES,
            joint_rates=Rates(*(rate / 2 for rate in (0.06, 0.04, 0.04, 0.005)), 1e-3),
        )


SIZES = {
    "small": Size(20, 4, 40, 16, 400, 400, 600, 10),
    "paper": Size(16, 8, 160, 50, 0, 2000, 0, 16),
}


def main() -> None:
    """Writes the file and says on stderr what took how long."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    parser.add_argument("--scratch", type=Path, help="folder for renderings; default: beside the file")
    parser.add_argument("--meshes", help="cars in ShapeNet's layout instead of built-in ones")
    parser.add_argument(
        "--vae", help="size paper: folder or hub id of an AutoencoderKL instead of random parameters"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch, on the CPU")
    parser.add_argument("--only-views", action="store_true", help="stop when views.npz is written")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = SIZES[arguments.size]
    scratch = arguments.scratch or arguments.out.with_suffix("")
    objects = views_of(scratch, size, HELDOUT[arguments.size], arguments.meshes)
    if arguments.only_views:
        return
    autoencoder = load_autoencoder(arguments.vae) if arguments.vae else None
    case = make_case(objects, size, arguments.size, autoencoder, arguments.device)
    save_case(arguments.out, case)
    say(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.0f} MB")


def make_case(
    objects: list[CaseObject], size: Size, name: str, autoencoder: Autoencoder | None, device: str
) -> FitCase:
    """Train on the first objects; the last ones are fitted."""
    pretrained = autoencoder is not None or name == "paper"
    if autoencoder is None and name == "paper":
        autoencoder = Autoencoder(random_vae(STABLE_DIFFUSION, seed=0))
    elif autoencoder is None:
        autoencoder = new_autoencoder("tiny", factor=8, latent_channels=4)
    trained, fitted = objects[: size.trained], objects[size.trained :]
    training = [own.training() for own in trained]
    trainer = JointTrainer(training, autoencoder, size.settings(pretrained), seed=0, device=device)
    began, phase = time.time(), ""
    while trainer.phase != "done":
        if trainer.phase != phase:
            phase = trainer.phase
            say(f"{time.time() - began:6.0f} s: {phase}")
        losses = trainer.step().losses
        if trainer.step_count % 100 == 0:
            say(f"{time.time() - began:6.0f} s: {losses}")
    info = {
        "size": name,
        "trained": len(trained),
        "train_seconds": round(time.time() - began),
        "train_on": f"{device}, {torch.get_num_threads()} threads, {platform.machine()}",
    }
    return FitCase(trainer.shared_components().freeze(), fitted, preset_settings(PRESET), info)


def preset_settings(preset: str) -> FitSettings:
    """Fit settings of a preset; `FitSettings`' own defaults where presets cannot be read (no pydantic)."""
    try:
        from pipeline.config import load_config, read_preset
    except ImportError:
        say(f"preset {preset} cannot be read without pydantic and yaml: FitSettings' defaults are used")
        return FitSettings()
    return load_config(read_preset(preset), {}, (), {}).fit.settings()


def views_of(scratch: Path, size: Size, heldout: float, meshes: str | None) -> list[CaseObject]:
    """Views of all objects, from ``views.npz`` or rendered."""
    kept = scratch / "views.npz"
    if not kept.is_file():
        render(scratch / "views", size, heldout, meshes)
        _keep_views(scratch / "views", kept)
    with np.load(kept) as file:
        arrays = {name: file[name] for name in (*VIEW_ARRAYS, "ids")}
    wanted = size.trained + size.fitted
    if len(arrays["ids"]) < wanted:
        raise ValueError(
            f"{kept} has {len(arrays['ids'])} objects, size needs {wanted}: give another --scratch"
        )
    return [
        CaseObject(str(arrays["ids"][i]), "car", *(arrays[name][i] for name in VIEW_ARRAYS))
        for i in range(wanted)
    ]


def render(root: Path, size: Size, heldout: float, meshes: str | None) -> None:
    """Render with the command line's own stage; does nothing where it was done."""
    source = ["--source", "shapenet", "--path", meshes] if meshes else ["--source", "procedural"]
    command = [sys.executable, "-m", "cli.main", "render", str(root), *source]
    command += [
        "--classes",
        f"car:{size.trained + size.fitted}",
        "--views",
        str(size.views),
        "--resolution",
        "128",
    ]
    command += ["--set", f"render.heldout_fraction={heldout}", "--executor", "local"]
    subprocess.run(command, check=True, stdout=sys.stderr, env=dict(os.environ))


def _keep_views(root: Path, path: Path) -> None:
    from storage.plan import read_plan
    from storage.store import Store
    from storage.views import ViewsStore

    store = Store(str(root))
    views, plan = ViewsStore.open(store), read_plan(store)
    found = [views.read(row) for row in range(len(plan.rows))]
    arrays = {
        name: np.stack([getattr(own, "images" if name == "rgba" else name) for own in found])
        for name in VIEW_ARRAYS
    }
    np.savez_compressed(path, ids=np.array([row.object_id for row in plan.rows]), **arrays)


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()
