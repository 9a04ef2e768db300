"""Held-out PSNR over CPU-seconds per object of three recipes of regime 2; one JSON line and ``fit.png``.

Run: make bench-fit, or python -m tests.benchmarks.bench_fit [--size small|paper] [--out DIR] [--device cuda]
The same views, the same frozen shared components, the same judge (`SharedComponents.render_rgb`,
pipeline.metrics):

- `published`: the paper's regime 2, see `tests.benchmarks.paper_fit`.
- `reference`: the same from a sane start and with Adam's epsilon at 1e-15.
- `ours`: `pipeline.fit.optimise.fit_objects` as the fit stage calls it, with the settings of a preset. Its
  rates depend on the number of steps, so every point of its curve is a fit of its own, with a share of the
  preset's steps. The first point is no step at all: cost of encoding and hulls, quality of the mean object.

Costs are process CPU time, all threads (on a GPU: seconds, synchronised), divided by objects; encoding
counts, evaluation does not. One thread per recipe by default, so that CPU-seconds do not depend on who else
is running, and as many recipes at a time as there are cores. The input is made when it is missing
(tests.benchmarks.fit_fixture) and kept in the output folder; on a machine that has torch and numpy alone,
give one from elsewhere (--fixture).

`target_db` is the better final PSNR of the two baselines. `ours_reach` is what ours needs to reach it,
interpolated in log cost; `ratio_first` compares it with what that baseline needs to reach the target first,
`ratio_whole` with all of its epochs. Ratios are null where ours does not reach the target.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import metrics
from pipeline.fit.optimise import fit_objects
from pipeline.fit.settings import FitSettings
from pipeline.model.shared import SharedComponents
from tests.benchmarks.fit_case import CaseObject, FitCase, load_case
from tests.benchmarks.paper_fit import PaperFit, PaperRecipe

BUDGETS = (0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
RECIPES = {"published": PaperRecipe(), "reference": PaperRecipe(sane=True)}
EVALUATED = (1, 2, 4, 8, 15, 22, 30, 31, 32, 34, 37, 41, 46, 53, 61, 70, 80)
"""Epochs after which a baseline is judged: 30 of latents, then 50 of RGB."""

Curve = list[tuple[float, float]]
"""(cost per object, PSNR in dB)."""


@dataclass(frozen=True)
class Job:
    """One fit that a worker does: a baseline, or ours with a share of the steps."""

    recipe: str
    fixture: str
    device: str
    threads: int
    n_objects: int
    settings: FitSettings
    budget: float = 1.0


class Clock:
    """Cost so far, in seconds; stands while something is judged."""

    def __init__(self, device: str) -> None:
        self._on_gpu = device.startswith("cuda")
        self._spent, self._began = 0.0, self._now()

    def _now(self) -> float:
        if not self._on_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def paused(self, judge: Callable[[], float]) -> tuple[float, float]:
        """Cost until now, and what the judge says."""
        self._spent += self._now() - self._began
        found = judge()
        self._began = self._now()
        return self._spent, found


def measured(job: Job) -> Curve:
    """Curve of a baseline, or one point of ours."""
    torch.set_num_threads(job.threads)
    case = load_case(Path(job.fixture), job.device)
    case = replace(case, objects=case.objects[: job.n_objects])
    _warm_up(case)
    if job.recipe in RECIPES:
        return paper_curve(case, RECIPES[job.recipe], job)
    return [our_point(case, job)]


def paper_curve(case: FitCase, recipe: PaperRecipe, job: Job) -> Curve:
    """All epochs of a baseline."""
    training = [own.training() for own in case.objects]
    clock, curve = Clock(job.device), []
    fit = PaperFit(case.shared, training, recipe)

    def judge() -> float:
        micro = None if fit.micro is None else fit.micro.detach()
        return mean_psnr_db(case.shared, case.objects, micro, fit.coefficients.detach())

    last = recipe.latent_epochs + recipe.rgb_epochs
    for epoch in fit.run():
        if epoch in EVALUATED or epoch == last:
            spent, psnr_db = clock.paused(judge)
            curve.append((spent / len(training), psnr_db))
            say(f"{job.recipe}, epoch {epoch}: {curve[-1][0]:.1f} s, {psnr_db:.2f} dB")
    return curve


def our_point(case: FitCase, job: Job) -> tuple[float, float]:
    """The production path with a share of the steps."""
    s = job.settings
    steps = {name: round(job.budget * getattr(s, name)) for name in ("latent_steps", "rgb_steps")}
    training = [own.training() for own in case.objects]
    clock = Clock(job.device)
    codes = fit_objects(case.shared, training, replace(s, **steps))

    def judge() -> float:
        failed = [code.object_id for code in codes if code.failure is not None]
        if failed:
            raise ValueError(f"fits failed: {', '.join(failed)}")
        has_micro = codes[0].micro is not None
        micro = torch.from_numpy(np.stack([code.micro for code in codes])) if has_micro else None
        coefficients = torch.from_numpy(np.stack([code.coefficients for code in codes]))
        return mean_psnr_db(case.shared, case.objects, micro, coefficients)

    spent, psnr_db = clock.paused(judge)
    cost = spent / len(training)
    say(f"ours, {job.budget:g} of the steps: {cost:.1f} s, {psnr_db:.2f} dB")
    return cost, psnr_db


def _warm_up(case: FitCase) -> None:
    """The first calls load libraries and kernels: no recipe should pay for that."""
    own = case.objects[0].training()
    two = [replace(own, rgba=own.rgba[:2], cam2world=own.cam2world[:2], intrinsics=own.intrinsics[:2])]
    for _ in PaperFit(case.shared, two, PaperRecipe(latent_epochs=1, rgb_epochs=1)).run():
        pass
    fit_objects(case.shared, two, FitSettings(latent_steps=2, rgb_steps=2))


def mean_psnr_db(
    shared: SharedComponents,
    objects: Sequence[CaseObject],
    micro: torch.Tensor | None,
    coefficients: torch.Tensor,
) -> float:
    """Mean over objects of their held-out PSNR, rendered as a stored fit is."""
    device, found = shared.base_planes.device, []
    for i, own in enumerate(objects):
        cameras = (
            torch.from_numpy(values[own.heldout]).to(device) for values in (own.cam2world, own.intrinsics)
        )
        planes = None if micro is None else micro[i].to(device)
        views = shared.render_rgb(planes, coefficients[i].to(device), *cameras)
        found.append(metrics.psnr(_channels_last(views), _truth(own)).mean())
    return float(np.mean(found))


def ceiling_psnr_db(shared: SharedComponents, objects: Sequence[CaseObject]) -> float:
    """Mean over objects of the PSNR of held-out views after the autoencoder alone."""
    device, found = shared.base_planes.device, []
    for own in objects:
        truth = _truth(own)
        views = shared.reconstruct(torch.from_numpy(truth).permute(0, 3, 1, 2).to(device))
        found.append(metrics.psnr(_channels_last(views), truth).mean())
    return float(np.mean(found))


def _truth(own: CaseObject) -> Any:
    return metrics.composite(own.rgba[own.heldout])


def _channels_last(views: torch.Tensor) -> Any:
    return views.permute(0, 2, 3, 1).float().cpu().numpy()


def first_reach(curve: Curve, target_db: float) -> float | None:
    """Cost at which a curve first reaches a PSNR, between its points in log cost; None if it never does."""
    for i, (cost, psnr_db) in enumerate(curve):
        if psnr_db < target_db:
            continue
        if i == 0:
            return cost
        before, low = curve[i - 1]
        part = (target_db - low) / (psnr_db - low)
        return math.exp(math.log(before) + part * (math.log(cost) - math.log(before)))
    return None


def summary(curves: dict[str, Curve]) -> dict[str, Any]:
    """Comparison of ours with the better baseline; see the module's text."""
    final = {name: curve[-1][1] for name, curve in curves.items()}
    found: dict[str, Any] = {
        "final_db": {name: round(value, 2) for name, value in final.items()},
        "best_db": {name: round(max(psnr for _, psnr in curve), 2) for name, curve in curves.items()},
    }
    baselines = [name for name in RECIPES if name in curves]
    if not baselines or "ours" not in curves:
        return found
    better = max(baselines, key=lambda name: final[name])
    target, whole = final[better], curves[better][-1][0]
    reach, first = first_reach(curves["ours"], target), first_reach(curves[better], target)
    assert first is not None, "a curve reaches its own last value"
    return {
        **found,
        "better_baseline": better,
        "target_db": round(target, 2),
        "ours_reach": None if reach is None else round(reach, 2),
        "baseline_first": round(first, 2),
        "baseline_whole": round(whole, 2),
        "ratio_first": None if reach is None else round(first / reach, 2),
        "ratio_whole": None if reach is None else round(whole / reach, 2),
    }


