"""What a report shows of fits that deserve a look: two held-out views, and the losses of the fit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from pipeline import metrics
from pipeline.flags import KINDS, NOT_CONVERGED, convergence
from pipeline.report.images import to_picture
from pipeline.report.records import Curve, Findings, FlaggedObject, FlaggedView, ObjectRecord
from storage.planes import PlanesStore
from storage.views import ViewsStore

if TYPE_CHECKING:
    from pipeline.fit_views import FitRenderer

SHOWN: Final = 12
"""Flagged objects with pictures: the worst of either kind by turns."""


def read_flagged(
    findings: Findings, views: ViewsStore, planes: PlanesStore, renderer: FitRenderer
) -> list[FlaggedObject]:
    """Pictures and losses of the worst flagged objects, those far below their class first."""
    records = {record.row: record for record in findings.objects}
    return [_flagged(findings, records[row], views, planes, renderer) for row in _chosen(findings)]


def _chosen(findings: Findings) -> list[int]:
    """At most `SHOWN` rows, in the flags' order; room that one kind leaves is the other's."""
    of_kind = [[flag.row for flag in findings.flags if flag.kind == kind] for kind in KINDS]
    turns = [rows[place] for place in range(SHOWN) for rows in of_kind if place < len(rows)]
    kept = list(dict.fromkeys(turns))[:SHOWN]
    return [row for row in dict.fromkeys(flag.row for flag in findings.flags) if row in kept]


def _flagged(
    findings: Findings, record: ObjectRecord, views: ViewsStore, planes: PlanesStore, renderer: FitRenderer
) -> FlaggedObject:
    flags = [flag for flag in findings.flags if flag.row == record.row]
    return FlaggedObject(
        record,
        [flag.kind for flag in flags],
        flags[0].class_median_db,
        next((flag.by_db for flag in flags if flag.kind == NOT_CONVERGED), math.nan),
        planes.shard_of(record.row),
        _views(record, views, planes, renderer),
        _curves(planes, record.row),
    )


def _views(
    record: ObjectRecord, views: ViewsStore, planes: PlanesStore, renderer: FitRenderer
) -> list[FlaggedView]:
    """The held-out view of least PSNR, and the one in the middle of the others."""
    numbers = np.flatnonzero(views.values(record.row)["heldout"])
    if not len(numbers):
        return []
    own, fit = views.read_views(record.row, numbers), planes.read(record.row)
    truth = metrics.composite(own.images)
    render = renderer.render(fit.micro, fit.coefficients, own.cam2world, own.intrinsics)
    psnr = metrics.psnr(render, truth)
    worst, *others = np.argsort(psnr, kind="stable").tolist()
    chosen = [worst, *others[len(others) // 2 :][:1]]
    return [
        FlaggedView(int(numbers[i]), float(psnr[i]), to_picture(truth[i]), to_picture(render[i]))
        for i in chosen
    ]


def _curves(planes: PlanesStore, row: int) -> list[Curve]:
    """Losses of either phase: they measure different things, so that each has an axis of its own."""
    recorded, latent_steps = convergence(planes.record(row).info)
    points = [(float(step), loss) for step, loss in recorded if loss is not None]
    phases = {
        "Latent loss": [point for point in points if point[0] <= latent_steps],
        "RGB loss": [point for point in points if point[0] > latent_steps],
    }
    curves = []
    for name, own in phases.items():
        if len(own) > 1:
            steps, values = zip(*own, strict=True)
            curves.append(Curve(name, steps, values, [], (steps[0], steps[-1])))
    return curves
