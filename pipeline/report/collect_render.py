"""Reads the figures of the render section out of a dataset, however large it is.

Counts come from the arrays with one value per object, rates from the runs' events. What only the sidecars
know (times, warnings) is read from all shards of a small dataset and from a seeded sample of a large one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.report.records import StageRun
from pipeline.report.render_records import ClassCount, RenderedObject, RenderFindings, ShardTimes
from pipeline.report.throughput import throughput
from pipeline.run import read_events
from pipeline.sidecars import each_sidecar
from pipeline.warning_kinds import WarningCounter
from storage.plan import Plan
from storage.records import Status
from storage.shards import ObjectRecord, Sidecar
from storage.store import Store
from storage.views import ViewsStore

MAX_SHARDS_READ: Final = 1000


@dataclass(frozen=True)
class _Notes:
    """What one sidecar says beside the arrays."""

    objects: Sequence[tuple[int, str, Mapping[str, Any]]]
    times: ShardTimes


def collect_render(
    store: Store, views: ViewsStore, status: NDArray[np.uint8], runs: Sequence[StageRun], n_bytes: int
) -> RenderFindings:
    """Gather everything that the report says about the render stage.

    Args:
        store: The dataset.
        views: Its views.
        status: `Status` of every row [N].
        runs: Recorded runs of all stages.
        n_bytes: Bytes of the shard files.

    Raises:
        IntegrityError: Stored bytes are damaged.
    """
    header = views.plan.header
    recorded = [
        (run, list(read_events(store, run.stage, run.run_id))) for run in runs if run.stage == "render"
    ]
    objects: list[RenderedObject] = []
    counter, times = WarningCounter(), ShardTimes()
    for notes in each_sidecar(views, _sample(sorted(views.done())), _notes):
        times = _sum(times, notes.times)
        for row, object_id, info in notes.objects:
            objects.append(_rendered(views.plan.rows[row].class_name, info, header.n_views))
            found = info.get("warnings")
            counter.add(object_id, map(str, found) if isinstance(found, list) else ())
    return RenderFindings(
        classes=_classes(views.plan, status),
        n_views=header.n_views,
        size_px=(header.width, header.height),
        n_bytes=n_bytes,
        objects=objects,
        times=times,
        warnings=counter.kinds(),
        n_read=len(objects),
        throughput=throughput(recorded, header.n_views),
    )


def _sample(shards: Sequence[int]) -> Sequence[int]:
    if len(shards) <= MAX_SHARDS_READ:
        return shards
    chosen = np.random.default_rng(0).choice(len(shards), MAX_SHARDS_READ, replace=False)
    return [shards[place] for place in sorted(chosen.tolist())]


def _notes(sidecar: Sidecar) -> _Notes:
    rendered = [record for record in sidecar.objects if record.status == Status.OK]
    times = ShardTimes(
        task_s=_number(sidecar.info, "seconds", 0.0),
        render_s=_number(sidecar.info, "render_s", 0.0),
        load_s=_total(rendered, "load_s"),
        fetch_s=_total(rendered, "fetch_s"),
    )
    return _Notes([(record.row, record.object_id, record.info) for record in rendered], times)


def _total(records: Sequence[ObjectRecord], name: str) -> float:
    return sum(_number(record.info, name, 0.0) for record in records)


def _sum(first: ShardTimes, second: ShardTimes) -> ShardTimes:
    names = [field.name for field in fields(ShardTimes)]
    return ShardTimes(**{name: getattr(first, name) + getattr(second, name) for name in names})


def _rendered(class_name: str, info: Mapping[str, Any], n_views: int) -> RenderedObject:
    return RenderedObject(
        class_name=class_name,
        cpu_ms_per_view=1000 * _number(info, "cpu_s") / n_views,
        render_s=_number(info, "render_s"),
        load_s=_number(info, "load_s"),
        fetch_s=_number(info, "fetch_s"),
        n_faces=_number(info, "n_faces"),
    )


def _number(values: Mapping[str, Any], name: str, missing: float = math.nan) -> float:
    value = values.get(name)
    return float(value) if isinstance(value, int | float) else missing


def _classes(plan: Plan, status: NDArray[np.uint8]) -> list[ClassCount]:
    rows_of: dict[str, list[int]] = {name: [] for name in plan.classes}
    for row in plan.rows:
        rows_of[row.class_name].append(row.row)
    counts = []
    for name, rows in rows_of.items():
        own = status[rows]
        n_ok, n_failed = (int((own == wanted).sum()) for wanted in (Status.OK, Status.FAILED))
        counts.append(ClassCount(name, n_ok, n_failed, len(own)))
    return sorted(counts, key=lambda entry: (-entry.n_planned, entry.class_name))
