"""The training curve as a file of arrays: losses and seconds of every step, four bytes each.

It lies in the training's run folder, written once at the end. `shared.json`, which every fit task and every
reader reads, holds the number of steps alone. A safetensors file; per phase, of steps n::

    <phase>/step         i4 [n] ascending
    <phase>/seconds      f4 [n]
    <phase>/loss/<name>  f4 [n]
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from storage.shared import parse_safetensors
from storage.store import Store

if TYPE_CHECKING:
    from pipeline.train.joint import CurvePoint

NAME = "curve.safetensors"

LossRow = tuple[int, str, Mapping[str, float]]
"""Step, phase, losses by name."""


def write_curve(store: Store, folder: str, points: Sequence[CurvePoint]) -> None:
    """Store a whole training's points.

    Args:
        store: The dataset.
        folder: Key prefix of the training's run folder.
        points: One per step; those of a phase have the same losses.
    """
    from safetensors.numpy import save

    store.replace(f"{folder}/{NAME}", save(_arrays(points)))


def read_curve(store: Store, folder: str) -> list[LossRow]:
    """Read the losses of every step, ascending; needs no torch.

    Raises:
        FileNotFoundError: No curve is stored there.
        IntegrityError: The file is damaged.
    """
    key = f"{folder}/{NAME}"
    arrays = parse_safetensors(store.read(key), key)
    rows: list[LossRow] = []
    for name, steps in arrays.items():
        phase, _, kind = name.partition("/")
        if kind == "step":
            prefix = f"{phase}/loss/"
            losses = {key[len(prefix) :]: v.tolist() for key, v in arrays.items() if key.startswith(prefix)}
            for step, *values in zip(steps.tolist(), *losses.values(), strict=True):
                rows.append((step, phase, dict(zip(losses, values, strict=True))))
    return sorted(rows, key=lambda row: row[0])


def phase_totals(points: Sequence[CurvePoint]) -> dict[str, dict[str, float]]:
    """Steps and seconds of every phase."""
    totals: dict[str, dict[str, float]] = {}
    for phase, own in _by_phase(points).items():
        seconds = sum(point.seconds for point in own)
        totals[phase] = {"steps": len(own), "seconds": round(seconds, 3)}
    return totals


def _arrays(points: Sequence[CurvePoint]) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for phase, own in _by_phase(points).items():
        arrays[f"{phase}/step"] = np.array([point.step for point in own], np.int32)
        arrays[f"{phase}/seconds"] = np.array([point.seconds for point in own], np.float32)
        for name in own[0].losses:
            arrays[f"{phase}/loss/{name}"] = np.array([point.losses[name] for point in own], np.float32)
    return arrays


def _by_phase(points: Sequence[CurvePoint]) -> dict[str, list[CurvePoint]]:
    found = defaultdict(list)
    for point in points:
        found[point.phase].append(point)
    return dict(found)
