"""Fits the failed objects of a shard again, and puts those that fit now into the shard."""

from __future__ import annotations

import secrets
import time
from typing import Any

import torch

from pipeline.fit.job import ShardFitter
from pipeline.fit.resources import ONE_CORE, FitResources
from render_jobs.retry import is_selected
from storage.planes import PlanesStore
from storage.records import NO_VIEWS, Failure, Status
from storage.replacement import Round, redo_objects
from storage.shards import ObjectRecord
from storage.store import Store
from storage.views import ViewsStore


def can_be_fitted(failure: Failure, views_status: int) -> bool:
    """Say whether another fit can end differently: without views it cannot."""
    return failure.kind != NO_VIEWS or views_status == Status.OK


def retry_fit_shard(
    root_url: str,
    fit_name: str,
    shard: int,
    attempt: str,
    token: str,
    generation: int,
    kinds: list[str] | None = None,
    objects: list[str] | None = None,
    resources: FitResources = ONE_CORE,
) -> dict[str, Any]:
    """Fit failed objects of a shard that is done, and replace it if any of them ends otherwise now.

    Objects whose rendering failed are left as they are.

    Args:
        root_url: The dataset.
        fit_name: Name of the fit.
        shard: Shard number of the fit.
        attempt: Names this attempt; a random part is added.
        token: Of the driver's lease.
        generation: Of the open round of replacements.
        kinds: Failure classes to try again, None for all.
        objects: Object ids to try again, None for all.
        resources: What the task computes with.

    Returns:
        shard, n_ok (mended), n_failed (tried in vain), skipped, seconds.

    Raises:
        LeaseLostError: The driver is gone, and somebody else may replace shards.
        IntegrityError, TransientError: See `pipeline.fit.job.fit_shard`.
    """
    torch.set_num_threads(resources.threads)
    started = time.monotonic()
    store = Store(root_url)
    planes, views = PlanesStore.open(store, fit_name), ViewsStore.open(store)

    def is_chosen(record: ObjectRecord) -> bool:
        return (
            record.failure is not None
            and is_selected(record.object_id, record.failure, kinds, objects)
            and can_be_fitted(record.failure, int(views.record(record.row).status))
        )

    with planes.builder(shard, f"{attempt}-{secrets.token_hex(4)}") as builder:

        def work(rows: list[int]) -> dict[str, Any]:
            worker = ShardFitter.of_fit(store, planes, resources)
            worker.add(builder, views, rows)
            return {"seconds": time.monotonic() - started, **worker.circumstances()}

        redone = redo_objects(planes, builder, Round(token, generation), is_chosen, work)
        mended = [record for record in builder.records if record.row in (redone or ()) and not record.failure]
    return {
        "shard": shard,
        "n_ok": len(mended),
        "n_failed": len(redone or ()) - len(mended),
        "skipped": redone is None,
        "seconds": time.monotonic() - started,
    }
