"""Renders the failed objects of a shard again, and puts those that render now into the shard."""

from __future__ import annotations

import logging
import secrets
import socket
import time
from collections.abc import Collection
from typing import Any

from render_jobs.config import ExecutionLimits
from render_jobs.job import ObjectRenderer
from render_jobs.outputs import ShardOutputs
from render_jobs.worker import BlenderWorker
from storage.records import Failure
from storage.replacement import Round, redo_objects
from storage.shards import ObjectRecord
from storage.store import Store
from storage.views import ViewsStore

LOGGER = logging.getLogger(__name__)


def is_selected(
    object_id: str,
    failure: Failure | None,
    kinds: Collection[str] | None = None,
    objects: Collection[str] | None = None,
) -> bool:
    """Says whether an object failed, in one of these ways and as one of these objects; None takes all."""
    if failure is None:
        return False
    return (kinds is None or failure.kind in kinds) and (objects is None or object_id in objects)


def retry_shard(
    root_url: str,
    shard: int,
    attempt: str,
    token: str,
    generation: int,
    kinds: list[str] | None = None,
    objects: list[str] | None = None,
    limits: dict[str, Any] | None = None,
    pass_generations: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Renders failed objects of a shard that is done, and replaces it if any of them ends otherwise now.

    Args:
        root_url: The dataset.
        shard: Shard number of `views.zarr`.
        attempt: Names this attempt; a random part is added.
        token: Of the driver's lease.
        generation: Of the open round of replacements.
        kinds: Failure classes to try again, None for all.
        objects: Object ids to try again, None for all.
        limits: Values of `ExecutionLimits`.
        pass_generations: Pass → generation of the round that is open for it.

    Returns:
        shard, n_ok (mended), n_failed (tried in vain), skipped, seconds.

    Raises:
        LeaseLostError: The driver is gone, and somebody else may replace shards.
        EnvironmentProblem, TransientError: See `render_jobs.job.render_shard`.
    """
    started = time.monotonic()
    views = ViewsStore.open(Store(root_url))
    first = views.object_rows(shard)[0]
    renderer = ObjectRenderer.of_plan(root_url, views.plan, first)  # no cache: it may hold what was broken

    def is_chosen(record: ObjectRecord) -> bool:
        return is_selected(record.object_id, record.failure, kinds, objects)

    with ShardOutputs(views, shard, f"{attempt}-{secrets.token_hex(4)}") as outputs:

        def work(rows: list[int]) -> dict[str, Any]:
            outputs.reopen_passes(rows)
            with BlenderWorker(ExecutionLimits(**(limits or {}))) as worker:
                render_s = sum(renderer.add(outputs, worker, views.plan.rows[row]) for row in rows)
            if _mended(outputs, rows):
                outputs.replace_passes(token, pass_generations or {})
            seconds = time.monotonic() - started
            return {"seconds": seconds, "render_s": render_s, "host": socket.gethostname()}

        redone = redo_objects(views, outputs.views, Round(token, generation), is_chosen, work)
        n_mended = _mended(outputs, redone or [])
    return {
        "shard": shard,
        "n_ok": n_mended,
        "n_failed": len(redone or ()) - n_mended,
        "skipped": redone is None,
        "seconds": time.monotonic() - started,
    }


def _mended(outputs: ShardOutputs, rows: Collection[int]) -> int:
    """Counts the rows that have a result now."""
    return sum(record.row in rows and record.failure is None for record in outputs.views.records)
