"""What the report shows, as plain records: `collect` and `gallery` fill them, the sections write HTML.

What the sections on views show is in `render_records`. Pictures are arrays u8 [H, W, 3], sRGB over white.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.flags import Flag
from pipeline.report.render_records import Picture, RenderFindings


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
    """One object that a stage gave up on; `picture` is a data URI as `images.safe_picture` lets it pass."""

    object_id: str
    class_name: str
    reason: str
    repro: str = ""
    picture: str = ""


@dataclass(frozen=True)
class FailureKind:
    """All failures of one class in one stage: how many, and the first of them in the plan's order."""

    stage: str
    kind: str
    n_objects: int
    objects: Sequence[FailedObject]


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
    fit: str | None = None

    @property
    def n_objects(self) -> int:
        """Objects that the run completed or trained on; 0 where its summary does not say."""
        value = self.summary.get("objects_ok", self.summary.get("objects", 0))
        return value if isinstance(value, int) else 0

    @property
    def training_cpu_s(self) -> float:
        """Processor seconds of all ranks of a training, which are as busy as the first; 0 where not known."""
        ranks = int(self.config.get("compute", {}).get("train_workers") or 1)
        return float(self.summary.get("cpu_seconds") or 0.0) * ranks


@dataclass(frozen=True)
class ForecastFigure:
    """A figure as it was forecast, from low to high, and as it was; None for what nobody knows."""

    likely: float | None
    actual: float | None
    low: float | None = None
    high: float | None = None

    @property
    def off(self) -> float | None:
        """By which share of what was, the forecast was too high; negative: too low."""
        return self.likely / self.actual - 1.0 if self.likely is not None and self.actual else None


@dataclass(frozen=True)
class StageForecast:
    """One stage as it was forecast and as it was.

    Attributes:
        stage: its name, with that of the fit.
        cpu_s: processor seconds of all shards, as far as their last attempts lived.
        wall_s: seconds of all runs of the stage, with the workers of the forecast.
        stored_bytes: of views with their passes, of shared components, of planes.
        complete: whether nothing of the stage is left to do.
    """

    stage: str
    cpu_s: ForecastFigure
    wall_s: ForecastFigure
    stored_bytes: ForecastFigure
    complete: bool

    @property
    def off(self) -> dict[str, float | None]:
        """Figure → by which share of what was, the forecast was too high."""
        return {name: getattr(self, name).off for name in ("cpu_s", "wall_s", "stored_bytes")}


@dataclass(frozen=True)
class Curve:
    """One recorded quantity of the training over its steps, without gaps or values that are not finite.

    `phases` names what began at which step, `span` the first and last step of the whole training; between
    `low` and `high` are nine in ten of the values that a point stands for. At `resumed` the training went on
    after an interruption.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    phases: Sequence[tuple[float, str]]
    span: tuple[float, float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    resumed: Sequence[float] = ()


@dataclass(frozen=True)
class FlaggedView:
    """One held-out view of a flagged object, as truth and as rendering."""

    view: int
    psnr_db: float
    truth: Picture
    render: Picture


@dataclass(frozen=True)
class FlaggedObject:
    """One fit that deserves a look (see `pipeline.flags`): why, two of its held-out views, and its loss.

    Attributes:
        record: The object.
        kinds: Why, one or both of the kinds of flags.
        class_median_db: Of its class and regime; NaN where that says nothing.
        fall_db: How far its loss fell in the last quarter of a phase; NaN where that is not flagged.
        shard: Of the fit.
        views: The worst of its held-out views, and one from the middle of the others.
        curves: Latent and RGB loss of the fit, each in its phase; empty where they were not recorded.
    """

    record: ObjectRecord
    kinds: Sequence[str]
    class_median_db: float
    fall_db: float
    shard: int
    views: Sequence[FlaggedView]
    curves: Sequence[Curve]


@dataclass(frozen=True)
class StoredPart:
    """One part of the dataset on disk, and over how many objects it spreads."""

    label: str
    n_bytes: int
    n_objects: int


@dataclass(frozen=True)
class Findings:
    """Every figure of the report; what belongs to a fit is empty where there is none yet."""

    title: str
    url: str
    created: str
    render: RenderFindings
    failures: Sequence[FailureKind]
    runs: Sequence[StageRun]
    parts: Sequence[StoredPart]
    facts: Mapping[str, Any]
    shared_version: str = ""
    shared_meta: Mapping[str, Any] = field(default_factory=dict)
    curves: Sequence[Curve] = ()
    fit_name: str = ""
    fit_config: Mapping[str, Any] = field(default_factory=dict)
    objects: Sequence[ObjectRecord] = ()
    flags: Sequence[Flag] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    forecasts: Sequence[StageForecast] = ()

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
    """Every picture of the fits."""

    exhibits: Sequence[Exhibit] = ()
    comparisons: Sequence[Comparison] = ()
    turntables: Sequence[Turntable] = ()
    blends: Sequence[Blend] = ()
    flagged: Sequence[FlaggedObject] = ()
