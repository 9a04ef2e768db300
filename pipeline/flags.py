"""Which fits deserve a look: objects far below their class, and fits whose loss was still falling.

Both rules compare an object with nothing but fits of the same dataset, so that no figure has to be known in
advance. They point; they change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.refinements import stored_record
from pipeline.sidecars import REQUESTS
from storage.planes import PlanesStore
from storage.shards import Sidecar

FAR_BELOW_CLASS: Final = "far_below_class"
NOT_CONVERGED: Final = "not_converged"
KINDS: Final = (FAR_BELOW_CLASS, NOT_CONVERGED)

MIN_OBJECTS: Final = 8
"""Objects of one class and regime, with fewer of which nothing is said about any of them."""

DEVIATIONS: Final = 3.0
MIN_BELOW_DB: Final = 1.5
"""Least distance to the median that counts: of objects that are all alike deviations say nothing."""

NORMAL: Final = 1.4826  # a normal distribution's standard deviation, in median absolute deviations

MIN_POINTS: Final = 8
FALL_DB: Final = 1.0
"""Fall of a loss within a quarter of a phase. Forty cars with 300 steps and a decaying rate: at most 0.74."""

Curve = Sequence[tuple[int, float | None]]


@dataclass(frozen=True)
class Flag:
    """One fit that deserves a look.

    Attributes:
        kind: One of `KINDS`.
        row: Of the plan.
        psnr_db: Of the object, held-out views; NaN without any.
        class_median_db: Of its class and regime; NaN where there are fewer than `MIN_OBJECTS`.
        by_db: How far below the median, or how far the loss still fell.
    """

    kind: str
    row: int
    psnr_db: float
    class_median_db: float
    by_db: float


def flag_fits(
    psnr_db: NDArray[Any], class_names: Sequence[str], regime: NDArray[Any], falls_db: Mapping[int, float]
) -> list[Flag]:
    """Find the fits that deserve a look.

    Far below its class is an object whose PSNR is below median − max(3 · 1.4826 · MAD, 1.5 dB) of the objects
    of its class and regime, of which there must be eight. Not converged is one whose loss fell by more than
    1 dB in the last quarter of a phase.

    Args:
        psnr_db: Per row [N]; NaN where there is none.
        class_names: Per row.
        regime: 1 or 2 for a row with a fit, anything else for one without, [N].
        falls_db: Row → `fall_db` of its curve, for rows where that is known.

    Returns:
        Those far below their class first, farthest first; then those that have not converged, by their fall.
    """
    medians = np.full(len(psnr_db), np.nan)
    below = []
    for members in _groups(psnr_db, class_names, regime):
        values = np.asarray(psnr_db, np.float64)[members]
        median = np.median(values)
        spread = NORMAL * np.median(np.abs(values - median))
        medians[members] = median
        limit = median - max(DEVIATIONS * spread, MIN_BELOW_DB)
        below += [row for row in members if psnr_db[row] < limit]
    falling = [row for row, fall in falls_db.items() if fall > FALL_DB and regime[row] in (1, 2)]

    def flag(kind: str, row: int, by_db: float) -> Flag:
        return Flag(kind, row, float(psnr_db[row]), float(medians[row]), by_db)

    far = [flag(FAR_BELOW_CLASS, row, float(medians[row] - psnr_db[row])) for row in below]
    late = [flag(NOT_CONVERGED, row, falls_db[row]) for row in falling]
    return [*_worst_first(far), *_worst_first(late)]


def _groups(
    psnr_db: NDArray[Any], class_names: Sequence[str], regime: NDArray[Any]
) -> Iterable[NDArray[np.int64]]:
    """Rows of each class and regime that has enough figures."""
    rows: dict[tuple[str, int], list[int]] = {}
    for row in np.flatnonzero(np.isin(regime, (1, 2)) & np.isfinite(psnr_db)).tolist():
        rows.setdefault((class_names[row], int(regime[row])), []).append(row)
    return [np.array(members) for members in rows.values() if len(members) >= MIN_OBJECTS]


def _worst_first(flags: list[Flag]) -> list[Flag]:
    return sorted(flags, key=lambda flag: (-flag.by_db, flag.row))


def fall_db(curve: Curve, latent_steps: int) -> float | None:
    """How far a fit's loss fell from the third to the last quarter of a phase.

    It is the last phase of at least eight points that is looked at: means of fewer say little, as every
    interval draws other pixels and views.

    Args:
        curve: (steps done, mean loss of the interval before), latent phase first.
        latent_steps: Steps of the latent phase.

    Returns:
        Decibels, positive for a fall; None where no phase is long enough or a loss is not positive.
    """
    phases = (
        [loss for step, loss in curve if step > latent_steps],
        [loss for step, loss in curve if step <= latent_steps],
    )
    for losses in phases:
        if len(losses) >= MIN_POINTS:
            if any(loss is None or not loss > 0 for loss in losses):
                return None
            quarter = len(losses) // 4
            values = np.array(losses, np.float64)
            return float(10 * np.log10(values[-2 * quarter : -quarter].mean() / values[-quarter:].mean()))
    return None


def convergence(info: Mapping[str, Any]) -> tuple[Curve, int]:
    """Curve and latent steps of the code that an object has now; an empty curve where none was recorded.

    Args:
        info: Of the object, refined or not.
    """
    record = stored_record(info)
    curve = [(int(step), loss) for step, loss in record.get("curve", [])]
    steps = record.get("steps") or [curve[-1][0] if curve else 0]
    return curve, int(steps[0])


def fit_flags(planes: PlanesStore, psnr_db: NDArray[Any], regime: NDArray[Any]) -> list[Flag]:
    """Flags of a fit; reads the sidecar of every shard.

    Args:
        planes: The fit.
        psnr_db: Per row [N], its own or recomputed.
        regime: See `flag_fits`.

    Raises:
        IntegrityError, StaleSnapshotError: See `PlanesStore`.
    """
    names = [""] * planes.plan.n_rows
    for row in planes.plan.rows:
        names[row.row] = row.class_name
    return flag_fits(psnr_db, names, regime, _falls(planes))


def _falls(planes: PlanesStore) -> dict[int, float]:
    with ThreadPoolExecutor(REQUESTS) as pool:
        parts = pool.map(lambda shard: _falls_of(planes.sidecar(shard)), sorted(planes.done()))
        return {row: fall for part in parts for row, fall in part.items()}


def _falls_of(sidecar: Sidecar) -> dict[int, float]:
    falls = {record.row: fall_db(*convergence(record.info)) for record in sidecar.objects}
    return {row: fall for row, fall in falls.items() if fall is not None}


def flags_as_json(planes: PlanesStore, flags: Sequence[Flag]) -> dict[str, Any]:
    """Counts per kind, and every flag with its object's id and class, as plain JSON values."""
    counts = {kind: sum(flag.kind == kind for flag in flags) for kind in KINDS}
    rows = planes.plan.rows
    objects = [
        {
            "object_id": rows[flag.row].object_id,
            "class_name": rows[flag.row].class_name,
            "kind": flag.kind,
            "psnr_db": _rounded(flag.psnr_db),
            "class_median_db": _rounded(flag.class_median_db),
            "by_db": _rounded(flag.by_db),
        }
        for flag in flags
    ]
    return {**counts, "objects": objects}


def _rounded(value: float) -> float | None:
    return round(value, 3) if np.isfinite(value) else None
