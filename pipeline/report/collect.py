"""Reads the figures of a report out of a dataset; what was not recorded is left out, never invented."""

from __future__ import annotations

import datetime
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate import summarise
from pipeline.flags import fit_flags
from pipeline.refinements import refinements, times_text
from pipeline.report.collect_render import collect_render
from pipeline.report.curves import recorded_losses, training_curves
from pipeline.report.failures import collect_failures
from pipeline.report.forecasts import compared
from pipeline.report.records import Findings, ObjectRecord, StoredPart
from pipeline.report.run_records import read_runs
from pipeline.report.training_gallery import monitor_record
from pipeline.report.wording import plural
from pipeline.sidecars import REQUESTS, each_sidecar
from storage.errors import FpipeError
from storage.layout import shared_key
from storage.passes import PassStore, stored_passes
from storage.plan import Plan
from storage.planes import PlanesStore
from storage.records import Status
from storage.sharded import ShardedStore
from storage.shared import read_published_shared, read_shared_meta
from storage.store import Store
from storage.views import ViewsStore

LOGGER = logging.getLogger(__name__)

Statuses = NDArray[np.uint8]


def collect(store: Store, views: ViewsStore, status: Statuses, planes: PlanesStore | None) -> Findings:
    """Gather everything that a report says.

    Args:
        store: The dataset.
        views: Its views.
        status: `Status` of every row of the views [N].
        planes: The fit to report on; None where there is none yet.

    Returns:
        The findings; those of a fit are empty without one.

    Raises:
        IntegrityError: A stored document or array is damaged.
    """
    runs = read_runs(store)
    n_bytes = _shard_bytes(store, views)
    shared_version = planes.header.shared_version if planes else _published_version(store)
    meta = _shared_meta(store, shared_version) if shared_version else {}
    findings = Findings(
        title=store.url.rstrip("/").rpartition("/")[2] or store.url,
        url=store.url,
        created=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        render=collect_render(store, views, status, runs, n_bytes),
        failures=collect_failures(views, status, planes),
        runs=runs,
        forecasts=compared(store),
        parts=[
            StoredPart("views, RGBA", n_bytes, int((status == Status.OK).sum())),
            *_pass_parts(store),
        ],
        facts=_facts(store.url, views.plan),
        shared_version=shared_version,
        shared_meta=meta,
        curves=training_curves(recorded_losses(store, meta), _resumed(store, meta)),
    )
    return _with_fit(findings, store, planes) if planes else findings


def _resumed(store: Store, meta: Mapping[str, Any]) -> list[float]:
    steps = monitor_record(store, meta).get("resumed_at") or []
    return [float(step) for step in steps if isinstance(step, int | float)]


def _with_fit(findings: Findings, store: Store, planes: PlanesStore) -> Findings:
    header = planes.header
    regime = np.where(planes.status() == Status.OK, planes.regime(), 0)
    provenance = {"fit": header.name, "shared_version": header.shared_version}
    objects = _objects(planes.plan, planes, regime)
    return replace(
        findings,
        fit_name=header.name,
        fit_config=header.fit_config,
        objects=objects,
        flags=fit_flags(planes, planes.metrics()["psnr_db"], regime),
        summary=summarise(planes.metrics(), regime, provenance),
        parts=[*findings.parts, *_fit_parts(store, planes, len(objects))],
        facts={**findings.facts, **_fit_facts(planes)},
    )


def _published_version(store: Store) -> str:
    found = read_published_shared(store)
    return str(found["shared_version"]) if found else ""


def _shared_meta(store: Store, shared_version: str) -> dict[str, Any]:
    try:
        return read_shared_meta(store, shared_version)
    except FpipeError as error:
        LOGGER.warning("the report goes without facts on the shared components: %s", error)
        return {}


def _objects(plan: Plan, planes: PlanesStore, regime: np.ndarray[Any, Any]) -> list[ObjectRecord]:
    figures = planes.metrics()
    records = []
    for row in np.flatnonzero(regime).tolist():
        own = {name: float(values[row]) for name, values in figures.items()}
        named = plan.rows[row]
        records.append(ObjectRecord(row, named.object_id, named.class_name, int(regime[row]), own))
    return records


def _fit_parts(store: Store, planes: PlanesStore, n_fits: int) -> list[StoredPart]:
    header = planes.header
    kind = f"planes, {header.dtype}" if header.f_mic else "planes, coefficients alone"
    shared = list(_files(store, shared_key(header.shared_version)))
    return [
        StoredPart(kind, _shard_bytes(store, planes), n_fits),
        StoredPart("shared components", _bytes(store, shared), n_fits),
    ]


def _pass_parts(store: Store) -> list[StoredPart]:
    stores = {name: PassStore.open(store, name) for name in stored_passes(store)}
    return [
        StoredPart(f"views, {name}", _shard_bytes(store, passes), int((passes.status() == Status.OK).sum()))
        for name, passes in stores.items()
    ]


def _shard_bytes(store: Store, group: ShardedStore) -> int:
    return _bytes(store, [group.spec.shard_key(shard) for shard in sorted(group.done())])


def _bytes(store: Store, keys: list[str]) -> int:
    with ThreadPoolExecutor(REQUESTS) as pool:
        return sum(pool.map(store.size, keys))


def _files(store: Store, prefix: str) -> Iterator[str]:
    """Every key below a prefix."""
    for name in store.list(prefix):
        key = f"{prefix}/{name}"
        if store.exists(key):
            yield key
        else:
            yield from _files(store, key)


def _facts(url: str, plan: Plan) -> dict[str, Any]:
    header = plan.header
    return {
        "dataset": url,
        "source": ", ".join(str(source.get("kind") or source.get("name") or "") for source in plan.sources),
        "objects planned": plan.n_objects,
        "classes": ", ".join(plan.classes),
        "views per object": f"{header.n_views} of {header.width} × {header.height} pixels",
        "held out": f"{header.heldout_fraction:.0%} of the views of every object, seed {header.seed}",
        "render config": header.render_config_hash,
    }


def _refined(planes: PlanesStore) -> dict[str, str]:
    """How often which part of a fit was refined; nothing where it never was."""
    shards = sorted(planes.done())
    times = Counter(each_sidecar(planes, shards, lambda sidecar: len(refinements(sidecar))))
    if not any(times):
        return {}
    parts = [
        f"{times_text(n) if n else 'never'}: {plural(times[n], 'shard')}" for n in sorted(times, reverse=True)
    ]
    return {"refined": "; ".join(parts)}


def _fit_facts(planes: PlanesStore) -> dict[str, Any]:
    fit = planes.header
    micro = f"3 × {fit.f_mic} × {fit.resolution} × {fit.resolution} micro"
    return {
        "fit": fit.name,
        "fit config": fit.fit_config_hash,
        **_refined(planes),
        "shared version": fit.shared_version,
        "planes per object": f"{micro}, {fit.n_base} coefficients",
    }
