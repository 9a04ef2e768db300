"""Fits the objects of a shard further, from their stored codes, and replaces the shard.

An object whose error on its judged training views (see `pipeline.fit.judge`) does not fall keeps its code,
byte for byte. What was tried is noted either way: in the info of the object, and in that of the shard, one
entry per refinement (see `pipeline.refinements`). Objects that have no fit are left to a retry.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from pipeline.fit.codes import InitCode
from pipeline.fit.config import FitConfig
from pipeline.fit.draws import object_key
from pipeline.fit.job import ShardFitter, UnusableFitError
from pipeline.fit.judge import training_error
from pipeline.fit.resources import ONE_CORE, FitResources
from pipeline.fit.settings import FittedCode
from pipeline.fit_views import FitRenderer
from pipeline.refinements import RefinementNote, refinements, with_object_refinement, with_refinement
from storage.documents import content_hash
from storage.errors import IntegrityError, ObjectUnavailableError
from storage.planes import PlanesShardBuilder, PlanesStore
from storage.records import ObjectFit, ObjectViews, Status
from storage.replacement import Round, rework_shard
from storage.shards import ShardFile
from storage.store import Store
from storage.views import ViewsStore

LOGGER = logging.getLogger(__name__)


def refine_shard(
    root_url: str,
    fit_name: str,
    shard: int,
    attempt: str,
    token: str,
    generation: int,
    fit_config: dict[str, Any],
    resources: FitResources = ONE_CORE,
) -> dict[str, Any]:
    """Fit the objects of a shard further and replace it.

    Args:
        root_url: The dataset.
        fit_name: Name of the fit.
        shard: Shard number of the fit; it is done.
        attempt: Names this attempt; a random part is added.
        token: Of the driver's lease.
        generation: Of the open round of replacements.
        fit_config: Of this refinement.
        resources: What the task computes with.

    Returns:
        shard, n_ok (fitted further, whether better or not), n_failed (could not be), skipped, seconds.

    Raises:
        LeaseLostError: The driver is gone, and somebody else may replace shards.
        IntegrityError, TransientError: See `pipeline.fit.job.fit_shard`.
    """
    torch.set_num_threads(resources.threads)
    started = time.monotonic()
    store = Store(root_url)
    planes, views = PlanesStore.open(store, fit_name), ViewsStore.open(store)
    tried: list[dict[str, Any]] = []

    with planes.builder(shard, f"{attempt}-{secrets.token_hex(4)}") as builder:

        def work(old: ShardFile) -> dict[str, Any]:
            config = FitConfig.model_validate(fit_config)
            fitter = ShardFitter.of_fit(store, planes, resources, config)
            tried.extend(ShardRefiner(fitter, planes, views, builder).run(old))
            seconds = time.monotonic() - started
            note = RefinementNote(fit_config, content_hash(fit_config), seconds, fitter.circumstances())
            return with_refinement(old.tail.sidecar, note)

        skipped = not rework_shard(planes, builder, Round(token, generation), work)
    n_failed = sum("failure" in note for note in tried)
    return {
        "shard": shard,
        "n_ok": len(tried) - n_failed,
        "n_failed": n_failed,
        "skipped": skipped,
        "seconds": time.monotonic() - started,
    }


class ShardRefiner:
    """Fits the objects of one shard further.

    Args:
        fitter: With the configuration of this refinement.
        planes: The fit.
        views: Views of the objects.
        builder: Holds the present results; gets the better ones.
    """

    def __init__(
        self, fitter: ShardFitter, planes: PlanesStore, views: ViewsStore, builder: PlanesShardBuilder
    ) -> None:
        self._fitter, self._planes, self._views, self._builder = fitter, planes, views, builder
        self._renderer = FitRenderer(fitter.shared)
        self._infos: dict[int, dict[str, Any]] = {}
        self._open: dict[str, tuple[int, ObjectFit, ObjectViews]] = {}

    def run(self, old: ShardFile) -> list[dict[str, Any]]:
        """Refine all objects of the shard's present file that have a fit; return what was noted of each."""
        sidecar = old.tail.sidecar
        chosen = [record for record in sidecar.objects if record.status == Status.OK]
        self._infos = {record.row: record.info for record in chosen}
        notes: list[dict[str, Any]] = []

        def usable() -> Iterator[tuple[str, ObjectViews]]:
            for record in chosen:
                try:
                    found = self._views.read(record.row)
                    if found.heldout.all():
                        raise ObjectUnavailableError(f"{record.object_id}: all views are held out")
                    self._open[record.object_id] = record.row, self._planes.read(record.row), found
                except (ObjectUnavailableError, IntegrityError) as error:
                    LOGGER.warning("%s: cannot be fitted further: %s", record.object_id, error)
                    notes.append(self._note(record.row, {"failure": str(error)}))
                    continue
                yield record.object_id, found

        # With the first fit's seed it would draw that fit's pixels and views again, in the same order.
        seed = object_key("refinement", self._fitter.config.seed, len(refinements(sidecar)) + 1)
        for result in self._fitter.fit(usable(), self._start, seed):
            notes.append(self._take(result))
        return notes

    def _start(self, object_id: str) -> InitCode:
        _, fit, _ = self._open[object_id]
        micro = None if fit.micro is None else fit.micro.astype(np.float32)
        return micro, fit.coefficients

    def _take(self, result: FittedCode) -> dict[str, Any]:
        """Put the new code of an object in the place of the old one if it is better; note what happened."""
        row, old, views = self._open.pop(result.object_id)
        note: dict[str, Any] = {
            "seconds": result.seconds,
            "cpu_seconds": result.cpu_seconds,
            "steps": list(result.steps),
            "curve": [[step, loss] for step, loss in result.curve],
        }
        before = training_error(self._renderer, old, views, result.object_id)
        try:
            new = self._fitter.rounded(result)
            after = training_error(self._renderer, new, views, result.object_id)
            note["training_mse"] = [before, after]
            if not after < before:  # nor where either is NaN
                return self._note(row, note | {"improved": False, "psnr_db": [_psnr(old), _psnr(old)]})
            new = self._fitter.measured(new, views)
        except UnusableFitError as error:
            LOGGER.warning("%s: keeps its fit: %s", result.object_id, error)
            return self._note(row, note | {"failure": str(error)})
        self._builder.reopen(row)
        self._builder.add(row, new)
        return self._note(row, note | {"improved": True, "psnr_db": [_psnr(old), _psnr(new)]})

    def _note(self, row: int, note: dict[str, Any]) -> dict[str, Any]:
        self._builder.note(row, with_object_refinement(self._infos[row], note))
        return note


def _psnr(fit: ObjectFit) -> float | None:
    """Held-out PSNR; None without held-out views."""
    value = fit.metrics.get("psnr_db", math.nan)
    return value if math.isfinite(value) else None