def run_jobs(jobs: Sequence[Job], at_a_time: int) -> dict[str, Curve]:
    """Curves by recipe; ours' points sorted by cost."""
    if at_a_time == 1:
        results = [measured(job) for job in jobs]
    else:
        with ProcessPoolExecutor(at_a_time, multiprocessing.get_context("spawn")) as pool:
            results = list(pool.map(measured, jobs))
    curves: dict[str, Curve] = {}
    for job, curve in zip(jobs, results, strict=True):
        curves.setdefault(job.recipe, []).extend(curve)
    return {name: sorted(curve) if name == "ours" else curve for name, curve in curves.items()}


def draw(result: dict[str, Any], path: Path) -> None:
    """The plot of a result, where Pillow is."""
    try:
        from tests.benchmarks.plot import save_plot
    except ImportError:
        say("no plot without Pillow: run bench_fit --redraw FILE.json where there is one")
        return
    names = {
        "published": "paper's recipe",
        "reference": "… with a sane start",
        "ours": "fpipe",
    }
    curves = {names[name]: curve for name, curve in result["curves"].items()}
    levels = {"autoencoder alone": result["ceiling_db"]}
    save_plot(path, curves, f"{result['unit']} per object", "held-out PSNR, dB", log_x=True, levels=levels)
    say(f"plot: {path}")


