"""Chooses objects of every class by lot and reads two views of each, and where their cameras stand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline import metrics
from pipeline.report.images import thumbnail, to_picture
from pipeline.report.render_records import CameraSample, ContactSheets, Tile
from render_jobs.cameras import look_at_origin
from storage.records import Status
from storage.views import ViewsStore

TILES: Final = 144  # of all classes together, at most 24 and at least 4 of each
CLASSES: Final = 40  # the largest ones
TILE_PX: Final = 128
CAMERAS_OF: Final = 24  # objects whose cameras are drawn together
# From above, first on the front's left, then from behind: where most objects show what they are.
_AZIMUTHS: Final = (math.radians(45), math.radians(225))
_ELEVATION: Final = math.radians(25)


def read_contact_sheets(
    views: ViewsStore, status: NDArray[np.uint8], class_names: Sequence[str]
) -> ContactSheets:
    """Read the pictures of the render section.

    Args:
        views: The views.
        status: `Status` of every row [N].
        class_names: Largest class first; beyond `CLASSES` they get no sheet.

    Raises:
        IntegrityError: Stored bytes are damaged.
    """
    names = list(class_names)[:CLASSES]
    members: dict[str, list[int]] = {name: [] for name in names}
    for row in views.plan.rows:
        if row.class_name in members and status[row.row] == Status.OK:
            members[row.class_name].append(row.row)
    share = min(24, max(4, TILES // max(len(names), 1)))
    chosen = {name: _lot(rows, share) for name, rows in members.items() if rows}
    tiles = {name: [_tile(views, row) for row in rows] for name, rows in chosen.items()}
    return ContactSheets(tiles, _cameras(views, [row for rows in chosen.values() for row in rows]))


def most_showing(cam2world: NDArray[Any], azimuth: float = _AZIMUTHS[0]) -> int:
    """The camera that looks most nearly as one from above and to the side would."""
    wanted = look_at_origin(np.array([azimuth]), np.array([math.sin(_ELEVATION)]), 1.0)
    return int(metrics.nearest_views(wanted, cam2world)[0])


def _lot(rows: Sequence[int], n: int) -> list[int]:
    """At most n of the rows, always the same ones, in the plan's order."""
    if len(rows) <= n:
        return list(rows)
    return sorted(np.random.default_rng(0).choice(rows, n, replace=False).tolist())


def _tile(views: ViewsStore, row: int) -> Tile:
    """Two views out of one stored chunk: the second may be less from behind, but costs no second request."""
    cameras = views.values(row)["cam2world"]
    depth = views.plan.header.views_per_chunk
    first = most_showing(cameras)
    start = first // depth * depth
    second = start + most_showing(cameras[start : start + depth], _AZIMUTHS[1])
    own = views.read_views(row, [first, second])
    pictures = [thumbnail(picture, TILE_PX) for picture in to_picture(metrics.composite(own.images))]
    return Tile(views.plan.rows[row].object_id, np.concatenate(pictures, axis=1))


def _cameras(views: ViewsStore, rows: Sequence[int]) -> CameraSample | None:
    if not rows:
        return None
    first = views.values(rows[0])
    positions = np.stack([views.values(row)["cam2world"][:, :3, 3] for row in rows[:CAMERAS_OF]])
    is_shared = bool((positions == positions[0]).all())
    half_width = views.plan.header.width / 2
    return CameraSample(
        object_id=views.plan.rows[rows[0]].object_id,
        positions=positions[0],
        heldout=first["heldout"],
        others=positions[:0, 0] if is_shared else positions.reshape(-1, 3),
        n_others=len(positions),
        field_of_view_deg=math.degrees(2 * math.atan2(half_width, float(first["intrinsics"][0, 0, 0]))),
    )
