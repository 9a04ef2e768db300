"""What the report shows, as plain records: `collect` and `gallery` fill them, the sections write HTML.

Pictures are arrays u8 [H, W, 3], sRGB over white.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class ObjectRecord:
    """One object with a fit: its place in the plan and its held-out figures."""

    row: int
    object_id: str
    class_name: str
    regime: int
    figures: Mapping[str, float]

    @property
    def psnr_db(self) -> float:
        """Mean over the object's held-out views; NaN where it has none."""
        return self.figures.get("psnr_db", math.nan)


@dataclass(frozen=True)
class FailedObject:
    """One object that a stage gave up on."""

    stage: str
    object_id: str
    class_name: str
    kind: str
    reason: str
    repro: str = ""


@dataclass(frozen=True)
class StageRun:
    """One run of one stage, from its run.json; empty where that file lacks something."""

    stage: str
    run_id: str
    started: str = ""
    seconds: float | None = None
    git_revision: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_objects(self) -> int:
        """Objects that the run completed or trained on; 0 where its summary does not say."""
        value = self.summary.get("objects_ok", self.summary.get("objects", 0))
        return value if isinstance(value, int) else 0


@dataclass(frozen=True)
class Curve:
    """One recorded quantity of the training over its steps, without gaps or values that are not finite.

    `phases` names what began at which step, `span` the first and last step of the whole training.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    phases: Sequence[tuple[float, str]]
    span: tuple[float, float]


@dataclass(frozen=True)
class StoredPart:
    """One part of the data set on disk, and over how many objects it spreads."""

    label: str
    n_bytes: int
    n_objects: int


@dataclass(frozen=True)
class Findings:
    """Every figure of the report."""

    title: str
    url: str
    fit_name: str
    shared_version: str
    created: str
    summary: Mapping[str, Any]
    objects: Sequence[ObjectRecord]
    failures: Sequence[FailedObject]
    runs: Sequence[StageRun]
    curves: Sequence[Curve]
    parts: Sequence[StoredPart]
    facts: Mapping[str, Any]
    shared_meta: Mapping[str, Any]
    fit_config: Mapping[str, Any]
    n_planned: int

    def of_regime(self, regime: int) -> list[ObjectRecord]:
        """The objects of one regime, in the plan's order."""
        return [record for record in self.objects if record.regime == regime]

    @property
    def class_names(self) -> list[str]:
        """The classes that have at least one fit, largest first."""
        names = [record.class_name for record in self.objects]
        return sorted(set(names), key=lambda name: (-names.count(name), name))


@dataclass(frozen=True)
class Exhibit:
    """One object on the decibel ruler: the same held-out view as truth and as rendering."""

    record: ObjectRecord
    truth: Picture
    render: Picture


@dataclass(frozen=True)
class Comparison:
    """One held-out view of one object; `group` says why it was chosen (best, median, worst)."""

    group: str
    record: ObjectRecord
    view: int
    view_psnr_db: float
    truth: Picture
    render: Picture


@dataclass(frozen=True)
class Turntable:
    """One object from a ring of cameras of which it has no view: frames [T] at equal steps of azimuth."""

    record: ObjectRecord
    elevation_deg: float
    frames: Sequence[Picture]


@dataclass(frozen=True)
class Blend:
    """The way from one fit to another in equal steps, seen from one camera."""

    first: ObjectRecord
    second: ObjectRecord
    whole: Sequence[Picture]
    coefficients_only: Sequence[Picture]


@dataclass(frozen=True)
class Gallery:
    """Every picture of the report."""

    exhibits: Sequence[Exhibit] = ()
    comparisons: Sequence[Comparison] = ()
    turntables: Sequence[Turntable] = ()
    blends: Sequence[Blend] = ()
    inputs: Mapping[str, Sequence[tuple[str, Picture]]] = field(default_factory=dict)
