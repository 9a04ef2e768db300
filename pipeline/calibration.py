"""Does a little of every stage for real on a few objects of the source, in a scratch folder, and times it.

The tasks run on the configured executor, as many at a time as this machine has cores: cores that are all busy
are slower than one alone. A step of the joint training costs the same for 3 objects as for 500, because it
always sees a batch of the same size. Limits: seconds are of this machine with this load, processor seconds of
this machine; learning is measured on its processor; the shared components of the fits have learned for a few
steps only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.calibration_fit import FitBytes, measure_fit
from pipeline.calibration_render import RenderBytes, measure_render
from pipeline.calibration_training import measure_training
from pipeline.compute import ComputeSession, usable_cores
from pipeline.config import PipelineConfig
from pipeline.forecast_costs import Cost
from pipeline.scratch import scratch_folder
from render_jobs.sources.base import ObjectEntry
from storage.records import Status
from storage.store import Store
from storage.views import ViewsStore


@dataclass(frozen=True)
class Measured:
    """What was measured, or what earlier runs say.

    Attributes:
        basis: what the figures come from, and what their range is.
        views_bytes: stored bytes per object.
        pass_bytes: name of a pass → stored bytes per object.
        planes: stored bytes of fits; None where nothing could be fitted.
        shared_bytes: stored bytes of the shared components, as far as renderings need them.
        render: of the render stage.
        train: of the whole training, as of one object.
        fit: of the fit stage with the evaluation of its objects.
        knows_gpus: learning was measured on the GPUs that the configuration asks for.
    """

    basis: str
    views_bytes: int
    pass_bytes: Mapping[str, int]
    planes: FitBytes | None
    shared_bytes: int
    render: Cost | None
    train: Cost | None
    fit: Cost | None
    knows_gpus: bool = False


def calibrated(config: PipelineConfig, entries: list[ObjectEntry], fits_per_shard: int) -> Measured:
    """Renders a few objects into a scratch dataset, then times a few steps of learning on them, and fits.

    Args:
        config: resolved configuration, with what the input decides.
        entries: objects of the source.
        fits_per_shard: objects of one task of the fit stage.

    Raises:
        FpipeError: An object cannot be rendered or fitted for a reason that is not the object's.
    """
    began = time.monotonic()
    at_a_time = min(config.compute.workers or usable_cores(), usable_cores())
    here = config.compute.model_copy(update={"ray_address": None, "workers": at_a_time})
    with scratch_folder() as scratch, ComputeSession(here) as session:
        store = Store(scratch.folder / "calibration")
        executor = session.executor
        # A process that computes is started once per task by the local executor, and else once per command.
        once_s = time.monotonic() - began
        render, sizes = measure_render(store, config, entries, executor)
        if not any(status == Status.OK for status in ViewsStore.open(store).status()):
            return Measured(_basis(began, sizes, ""), *_bytes(sizes), None, 0, render, None, None)
        learned = measure_training(store, config, len(entries))
        fit, planes, steps = measure_fit(store, config, learned, executor, at_a_time, fits_per_shard)
        if here.executor == "local":
            train = replace(learned.cost, task_s=fit.task_s)
        else:
            render, train, fit = (replace(c, start_s=c.start_s + once_s) for c in (render, learned.cost, fit))
    return Measured(
        _basis(began, sizes, steps), *_bytes(sizes), planes, learned.shared_bytes, render, train, fit
    )


def _bytes(sizes: RenderBytes) -> tuple[int, Mapping[str, int]]:
    return sizes.views, sizes.passes


def _basis(began: float, sizes: RenderBytes, steps: str) -> str:
    return (
        f"measured here on {sizes.n_objects} objects in {time.monotonic() - began:.0f} s: low and high as if"
        f" every object, or step, cost as the cheapest and the dearest of them{steps}"
    )
