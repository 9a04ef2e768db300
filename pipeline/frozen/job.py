"""One block of the comparison, from views to figures; and how long a step of each mode takes."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.fit.config import FitConfig
from pipeline.fit.job import ShardFitter, UnusableFitError
from pipeline.fit.resources import ONE_CORE, FitResources
from pipeline.fit.settings import FitSettings, FittedCode
from pipeline.frozen.blocks import FROZEN, MODES, equal_time_steps, fit_block, step_seconds
from pipeline.frozen.design import BlockJob, Design, half_of_views, jobs_of
from pipeline.model.shared import RegimeOneCodes, SharedComponents, load_shared
from pipeline.train.training_views import TrainingViews
from storage.layout import REPORTS, checked_name
from storage.records import ObjectViews
from storage.store import Store
from storage.views import ViewsStore

_NO_CODES: Final = RegimeOneCodes((), None, np.zeros((0, 0), np.float32))


@dataclass(frozen=True)
class BlockResult:
    """Figures of a block, as stored; NaN for an object that could not be fitted.

    Attributes:
        rows: [n] objects.
        coefficients: [n, M] float32.
        psnr_db: [n] held-out PSNR, with the block's own components.
        ssim: [n] held-out SSIM.
        steps: [n, 2] latent and RGB steps.
        seconds: Per object, on the clock of `FittedBlock.seconds`.
        own_bytes: Of shared components that are the block's alone.
        failures: [n] why an object could not be fitted; empty where it was.
    """

    rows: NDArray[np.int64]
    coefficients: NDArray[np.float32]
    psnr_db: NDArray[np.float64]
    ssim: NDArray[np.float64]
    steps: NDArray[np.int64]
    seconds: float
    own_bytes: int
    failures: NDArray[np.str_]

    def save(self, store: Store, key: str) -> None:
        """Write arrays (npz)."""
        data = io.BytesIO()
        np.savez(data, **{field.name: np.asarray(getattr(self, field.name)) for field in fields(self)})
        store.replace(key, data.getvalue())

    @staticmethod
    def load(store: Store, key: str) -> BlockResult:
        """Read what `save` wrote."""
        with np.load(io.BytesIO(store.read(key)), allow_pickle=False) as found:
            values: dict[str, Any] = {name: found[name] for name in found.files}
        return BlockResult(
            **{**values, "seconds": float(values["seconds"]), "own_bytes": int(values["own_bytes"])}
        )


def folder_key(name: str) -> str:
    """Folder of one comparison's intermediate results."""
    return f"{REPORTS}/{checked_name(name)}"


def result_key(name: str, job: BlockJob) -> str:
    """Key of one block's result."""
    return f"{folder_key(name)}/{job.name}.npz"


def steps_key(name: str) -> str:
    """Key of the steps that each mode takes."""
    return f"{folder_key(name)}/steps.json"


@dataclass(frozen=True)
class _Block:
    """What every task reads first."""

    shared: SharedComponents
    config: FitConfig
    store: Store
    design: Design
    views: dict[str, ObjectViews]

    @staticmethod
    def open(
        root_url: str,
        shared_version: str,
        fit_config: dict[str, Any],
        design: dict[str, Any],
        job: BlockJob,
        resources: FitResources,
    ) -> _Block:
        torch.set_num_threads(resources.threads)
        store = Store(root_url)
        views = ViewsStore.open(store)
        found = {views.plan.rows[row].object_id: views.read(row) for row in job.rows}
        shared = load_shared(store, shared_version, resources.device)
        shared.renderer.kernel = resources.kernel
        return _Block(shared, FitConfig.model_validate(fit_config), store, Design.of_json(design), found)

    def training(self, job: BlockJob) -> list[TrainingViews]:
        """The half of each object's training views that the job sees."""
        halves = []
        for object_id, views in self.views.items():
            own = half_of_views(views.heldout, job.half, object_id, self.design.seed)
            arrays = (views.images[own], views.cam2world[own], views.intrinsics[own])
            halves.append(TrainingViews(object_id, *arrays, views.has_alpha))
        return halves

    def figures(self, fitter: ShardFitter, code: FittedCode) -> tuple[float, float, str]:
        """Held-out PSNR and SSIM as the fit stage measures them, and why there are none."""
        try:
            found = fitter.evaluate(fitter.rounded(code), self.views[code.object_id])
        except UnusableFitError as error:
            return np.nan, np.nan, str(error)
        return found.get("psnr_db", np.nan), found.get("ssim", np.nan), ""


