"""Chooses the objects that a report shows and renders its pictures from what the store holds.

Choices are made by figures and by rule, so that nobody picks the pretty ones: quantiles for the ruler,
extremes and middle for the comparisons, an even spread over classes for the turntables.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline import metrics
from pipeline.report.contact_sheets import most_showing
from pipeline.report.images import to_picture
from pipeline.report.records import Blend, Comparison, Exhibit, Findings, Gallery, ObjectRecord, Turntable
from pipeline.report.render_records import Picture
from render_jobs.cameras import look_at_origin, orbit_cameras
from storage.planes import PlanesStore
from storage.records import ObjectFit, ObjectViews
from storage.views import ViewsStore

if TYPE_CHECKING:
    from pipeline.fit_views import FitRenderer

LOGGER = logging.getLogger(__name__)

EXHIBITS: Final = 9
COMPARED_PER_GROUP: Final = 2
TURNTABLES: Final = 8
TURNTABLE_FRAMES: Final = 24
TURNTABLE_ELEVATION_DEG: Final = 22.0
BLENDS: Final = 2
BLEND_FRAMES: Final = 17
# From above and to the side: where most objects show what they are.
_SHOWING: Final = (math.radians(45), math.radians(25))


class GalleryMaker:
    """Renders the pictures of one report.

    Args:
        views: Ground truth.
        planes: The fit.
        renderer: Renders codes of that fit.
    """

    def __init__(self, views: ViewsStore, planes: PlanesStore, renderer: FitRenderer) -> None:
        self._views = views
        self._planes = planes
        self._renderer = renderer

    def make(self, findings: Findings) -> Gallery:
        """Every picture of the report; empty where no object has a fit."""
        if not findings.objects:
            return Gallery()
        measured = [record for record in findings.objects if math.isfinite(record.psnr_db)]
        ranked = sorted(measured or findings.objects, key=lambda record: (record.psnr_db, record.object_id))
        fitted = [record for record in ranked if record.regime == 2] or ranked
        opening = fitted[len(fitted) // 2]
        spread = _spread([record for record in fitted if record is not opening], TURNTABLES)
        groups = _groups(fitted) if measured else []
        return Gallery(
            exhibits=[self._exhibit(record) for record in _quantiles(ranked, EXHIBITS)] if measured else [],
            comparisons=[self._comparison(group, record) for group, chosen in groups for record in chosen],
            turntables=[self._turntable(record) for record in [opening, *spread]],
            blends=[self._blend(first, second) for first, second in self._pairs(fitted)],
        )

    def _exhibit(self, record: ObjectRecord) -> Exhibit:
        cameras = self._views.values(record.row)
        heldout = np.flatnonzero(cameras["heldout"])
        chosen = heldout[most_showing(cameras["cam2world"][heldout])]
        own = self._views.read_views(record.row, [int(chosen)])
        render = self._render(self._planes.read(record.row), own)
        return Exhibit(record, to_picture(metrics.composite(own.images)[0]), to_picture(render[0]))

    def _comparison(self, group: str, record: ObjectRecord) -> Comparison:
        """The held-out view of median PSNR (the lower one of the two middle ones)."""
        numbers = np.flatnonzero(self._views.values(record.row)["heldout"])
        own = self._views.read_views(record.row, numbers)
        truth = metrics.composite(own.images)
        render = self._render(self._planes.read(record.row), own)
        psnr = metrics.psnr(render, truth)
        middle = int(np.argsort(psnr, kind="stable")[(len(psnr) - 1) // 2])
        return Comparison(
            group,
            record,
            int(numbers[middle]),
            float(psnr[middle]),
            to_picture(truth[middle]),
            to_picture(render[middle]),
        )

    def _turntable(self, record: ObjectRecord) -> Turntable:
        own = self._views.values(record.row)
        cameras = orbit_cameras(TURNTABLE_FRAMES, TURNTABLE_ELEVATION_DEG, _radius(own["cam2world"]))
        frames = self._from(self._planes.read(record.row), cameras, own["intrinsics"][0])
        return Turntable(record, TURNTABLE_ELEVATION_DEG, frames)

    def _blend(self, first: ObjectRecord, second: ObjectRecord) -> Blend:
        a, b = self._planes.read(first.row), self._planes.read(second.row)
        own = self._views.values(first.row)
        azimuth, elevation = _SHOWING
        camera = look_at_origin(
            np.array([azimuth]), np.array([math.sin(elevation)]), _radius(own["cam2world"])
        )
        whole, coefficients_only = [], []
        for share in np.linspace(0, 1, BLEND_FRAMES).tolist():
            whole += self._from(mix(a, b, share, share), camera, own["intrinsics"][0])
            coefficients_only += self._from(mix(a, b, share, 0.5), camera, own["intrinsics"][0])
        return Blend(first, second, whole, coefficients_only)

    def _pairs(self, fitted: Sequence[ObjectRecord]) -> list[tuple[ObjectRecord, ObjectRecord]]:
        """The two good fits (upper half) of a class whose coefficients lie farthest apart.

        One pair of each of the largest classes; two of the only class, where there is one; where no class has
        two such fits, two objects of any class.
        """
        names = [record.class_name for record in fitted]
        ordered = sorted(set(names), key=lambda name: (-names.count(name), name))
        pairs: list[tuple[ObjectRecord, ObjectRecord]] = []
        for name in (ordered * BLENDS if len(ordered) == 1 else ordered)[:BLENDS]:
            used = {record.row for pair in pairs for record in pair}
            members = [record for record in fitted if record.class_name == name]
            upper = [record for record in members[len(members) // 2 :] if record.row not in used]
            if len(upper) >= 2:
                pairs.append(self._farthest(upper[-64:]))
        return pairs or ([self._farthest(fitted[-64:])] if len(fitted) >= 2 else [])

    def _farthest(self, records: Sequence[ObjectRecord]) -> tuple[ObjectRecord, ObjectRecord]:
        own = np.stack([self._planes.values(record.row)["coefficients"] for record in records]).astype(
            np.float64
        )
        distance = np.square(own[:, None] - own[None]).sum(axis=2)
        first, second = np.unravel_index(int(distance.argmax()), distance.shape)
        if first == second:  # all alike, or a single base plane
            return records[0], records[-1]
        return records[int(first)], records[int(second)]

    def _render(self, fit: ObjectFit, own: ObjectViews) -> NDArray[np.float32]:
        return self._renderer.render(fit.micro, fit.coefficients, own.cam2world, own.intrinsics)

    def _from(self, fit: ObjectFit, cameras: NDArray[Any], intrinsics: NDArray[Any]) -> list[Picture]:
        matrices = np.broadcast_to(intrinsics, (len(cameras), 3, 3))
        rendered = self._renderer.render(fit.micro, fit.coefficients, cameras, matrices)
        return [to_picture(view) for view in rendered]


def mix(a: ObjectFit, b: ObjectFit, share: float, micro_share: float) -> ObjectFit:
    """A fit between two: coefficients and micro planes mixed linearly, `share` of the way from a to b."""
    micro = None
    if a.micro is not None and b.micro is not None:
        micro = (1 - micro_share) * a.micro.astype(np.float32) + micro_share * b.micro.astype(np.float32)
    return ObjectFit(micro, (1 - share) * a.coefficients + share * b.coefficients, 2)


def _radius(cam2world: NDArray[Any]) -> float:
    return float(np.median(np.linalg.norm(cam2world[:, :3, 3], axis=1)))


def _quantiles(ranked: Sequence[ObjectRecord], n: int) -> list[ObjectRecord]:
    """At most n records, evenly spread over a sequence, its ends included."""
    if n < 2 or len(ranked) <= n:
        return list(ranked[:n])
    return [ranked[round(index * (len(ranked) - 1) / (n - 1))] for index in range(n)]


def _groups(ranked: Sequence[ObjectRecord]) -> list[tuple[str, list[ObjectRecord]]]:
    """Best, median and worst objects, none of them twice."""
    n = COMPARED_PER_GROUP
    if len(ranked) < 3 * n:
        return [("Every object, best first", list(reversed(ranked)))]
    middle = (len(ranked) - n) // 2
    return [
        ("Best", list(reversed(ranked[-n:]))),
        ("Median", list(ranked[middle : middle + n])),
        ("Worst", list(ranked[:n])),
    ]


def _spread(ranked: Sequence[ObjectRecord], n: int) -> list[ObjectRecord]:
    """At most n records: the classes by turns, each from evenly spread places of its own ranking."""
    by_class: dict[str, list[ObjectRecord]] = {}
    for record in ranked:
        by_class.setdefault(record.class_name, []).append(record)
    share = -(-n // max(len(by_class), 1))
    chosen = [_quantiles(members, share) for _, members in sorted(by_class.items())]
    turns = [column[index] for index in range(share) for column in chosen if index < len(column)]
    rest = [record for record in ranked if record not in turns]  # small classes leave room for others
    return turns[:n] + _quantiles(rest, max(n - len(turns), 0))
