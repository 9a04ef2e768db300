"""Reads the figures of a report out of a data set; what was not recorded is left out, never invented."""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np

from pipeline.evaluate import summarise
from pipeline.report.curves import training_curves
from pipeline.report.records import FailedObject, Findings, ObjectRecord, StageRun, StoredPart
from storage.errors import FpipeError
from storage.layout import run_folder, shared_key
from storage.plan import Plan
from storage.planes import PlanesStore
from storage.records import Failure, Status
from storage.sharded import ShardedStore
from storage.shared import read_shared_meta
from storage.store import Store
from storage.views import ViewsStore

LOGGER = logging.getLogger(__name__)
_RUNS_PER_STAGE: Final = 200
_SIZE_REQUESTS: Final = 16  # at a time, for stores where every size is a request


def collect(store: Store, views: ViewsStore, planes: PlanesStore) -> Findings:
    """Gather everything that a report says about one fit.

    Args:
        store: The data set.
        views: Its views.
        planes: The fit.

    Returns:
        The findings.

    Raises:
        IntegrityError: A stored document or array is damaged.
    """
    plan, header = planes.plan, planes.header
    regime = np.where(planes.status() == Status.OK, planes.regime(), 0)
    provenance = {"fit": header.name, "shared_version": header.shared_version}
    meta = _shared_meta(store, header.shared_version)
    objects = _objects(plan, planes, regime)
    return Findings(
        title=store.url.rstrip("/").rpartition("/")[2] or store.url,
        url=store.url,
        fit_name=header.name,
        shared_version=header.shared_version,
        created=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        summary=summarise(planes.metrics(), regime, provenance),
        objects=objects,
        failures=_failures(plan, views, planes),
        runs=read_runs(store),
        curves=training_curves(meta),
        parts=_parts(store, views, planes, len(objects)),
        facts=_facts(plan, planes),
        shared_meta=meta,
        fit_config=header.fit_config,
        n_planned=plan.header.n_objects,
    )


def read_runs(store: Store) -> list[StageRun]:
    """Every recorded run, by stage, oldest first; a folder without a readable run.json is passed over."""
    runs = []
    for stage in store.list("runs"):
        for name in store.list(f"runs/{stage}")[-_RUNS_PER_STAGE:]:
            try:
                record = json.loads(store.read(f"{run_folder(stage, name)}/run.json"))
            except FileNotFoundError:
                continue  # checkpoints live here, too
            except ValueError as error:
                LOGGER.warning(
                    "runs/%s/%s/run.json cannot be read (%s) and is left out of the report",
                    stage,
                    name,
                    error,
                )
                continue
            if isinstance(record, dict):
                runs.append(_run(stage, name, record))
    return sorted(runs, key=lambda run: (run.stage, run.started, run.run_id))


def _run(stage: str, name: str, record: Mapping[str, Any]) -> StageRun:
    def mapping(key: str) -> Mapping[str, Any]:
        value = record.get(key)
        return value if isinstance(value, Mapping) else {}

    seconds = record.get("seconds")
    return StageRun(
        stage=stage,
        run_id=name,
        started=str(record.get("started") or ""),
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        git_revision=str(record.get("git_revision") or ""),
        config=mapping("config"),
        versions={key: value for key, value in mapping("versions").items() if value},
        hardware=mapping("hardware"),
        summary=mapping("summary"),
    )


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


def _failures(plan: Plan, views: ViewsStore, planes: PlanesStore) -> list[FailedObject]:
    """Failures of both stages; an object without views is named once, with the reason of the rendering."""
    found: dict[int, FailedObject] = {}
    for stage, group in (("render", views), ("fit-objects", planes)):
        for row, object_id, failure in group.failures():
            found.setdefault(row, _failed(stage, object_id, plan.rows[row].class_name, failure))
    return [found[row] for row in sorted(found)]


def _failed(stage: str, object_id: str, class_name: str, failure: Failure) -> FailedObject:
    return FailedObject(stage, object_id, class_name, failure.kind, failure.reason, failure.repro)


def _parts(store: Store, views: ViewsStore, planes: PlanesStore, n_fits: int) -> list[StoredPart]:
    n_rendered = int((views.status() == Status.OK).sum())
    header = planes.header
    kind = f"planes, {header.dtype}" if header.f_mic else "planes, coefficients alone"
    shared = list(_files(store, shared_key(header.shared_version)))
    return [
        StoredPart("views, RGBA", _shard_bytes(store, views), n_rendered),
        StoredPart(kind, _shard_bytes(store, planes), n_fits),
        StoredPart("shared components", _bytes(store, shared), n_fits),
    ]


def _shard_bytes(store: Store, group: ShardedStore) -> int:
    return _bytes(store, [group.spec.shard_key(shard) for shard in sorted(group.done())])


def _bytes(store: Store, keys: list[str]) -> int:
    with ThreadPoolExecutor(_SIZE_REQUESTS) as pool:
        return sum(pool.map(store.size, keys))


def _files(store: Store, prefix: str) -> Iterator[str]:
    """Every key below a prefix."""
    for name in store.list(prefix):
        key = f"{prefix}/{name}"
        if store.exists(key):
            yield key
        else:
            yield from _files(store, key)


def _facts(plan: Plan, planes: PlanesStore) -> dict[str, Any]:
    header, fit = plan.header, planes.header
    source = header.source.get("kind") or header.source.get("name") or ""
    return {
        "data set": planes.store.url,
        "source": source,
        "objects planned": header.n_objects,
        "classes": ", ".join(plan.classes),
        "views per object": f"{header.n_views} of {header.width} × {header.height} pixels",
        "held out": f"{header.heldout_fraction:.0%} of the views of every object, seed {header.seed}",
        "fit": fit.name,
        "fit config": fit.fit_config_hash,
        "shared version": fit.shared_version,
        "render config": header.render_config_hash,
        "planes per object": f"3 × {fit.f_mic} × {fit.resolution} × {fit.resolution} micro, {fit.n_base} "
        "coefficients",
    }