def fit_block_job(
    root_url: str,
    name: str,
    shared_version: str,
    fit_config: dict[str, Any],
    design: dict[str, Any],
    shard: int,
    attempt: str,
    resources: FitResources = ONE_CORE,
) -> dict[str, Any]:
    """Fit one block and store its figures.

    Args:
        root_url: The dataset.
        name: Of the comparison.
        shared_version: Shared components, frozen or where a mode starts from.
        fit_config: Of the fits.
        design: As `Design.to_json` gives it.
        shard: Number of the job.
        attempt: Names this attempt; unused, results are replaced whole.
        resources: What the task computes with.

    Returns:
        n_ok, n_failed, mode, psnr_db, seconds.
    """
    job = jobs_of(Design.of_json(design))[shard]
    work = _Block.open(root_url, shared_version, fit_config, design, job, resources)
    settings = mode_settings(work.store, name, job, work.config.settings())
    seed = work.design.fit_seed(job.half)
    block = fit_block(work.shared, work.training(job), settings, job.mode, seed)
    fitter = ShardFitter(block.shared, _NO_CODES, work.config, resources, len(job.rows), root_url, name)
    figures = [work.figures(fitter, code) for code in block.codes]
    failures = [reason for _, _, reason in figures]
    coefficients = [
        np.full_like(code.coefficients, np.nan) if reason else code.coefficients
        for code, reason in zip(block.codes, failures, strict=True)
    ]
    result = BlockResult(
        rows=np.array(job.rows, np.int64),
        coefficients=np.stack(coefficients),
        psnr_db=np.array([psnr for psnr, _, _ in figures]),
        ssim=np.array([ssim for _, ssim, _ in figures]),
        steps=np.array([code.steps for code in block.codes], np.int64),
        seconds=block.seconds / len(job.rows),
        own_bytes=block.own_bytes,
        failures=np.array(failures, np.str_),
    )
    result.save(work.store, result_key(name, job))
    n_failed = sum(map(bool, failures))
    psnr_db = None if n_failed == len(failures) else float(np.nanmean(result.psnr_db))
    return {
        "n_ok": len(failures) - n_failed,
        "n_failed": n_failed,
        "block": job.name,
        "psnr_db": psnr_db,
        "seconds": block.seconds,
    }


def measure_steps(
    root_url: str,
    name: str,
    shared_version: str,
    fit_config: dict[str, Any],
    design: dict[str, Any],
    resources: FitResources = ONE_CORE,
) -> dict[str, Any]:
    """Measure a step of every mode on the first block, and store how many steps each mode takes.

    Arguments as of `fit_block_job`.

    Returns:
        Mode -> latent_steps, rgb_steps, and seconds of one of each.
    """
    planned = Design.of_json(design)
    job = jobs_of(planned)[0]
    work = _Block.open(root_url, shared_version, fit_config, design, job, resources)
    settings, views = work.config.settings(), work.training(job)
    seconds = {
        mode.name: step_seconds(work.shared, views, settings, mode, planned.fit_seed("a")) for mode in MODES
    }
    found: dict[str, Any] = {}
    for mode, own in seconds.items():
        equal = equal_time_steps(settings, seconds[FROZEN.name], own)
        found[mode] = {"steps": [equal.latent_steps, equal.rgb_steps], "step_seconds": list(own)}
    work.store.replace(steps_key(name), json.dumps(found, indent=1).encode())
    return found


def mode_settings(store: Store, name: str, job: BlockJob, settings: FitSettings) -> FitSettings:
    """Settings of a fit with the steps that were measured to be the job's share."""
    latent_steps, rgb_steps = json.loads(store.read(steps_key(name)))[job.mode.name]["steps"]
    return replace(settings, latent_steps=latent_steps, rgb_steps=rgb_steps)


def load_results(store: Store, name: str, jobs: Sequence[BlockJob]) -> dict[str, BlockResult]:
    """Results of all jobs, by their names."""
    return {job.name: BlockResult.load(store, result_key(name, job)) for job in jobs}
