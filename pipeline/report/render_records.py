"""What the sections on views show, as plain records: `collect_render` and `contact_sheets` fill them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.warning_kinds import WarningKind

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class RenderedObject:
    """What the render stage noted about one object; NaN for what it did not note."""

    class_name: str
    cpu_ms_per_view: float
    render_s: float
    load_s: float
    fetch_s: float
    n_faces: float


@dataclass(frozen=True)
class ShardTimes:
    """Seconds of shard tasks, and how many of them Blender had; `fetch_s` and `load_s` are parts of them."""

    task_s: float = 0.0
    render_s: float = 0.0
    load_s: float = 0.0
    fetch_s: float = 0.0


@dataclass(frozen=True)
class RunRate:
    """What one run of the render stage got done."""

    started: str
    seconds: float
    n_ok: int
    n_failed: int
    n_failed_shards: int
    views_per_s: float
    mean_tasks: float
    nodes: Sequence[str]


@dataclass(frozen=True)
class Throughput:
    """Views per second over the time in which runs were working; the pauses between runs are cut out.

    Attributes:
        edges_s: Limits of the intervals in working time, seconds [B + 1].
        views_per_s: Mean rate of each interval [B].
        starts: (working time, date) of each period of work.
        runs: The runs, oldest first.
    """

    edges_s: NDArray[np.float64]
    views_per_s: NDArray[np.float64]
    starts: Sequence[tuple[float, str]]
    runs: Sequence[RunRate]


@dataclass(frozen=True)
class ClassCount:
    """How many objects of one class are rendered, failed and planned."""

    class_name: str
    n_ok: int
    n_failed: int
    n_planned: int


@dataclass(frozen=True)
class RenderFindings:
    """Every figure of the render section.

    Attributes:
        classes: Counts per class, largest first.
        n_views: Views per object.
        size_px: Width and height of a view.
        n_bytes: Bytes of all shard files.
        objects: What was noted about the objects whose records were read.
        times: Sums over the shards that were read.
        warnings: Kinds of warnings among the objects that were read, most frequent first.
        n_read: Rendered objects whose records were read: all of them, or a seeded sample.
        throughput: None where no run recorded its events.
    """

    classes: Sequence[ClassCount]
    n_views: int
    size_px: tuple[int, int]
    n_bytes: int
    objects: Sequence[RenderedObject]
    times: ShardTimes
    warnings: Sequence[WarningKind]
    n_read: int
    throughput: Throughput | None

    @property
    def n_ok(self) -> int:
        """Objects with views."""
        return sum(entry.n_ok for entry in self.classes)

    @property
    def n_failed(self) -> int:
        """Objects that the render stage gave up on."""
        return sum(entry.n_failed for entry in self.classes)

    @property
    def n_planned(self) -> int:
        """Objects of the plan."""
        return sum(entry.n_planned for entry in self.classes)


@dataclass(frozen=True)
class Tile:
    """One object on a contact sheet: two of its views side by side, [H, 2W, 3]."""

    object_id: str
    views: Picture


@dataclass(frozen=True)
class CameraSample:
    """Where the cameras of some objects stand.

    Attributes:
        object_id: The object whose cameras are `positions`.
        positions: [V, 3], world units.
        heldout: [V].
        others: Positions of several objects together [n, 3]; empty where all objects have the same cameras.
        n_others: Of how many objects.
        field_of_view_deg: Horizontal, of the first view.
    """

    object_id: str
    positions: NDArray[np.float32]
    heldout: NDArray[np.bool_]
    others: NDArray[np.float32]
    n_others: int
    field_of_view_deg: float


@dataclass(frozen=True)
class ContactSheets:
    """Pictures of the render section: tiles of some objects of every class, and their cameras."""

    tiles: Mapping[str, Sequence[Tile]]
    cameras: CameraSample | None
