"""Which cameras an object gets: placed by a rule and a seed, or taken from a file that all objects share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from render_jobs.cameras import (
    front_cameras,
    heldout_mask,
    hemisphere_cameras,
    intrinsics,
    seed_for,
    sphere_cameras,
)
from render_jobs.config import RenderConfig
from render_jobs.transforms import CameraFileError, Frame, read_frames, read_json
from storage import layout
from storage.errors import ConfigError, IntegrityError
from storage.store import Store

SHARED_RIG = "the rig that all objects share"
"""Stands in for an object's id in the seeds of a shared rig: no object has such an id."""
_HASH_PREFIX = "sha256:"
_SQUARE_TOLERANCE_PX = 1e-3


class ObjectCameras(NamedTuple):
    """The cameras of one object's views.

    Attributes:
        cam2world: f32 [V, 4, 4], OpenCV axes.
        intrinsics: f32 [V, 3, 3], pixels.
        heldout: bool [V].
    """

    cam2world: npt.NDArray[np.float32]
    intrinsics: npt.NDArray[np.float32]
    heldout: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rig:
    """The cameras of a file, in its order."""

    frames: tuple[Frame, ...]


def object_cameras(config: RenderConfig, object_id: str, rig: Rig | None = None) -> ObjectCameras:
    """Returns the cameras of one object.

    Args:
        config: Number of views, poses, seed.
        object_id: Seeds the cameras, unless all objects share them.
        rig: Cameras of the file, with poses "file".

    Raises:
        ConfigError: The rig does not suit the configuration.
    """
    if config.poses == "file":
        assert rig is not None
        return _rig_cameras(config, rig)
    name = SHARED_RIG if config.shared_rig else object_id
    matrix = intrinsics(config.focal, config.width, config.height)
    return ObjectCameras(
        _placed(config, seed_for(config.seed, name, "cameras")),
        np.repeat(matrix[None], config.views, axis=0),
        heldout_mask(config.views, config.heldout_fraction, seed_for(config.seed, name, "heldout")),
    )


def _placed(config: RenderConfig, seed: int) -> npt.NDArray[np.float32]:
    n, radius = config.views, config.radius_world
    if config.poses == "sphere":
        return sphere_cameras(n, radius, seed)
    if config.poses == "front":
        return front_cameras(n, radius, seed, config.front_azimuth_deg, config.front_elevation_deg)
    return hemisphere_cameras(n, radius, seed)


def _rig_cameras(config: RenderConfig, rig: Rig) -> ObjectCameras:
    size = (config.width, config.height)
    if len(rig.frames) != config.views:
        raise ConfigError(
            f"the camera file has {len(rig.frames)} frames, but {config.views} views are asked for"
        )
    matrices = np.stack([frame.lens.matrix(size, size) for frame in rig.frames])
    for frame, matrix in zip(rig.frames, matrices, strict=True):
        _check_renderable(config, frame, matrix)
    said = np.array([bool(frame.heldout) for frame in rig.frames])
    seeded = heldout_mask(config.views, config.heldout_fraction, seed_for(config.seed, SHARED_RIG, "heldout"))
    return ObjectCameras(
        np.stack([frame.cam2world for frame in rig.frames]).astype(np.float32),
        matrices,
        said if said.any() else seeded,
    )


def _check_renderable(config: RenderConfig, frame: Frame, matrix: npt.NDArray[np.float32]) -> None:
    """Blender has square pixels; a size of another shape would squeeze them."""
    given = frame.lens.size_px
    name = frame.name or "a frame"
    if given is not None and given[0] * config.height != given[1] * config.width:
        raise ConfigError(
            f"the camera file's {name} is {given[0]}×{given[1]} px, which has another shape than the"
            f" {config.width}×{config.height} px to render: set render.width and render.height to that shape"
        )
    if abs(float(matrix[0, 0] - matrix[1, 1])) > _SQUARE_TOLERANCE_PX:
        raise ConfigError(
            f"the camera file's {name} has fl_x {matrix[0, 0]:g} and fl_y {matrix[1, 1]:g} px: both must be"
            " equal, because Blender's pixels are square"
        )


def parse_rig(data: bytes, what: str) -> Rig:
    """Reads a camera file.

    Args:
        data: The file, see `transforms`.
        what: Its name, for messages.

    Raises:
        ConfigError: It is no such file, or holds a camera that cannot be used.
    """
    try:
        rig = Rig(tuple(read_frames(read_json(data, what), what)))
    except CameraFileError as error:
        raise ConfigError(str(error)) from error
    if len(rig.frames) < 2:
        raise ConfigError(
            f"{what} has {len(rig.frames)} cameras: at least 2 are needed, one to train, one held out"
        )
    if all(frame.heldout for frame in rig.frames):
        raise ConfigError(f"{what} holds out every view: none is left to train on")
    return rig


def hashed_name(data: bytes) -> str:
    """Returns what stands for a camera file in a stored configuration: "sha256:" and its hash."""
    return _HASH_PREFIX + hashlib.sha256(data).hexdigest()


def stored_key(name: str) -> str:
    """Returns the key of the stored copy of a camera file that a configuration names by its hash."""
    return layout.plan_cameras(name.removeprefix(_HASH_PREFIX))


def stored_rig(store: Store, config: RenderConfig) -> Rig | None:
    """Returns the rig of a dataset, None where its cameras follow a rule.

    Raises:
        IntegrityError: The stored copy is missing or damaged.
    """
    if config.cameras is None:
        return None
    key = stored_key(config.cameras)
    try:
        data = store.read(key)
    except FileNotFoundError as error:
        raise IntegrityError(f"{key}: the plan's camera file is missing", key=key) from error
    if hashed_name(data) != config.cameras:
        raise IntegrityError(f"{key}: checksum mismatch", key=key)
    return parse_rig(data, key)
