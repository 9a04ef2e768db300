"""Training curves of the run folder, or of older datasets' shared.json, thinned to what a chart can show."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from pipeline.report.records import Curve
from pipeline.report.training_gallery import training_folder
from pipeline.train.curve_file import LossRow, read_curve
from storage.errors import IntegrityError
from storage.store import Store

LOGGER = logging.getLogger(__name__)
_POINTS: Final = 120
_NAMES: Final = {
    "ae": "Autoencoder loss, ‖x − D(E(x))‖²",
    "latent": "Latent loss, ‖E(x) − R(T, c)‖²",
    "rgb": "RGB loss, ‖x − D(R(T, c))‖²",
    "free": "Free-space loss",
    "tv": "Total variation of the planes",
}
_ORDER: Final = ("ae", "latent", "rgb", "free", "tv")


def recorded_losses(store: Store, meta: Mapping[str, Any]) -> list[LossRow]:
    """Losses of every step of a training, [] where there are none.

    Args:
        store: The data set.
        meta: Metadata of the shared components, which name their training. Those of older data sets hold a
            `curve` (at the top or under `info`) of (step, phase, losses), as sequences or mappings; other
            entries are passed over.
    """
    folder = training_folder(meta)
    try:
        if folder:
            return read_curve(store, folder)
    except FileNotFoundError:
        pass  # an older data set, or shared components that were copied without their run
    except IntegrityError as error:
        LOGGER.warning("the training curve is left out of the report: %s", error)
        return []
    return list(_listed(meta))


def training_curves(losses: Sequence[LossRow], resumed: Sequence[float] = ()) -> list[Curve]:
    """One curve per loss.

    Args:
        losses: Of every step.
        resumed: Steps at which the training went on after an interruption.

    Returns:
        Curves of about 120 points: medians over equal groups of steps, with the scatter between batches.
    """
    points = sorted(losses, key=lambda point: point[0])
    if not points:
        return []
    phases = [(float(p[0]), p[1]) for i, p in enumerate(points) if i == 0 or p[1] != points[i - 1][1]]
    span = (float(points[0][0]), float(points[-1][0]))
    rows: dict[str, list[tuple[float, float]]] = {}
    for step, _, own in points:
        for name, value in own.items():
            if isinstance(value, int | float) and np.isfinite(value):
                rows.setdefault(name, []).append((float(step), float(value)))
    names = [name for name in _ORDER if name in rows] + sorted(set(rows) - set(_ORDER))
    curves = []
    for name in names:
        if len(rows[name]) > 1:
            steps, medians, low, high = _thinned(rows[name], phases)
            curves.append(Curve(_NAMES.get(name, name), steps, medians, phases, span, low, high, resumed))
    return curves


def _listed(meta: Mapping[str, Any]) -> Iterable[LossRow]:
    info = meta.get("info")
    found = meta.get("curve") or (info.get("curve") if isinstance(info, Mapping) else None)
    for point in found if isinstance(found, list) else []:
        if isinstance(point, Mapping):
            step, phase, losses = point.get("step"), point.get("phase", ""), point.get("losses")
        elif isinstance(point, list | tuple) and len(point) >= 3:
            step, phase, losses = point[:3]
        else:
            continue
        if isinstance(step, int | float) and isinstance(losses, Mapping):
            yield int(step), str(phase), losses


def _thinned(
    rows: list[tuple[float, float]], phases: list[tuple[float, str]]
) -> tuple[list[float], list[float], list[float], list[float]]:
    """Steps, medians and the 5th and 95th percentile of groups of equal size that stay within their phase."""
    size = -(-len(rows) // _POINTS)
    borders = [start for start, _ in phases[1:]]
    owner = np.searchsorted(borders, [step for step, _ in rows], side="right")
    steps, figures = [], []
    for phase in np.unique(owner):
        own = np.array(rows)[owner == phase]
        for group in np.array_split(own, -(-len(own) // size)):
            steps.append(float(group[-1, 0]))
            figures.append(np.percentile(group[:, 1], (50, 5, 95)).tolist())
    medians, low, high = (list(column) for column in zip(*figures, strict=True))
    return steps, medians, low, high
