"""Records that cross the border of the store: plan rows, rendered views, fits, failures.

Conventions: camera axes are OpenCV's (+x right, +y down, +z forward), cam2world acts on column vectors,
images are straight-alpha sRGB, plane order is xy, xz, yz, micro channels come first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

NO_VIEWS = "no_views"
"""Failure class of objects that could not be fitted because they could not be rendered."""


class Status(IntEnum):
    """What the store knows about one row of the plan."""

    ABSENT = 0
    OK = 1
    FAILED = 2


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One object of the plan.

    Attributes:
        row: Position in all arrays of the dataset, fixed for ever.
        object_id: Unique name.
        class_name: Class such as "car".
        source: Name of the source that provides the object.
        location: Where the source finds the object; not part of the content.
        fingerprint: Content hash of the input, as cheaply as the source can give it.
    """

    row: int
    object_id: str
    class_name: str
    source: str
    location: str
    fingerprint: str


@dataclass(frozen=True)
class ObjectViews:
    """All views of one object.

    Attributes:
        images: u8 [V, H, W, 4], straight-alpha sRGB RGBA, row 0 on top.
        cam2world: f32 [V, 4, 4], OpenCV axes, world units.
        intrinsics: f32 [V, 3, 3], pixels, pixel centres at +0.5.
        heldout: bool [V], true for views that serve final metrics only.
        mesh_to_world: f32 [4, 4], from the mesh file's coordinates to the world.
        has_alpha: False for imported images whose alpha channel is only filled up.
    """

    images: NDArray[np.uint8]
    cam2world: NDArray[np.float32]
    intrinsics: NDArray[np.float32]
    heldout: NDArray[np.bool_]
    mesh_to_world: NDArray[np.float32]
    has_alpha: bool = True


@dataclass(frozen=True)
class Failure:
    """Why an object has no result.

    Attributes:
        kind: Class of the failure, for instance "missing_file", "no_faces", "crash", "timeout".
        reason: One line for people.
        detail: Longer text such as the tail of stderr.
        repro: Command that reproduces the failure.
        picture: A small picture of what went wrong, as a data URI; empty where there is none.
    """

    kind: str
    reason: str
    detail: str = ""
    repro: str = ""
    picture: str = ""


@dataclass(frozen=True)
class ObjectFit:
    """The fit of one object.

    Attributes:
        micro: f16 or f32 [3, F_mic, K, K], or None for variants without micro planes.
        coefficients: f32 [M].
        regime: 1 when trained jointly with the shared components, 2 when fitted to frozen ones.
        metrics: Metric name to value; NaN where a metric could not be computed.
    """

    micro: NDArray[np.floating[Any]] | None
    coefficients: NDArray[np.float32]
    regime: int
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Commit:
    """Outcome of committing one shard.

    Attributes:
        won: True when this writer's file is the shard.
        attempt: Attempt id of the writer whose file is the shard.
        n_bytes: Size of the shard file that this writer built.
    """

    won: bool
    attempt: str
    n_bytes: int


Mend = Literal["rebuild", "redo", "restore", "wait"]


@dataclass(frozen=True)
class Problem:
    """One finding of `verify`.

    Attributes:
        key: The file.
        message: What is wrong with it.
        objects: Ids of the objects that it concerns; none where it concerns the whole dataset.
        mend: "rebuild": it follows from other files that are sound. "redo": results of the objects, which
            must be computed again. "restore": nothing in the dataset says what it held. "wait": no damage, it
            changed while it was checked.
        group: Zarr group of a shard or array, else empty.
        shard: Number of the shard.
    """

    key: str
    message: str
    objects: tuple[str, ...] = ()
    mend: Mend = "restore"
    group: str = ""
    shard: int | None = None
