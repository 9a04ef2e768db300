"""Which axes of a source's files point up and to the front, when the user may say otherwise."""

from __future__ import annotations

from render_jobs.normalize import Axis
from storage.errors import ConfigError

# What "front" most often means when only "up" is known: glTF's and Blender's conventions.
_FRONT_FOR_UP: dict[Axis, Axis] = {"y": "z", "z": "-y"}


def chosen_axes(up: Axis | None, front: Axis | None, default: tuple[Axis, Axis]) -> tuple[Axis, Axis]:
    """Returns (up, front) of a file: what the user said, completed by the source's default.

    Raises:
        ConfigError: When both would lie along one line.
    """
    chosen_up = up or default[0]
    if front is None and up is not None and up != default[0]:
        front = _FRONT_FOR_UP.get(up)
        if front is None:
            raise ConfigError(f"source: with --up {up} say where the front is, too: --front y, for instance")
    chosen_front = front or default[1]
    if chosen_up[-1] == chosen_front[-1]:
        raise ConfigError(
            f"source: up axis {chosen_up} and front axis {chosen_front} lie along one line; "
            "give --up and --front, along different axes of the file"
        )
    return chosen_up, chosen_front
