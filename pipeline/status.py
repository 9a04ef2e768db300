"""What a dataset holds and how far its stages are, read from the store alone."""

from __future__ import annotations

from itertools import islice
from typing import Any

from pipeline.activity import LiveRun, activity, forget, live_runs
from storage.errors import UsageError
from storage.lease import lease_holder
from storage.plan import Plan, read_plan, shards_with_objects
from storage.planes import PlanesStore, list_fits, published_fit
from storage.records import NO_VIEWS, Status
from storage.shared import list_shared_versions, read_published_shared, read_shared_meta
from storage.store import Store
from storage.summary import failure_rows, status_and_failures
from storage.views import ViewsStore

MAX_FAILURES = 1000
"""Failures listed at most; the counts are complete."""


def dataset_status(store: Store, ended: dict[str, str] | None = None) -> dict[str, Any]:
    """Returns, per stage, the shards and objects done, failed and left, the failures, and the next command.

    Args:
        store: The dataset.
        ended: See `pipeline.activity.live_runs`.

    Raises:
        UsageError: there is no dataset.
    """
    plan = read_plan(store)
    views = _open_views(store)
    stages = {"render": _shards_status(views, plan) if views else _nothing(plan)}
    fits = {name: _shards_status(PlanesStore.open(store, name), plan) for name in list_fits(store)}
    trained = read_published_shared(store)
    holder = lease_holder(store)
    by_name = stages | {f"fit-objects {name}": fit for name, fit in fits.items()}
    ended = {} if ended is None else ended
    runs = live_runs(store, ended=ended)
    doing = activity(runs)
    for name, what in doing.items():
        what["eta_s"] = _eta_s(what, by_name.get(name))
    silent = [run for run in runs if run.is_silent]
    over = [run for run in silent if run.name in by_name and not by_name[run.name]["left"]]
    forget(over, ended)
    return {
        "root": store.url,
        "objects": plan.n_objects,
        "stages": stages,
        "shared_version": trained["shared_version"] if trained else None,
        "fits": fits,
        "changed_by": holder,
        "activity": doing,
        "silent": [_silent(run) for run in silent if run not in over],
        "next": (f"fpipe status {store.url} --watch" if doing else None)
        or (None if holder else _interrupted(store, views, fits))
        or _next_command(store, stages["render"], trained is not None, fits)
        or _refit_command(store, views, fits)
        or f"fpipe report {store.url}",
    }


def _eta_s(what: dict[str, Any], stage: dict[str, Any] | None) -> float | None:
    """Seconds until the stage is done at the pace of the last minutes, 0 where it should be by now.

    None where that is not known yet.
    """
    if not what["per_s"]:
        return None
    left = what["total"] - what["done"]
    if stage is not None and what["unit"] == "objects":  # the stage, not the shards that somebody asked for
        left = stage["objects"] - stage["objects_done"]
    return float(round(max(0.0, left / what["per_s"] - (what["last_s"] or 0.0)), 1))


def _silent(run: LiveRun) -> dict[str, Any]:
    """A run that ended without a word, or is cut off; its shards are done by whoever runs next."""
    values = run.values
    return {
        "stage": run.name,
        "run_id": values["run_id"],
        "host": values["host"],
        "pid": values["pid"],
        "silent_s": round(run.silent_s, 1),
        "dead": run.is_dead,
        "shards": [shard["shard"] for shard in values["running"]],
    }


def _open_views(store: Store) -> ViewsStore | None:
    try:
        return ViewsStore.open(store)
    except (FileNotFoundError, UsageError):
        return None


def _nothing(plan: Plan) -> dict[str, Any]:
    parts = shards_with_objects(plan, plan.header.objects_per_views_shard, plan.n_rows)
    left = [shard for part in parts for shard in part]
    return {
        "shards": len(left),
        "done": 0,
        "left": left,
        "objects": plan.n_objects,
        "objects_done": 0,
        "n_bytes": 0,
        "ok": 0,
        "failed": 0,
        "failures": [],
    }