def parsed() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=("small", "paper"), default="small")
    parser.add_argument("--out", type=Path, default=Path("bench-fit"), help="folder for everything")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--fixture", type=Path, help="input made elsewhere; its settings are ours' then")
    parser.add_argument(
        "--preset", default="coarse", help="whose fit settings are ours', unless --fixture is given"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=NUMBER", help="fields of FitSettings")
    parser.add_argument("--recipes", nargs="+", choices=(*RECIPES, "ours"), default=[*RECIPES, "ours"])
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS, help="shares of ours' steps")
    parser.add_argument("--objects", type=int, default=32, help="at most so many of the input's objects")
    parser.add_argument("--threads", type=int, default=1, help="of torch, per recipe")
    parser.add_argument("--jobs", type=int, help="recipes at a time; default: the cores, 1 on a GPU")
    parser.add_argument(
        "--redraw", type=Path, metavar="FILE.json", help="draw this result and do nothing else"
    )
    return parser.parse_args()


def main() -> None:
    """Prints one JSON line; writes it and the plot to the output folder."""
    arguments = parsed()
    if arguments.redraw:
        draw(json.loads(arguments.redraw.read_text()), arguments.redraw.with_suffix(".png"))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    fixture = arguments.fixture or arguments.out / f"{arguments.size}.npz"
    if not fixture.is_file():
        _make(fixture, arguments)
    case = load_case(fixture)
    settings = overridden(case.settings if arguments.fixture else _preset(arguments.preset), arguments.set)
    common = (str(fixture), arguments.device, arguments.threads, arguments.objects, settings)
    jobs = [Job(name, *common) for name in arguments.recipes if name != "ours"]
    if "ours" in arguments.recipes:
        jobs += [Job("ours", *common, budget) for budget in sorted(arguments.budgets, reverse=True)]
    cores = len(os.sched_getaffinity(0))
    curves = run_jobs(jobs, arguments.jobs or (1 if arguments.device != "cpu" else min(cores, len(jobs))))
    objects = case.objects[: arguments.objects]
    result = {
        **summary(curves),
        "unit": "CPU-seconds" if arguments.device == "cpu" else "GPU-seconds",
        "ceiling_db": round(ceiling_psnr_db(case.shared, objects), 2),
        "white_db": round(float(np.mean([metrics.white_psnr(_truth(own)).mean() for own in objects])), 2),
        "curves": {name: [(round(x, 3), round(y, 3)) for x, y in curve] for name, curve in curves.items()},
        **conditions(case, objects, arguments),
    }
    (arguments.out / "fit.json").write_text(json.dumps(result) + "\n")
    sys.stdout.write(json.dumps(result) + "\n")
    draw(result, arguments.out / "fit.png")


def conditions(case: FitCase, objects: Sequence[CaseObject], arguments: argparse.Namespace) -> dict[str, Any]:
    """Sizes, machine and versions."""
    shared, on_gpu = case.shared, arguments.device != "cpu"
    n_base, _, f_mac, K, _ = shared.base_planes.shape
    return {
        "sizes": {
            "objects": len(objects),
            "train_views": int((~objects[0].heldout).sum()),
            "heldout_views": int(objects[0].heldout.sum()),
            "px": list(shared.size_px),
            "latent": list(shared.background_latent.shape),
            "K": K,
            "F": [shared.f_mic, f_mac],
            "M": n_base,
        },
        "fixture": case.info,
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
        "threads": arguments.threads,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "load": [round(value, 1) for value in os.getloadavg()],
    }


def overridden(settings: FitSettings, changes: Sequence[str]) -> FitSettings:
    """Settings with some numbers changed.

    Raises:
        ValueError: There is no such number.
    """
    for change in changes:
        name, _, text = change.partition("=")
        old = getattr(settings, name, None)
        if not isinstance(old, (int, float)):
            raise ValueError(f"--set {change}: FitSettings has no number {name!r}")
        settings = replace(settings, **{name: type(old)(text)})
    return settings


def say(text: str) -> None:
    """Talk goes to stderr: stdout is for the JSON line."""
    sys.stderr.write(text + "\n")


def _preset(name: str) -> FitSettings:
    from tests.benchmarks.fit_fixture import preset_settings

    return preset_settings(name)


def _make(fixture: Path, arguments: argparse.Namespace) -> None:
    import subprocess

    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.fit_fixture",
        "--size",
        arguments.size,
        "--out",
        str(fixture),
    ]
    subprocess.run([*command, "--device", arguments.device], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
