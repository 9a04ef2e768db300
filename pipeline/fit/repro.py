"""Fits one object of a dataset alone and says what happens. Writes no dataset.

The object is fitted as the fit stage does, with the fit's configuration and against the same shared
components, but in a batch of its own: figures may differ from stored ones within 0.05 dB.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline import metrics
from pipeline.fit.job import ShardFitter, UnusableFitError
from pipeline.fit.resources import ONE_CORE, FitResources
from pipeline.fit_views import FitRenderer
from render_jobs.repro import Reproduction, make_folder, planned_object, save_picture
from storage.errors import IntegrityError, ObjectUnavailableError
from storage.planes import PlanesStore
from storage.records import NO_VIEWS, Failure, ObjectFit, ObjectViews
from storage.store import Store
from storage.views import ViewsStore

N_PICTURES = 4


def repro_fit(
    root_url: str,
    fit_name: str | None,
    object_id: str,
    resources: FitResources = ONE_CORE,
    out: Path | None = None,
) -> Reproduction:
    """Fit one object.

    Args:
        root_url: The dataset.
        fit_name: Name of the fit, None for the published one.
        object_id: The object.
        resources: What the fit computes with.
        out: Folder for pictures of held-out views beside the fit's; None for none.

    Raises:
        UsageError: No dataset, no such fit or object.
        EnvironmentProblem: The folder for pictures cannot be written.
    """
    torch.set_num_threads(resources.threads)
    if out is not None:
        make_folder(out)
    store = Store(root_url)
    planes, views = PlanesStore.open(store, fit_name), ViewsStore.open(store)
    row = planned_object(planes.plan, object_id).row
    try:
        own = views.read(row)
    except ObjectUnavailableError as error:
        return Reproduction(Failure(NO_VIEWS, f"there is nothing to fit: {error.reason}"))
    except IntegrityError as error:
        return Reproduction(Failure("damaged_views", str(error)))
    fitter = ShardFitter.of_fit(store, planes, resources)
    (result,) = fitter.fit([(object_id, own)])
    try:
        fit = fitter.measured(fitter.rounded(result), own)
    except UnusableFitError as error:
        curve = "\n".join(f"step {step}: loss {loss:.6g}" for step, loss in result.curve)
        return Reproduction(Failure(result.failure_kind, str(error), curve))
    planes.builder(planes.shard_of(row), "repro").add(row, fit)  # never committed: it checks the values
    info = {"regime": fit.regime, **fit.metrics}
    pictures = [] if out is None else _save(FitRenderer(fitter.shared), fit, own, object_id, out)
    return Reproduction(None, info, pictures)


def _save(
    renderer: FitRenderer, fit: ObjectFit, views: ObjectViews, object_id: str, folder: Path
) -> list[Path]:
    """Write held-out views, each with the fit's rendering to its right."""
    numbers = np.flatnonzero(views.heldout)[:N_PICTURES]
    if not len(numbers):
        return []
    truth = metrics.composite(views.images[numbers])
    rendered = renderer.render(
        fit.micro, fit.coefficients, views.cam2world[numbers], views.intrinsics[numbers]
    )
    pairs = _to_bytes(np.concatenate([truth, rendered], axis=2))
    return [
        save_picture(pair, folder, f"{object_id}-fit-{number:03d}")
        for number, pair in zip(numbers, pairs, strict=True)
    ]


def _to_bytes(rgb: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    pixels: npt.NDArray[np.uint8] = np.rint(255 * np.clip(rgb, 0, 1)).astype(np.uint8)
    return pixels
