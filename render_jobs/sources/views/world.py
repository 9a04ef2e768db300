"""Brings the world of imported cameras into ours: what they look at moves to the origin, at our size.

Our renders see a sphere around the origin whole: its radius is distance · sin(half field of view), which is
0.572 for a distance of 1.3 and a focal length of 1.02 image widths. Planes and rays are laid out for that.
The same sphere of imported cameras is made as large. Up stays where the file has it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from render_jobs.config import RenderConfig

WideArray = npt.NDArray[np.float64]

_DEFAULTS = RenderConfig()
SEEN_RADIUS_WORLD = _DEFAULTS.radius_world * math.sin(math.atan(0.5 / _DEFAULTS.focal))
# Of the least-squares problem; below it axes are so nearly parallel that they meet nowhere in particular.
_SMALLEST_EIGENVALUE = 1e-4


def world_from_cameras(cam2world: WideArray, half_angle_rad: WideArray) -> WideArray:
    """Returns the map f64 [4, 4] from the cameras' world to ours: a translation and a scale.

    The centre is the point nearest to all optical axes in the least-squares sense; the scale comes from the
    median over the cameras of the radius of the sphere around it that each sees.

    Args:
        cam2world: [V, 4, 4], OpenCV axes.
        half_angle_rad: Half the smaller field of view of each camera, [V].

    Raises:
        ValueError: The axes are parallel, or the cameras stand at the centre.
    """
    position, forward = cam2world[:, :3, 3], cam2world[:, :3, 2]
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    normal = across.mean(axis=0)
    if np.linalg.eigvalsh(normal)[0] < _SMALLEST_EIGENVALUE:
        raise ValueError("the optical axes of the cameras are parallel, so they have no common centre")
    centre = np.linalg.solve(normal, (across @ position[:, :, None]).mean(axis=0)[:, 0])
    distance = np.linalg.norm(position - centre, axis=1)
    radius = float(np.median(distance * np.sin(half_angle_rad)))
    if not radius > 0:
        raise ValueError("the cameras stand at the point that they look at")
    matrix = np.eye(4)
    scale = SEEN_RADIUS_WORLD / radius
    matrix[:3, :3] *= scale
    matrix[:3, 3] = -scale * centre
    return matrix


def moved_cameras(to_world: WideArray, cam2world: WideArray) -> WideArray:
    """Returns the cameras [V, 4, 4] after a map of translation and scale; their rotations stay."""
    moved = cam2world.copy()
    moved[:, :3, 3] = cam2world[:, :3, 3] @ to_world[:3, :3].T + to_world[:3, 3]
    return moved