def _shards_status(data: ViewsStore | PlanesStore, plan: Plan) -> dict[str, Any]:
    shards, done = data.shards(), data.done()
    status, rows_of_kind = status_and_failures(data, done)
    left = [shard for shard in shards if shard not in done]
    kinds = {kind: len(rows) for kind, rows in rows_of_kind.items()}
    failures = islice(data.each_failure(status), MAX_FAILURES)
    return {
        "shards": len(shards),
        "done": len(done),
        "left": left,
        "objects": plan.n_objects,
        "objects_done": max(0, plan.n_objects - sum(data.sizes(left).values())),
        "n_bytes": data.n_bytes(),
        "ok": int((status == Status.OK).sum()),
        "failed": int((status == Status.FAILED).sum()),
        "failure_kinds": kinds,
        "failures": [
            {
                "row": row,
                "object_id": object_id,
                "kind": failure.kind,
                "reason": failure.reason,
                "repro": failure.repro,
            }
            for row, object_id, failure in failures
        ],
    }


def _interrupted(store: Store, views: ViewsStore | None, fits: dict[str, Any]) -> str | None:
    """Returns the command that goes on with a retry or refinement killed while it replaced shards."""
    if views is not None and (journal := views.journal()).open:
        return journal.command or f"fpipe retry {store.url}"
    for name in fits:
        if (journal := PlanesStore.open(store, name).journal()).open:
            return journal.command or f"fpipe retry {store.url} --stage fit --name {name}"
    return None


def _refit_command(store: Store, views: ViewsStore | None, fits: dict[str, Any]) -> str | None:
    """Returns the command that fits objects which had no views when they were to be fitted, and have now."""
    for name, fit in fits.items():
        if views is None or NO_VIEWS not in fit["failure_kinds"]:
            continue
        rendered = views.status() == Status.OK
        waiting = failure_rows(PlanesStore.open(store, name)).get(NO_VIEWS)
        if waiting is not None and rendered[waiting].any():
            return f"fpipe retry {store.url} --stage fit --name {name}"
    return None


def _next_command(store: Store, render: dict[str, Any], trained: bool, fits: dict[str, Any]) -> str | None:
    if render["left"]:
        return f"fpipe render {store.url}"
    if not render["ok"]:
        return f"fpipe failures {store.url}"
    if not trained:
        return f"fpipe train-shared {store.url}"
    if not fits:
        return f"fpipe fit-objects {store.url}"
    for name, fit in fits.items():
        if fit["left"]:
            return f"fpipe fit-objects {store.url} --name {name}"
    return None


def dataset_info(store: Store) -> dict[str, Any]:
    """Returns what a dataset is made of: plan, classes, shared components, fits and their sizes.

    Raises:
        UsageError: there is no dataset.
    """
    plan = read_plan(store)
    header = plan.header
    try:
        published: str | None = published_fit(store)
    except UsageError:
        published = None
    return {
        "root": store.url,
        "schema_version": header.schema_version,
        "objects": plan.n_objects,
        "classes": plan.rows.class_counts(),
        "views": header.n_views,
        "size_px": [header.height, header.width],
        "heldout_fraction": header.heldout_fraction,
        "source": header.source,
        "created": header.created,
        "appended": [
            {
                "objects": addition.block.n_objects,
                "first_row": addition.block.start,
                "source": addition.source,
                "created": addition.created,
            }
            for addition in plan.additions[1:]
        ],
        "shared": {version: _shared_summary(store, version) for version in list_shared_versions(store)},
        "fits": {name: _fit_summary(store, name) for name in list_fits(store)},
        "published_fit": published,
    }


def _shared_summary(store: Store, version: str) -> dict[str, Any]:
    meta = read_shared_meta(store, version)
    names = (
        "plane_resolution",
        "plane_order",
        "f_mic",
        "f_mac",
        "n_base",
        "latent_shape",
        "factor",
        "box_half",
        "near",
        "far",
        "n_regime1",
    )
    return {name: meta[name] for name in names if name in meta}


def _fit_summary(store: Store, name: str) -> dict[str, Any]:
    planes = PlanesStore.open(store, name)
    header = planes.header
    return {
        "shared_version": header.shared_version,
        "planes": [3, header.f_mic, header.resolution, header.resolution],
        "coefficients": header.n_base,
        "dtype": header.dtype,
        "objects_per_shard": header.objects_per_shard,
        "shards_done": len(planes.done()),
        "shards": len(planes.shards()),
        "micro_bytes_per_object": header.object_bytes[0],
    }
