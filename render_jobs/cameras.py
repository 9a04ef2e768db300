"""Cameras of a render job: where they stand, what they see, which are held out.

Conventions: OpenCV camera axes (+x right, +y down, +z forward), `cam2world` is 4×4 on column vectors, world
z-up, lengths in world units. Pixel centres lie at +0.5, row 0 is the top row, the principal point is (W/2,
H/2). Blender's camera axes (+y up, −z forward) are converted here and nowhere else.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
AnyFloatArray = TypeVar("AnyFloatArray", npt.NDArray[np.float32], npt.NDArray[np.float64])

# Steps of the two-dimensional R2 sequence (Roberts 2018): powers of 1/ρ, with ρ the real root of ρ³ = ρ + 1.
_PLASTIC = 1.32471795724474602596
_R2_STEPS = (1.0 / _PLASTIC, 1.0 / _PLASTIC**2)
_FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0]).astype(np.float32)


def seed_for(seed: int, object_id: str, purpose: str) -> int:
    """Returns the 64-bit seed of one object and purpose: stable over machines, processes and versions."""
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{object_id}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def hemisphere_cameras(n: int, radius_world: float, seed: int) -> FloatArray:
    """Places cameras on the upper hemisphere, each looking at the origin with the world's z up in the image.

    Every camera alone is uniform over the hemisphere's area; together they are spread evenly, because they
    follow a low-discrepancy sequence with a seeded random shift. The first k of n cameras are the cameras of
    n = k.

    Args:
        n: Number of cameras.
        radius_world: Distance from the origin, in world units.
        seed: Seed of the shift.

    Returns:
        cam2world, f32 [n, 4, 4].
    """
    return _spread_cameras(n, radius_world, seed, azimuth_rad=(0.0, 2.0 * np.pi), height=(0.0, 1.0))


def sphere_cameras(n: int, radius_world: float, seed: int) -> FloatArray:
    """Places cameras on the whole sphere, spread and seeded like `hemisphere_cameras`; f32 [n, 4, 4]."""
    return _spread_cameras(n, radius_world, seed, azimuth_rad=(0.0, 2.0 * np.pi), height=(-1.0, 1.0))


def front_cameras(
    n: int, radius_world: float, seed: int, azimuth_deg: float, elevation_deg: float
) -> FloatArray:
    """Places cameras before the object's front, which is the world's +y.

    They are spread and seeded like `hemisphere_cameras`, uniform over the area of the patch of the sphere
    within both angles.

    Args:
        n: Number of cameras.
        radius_world: Distance from the origin, in world units.
        seed: Seed of the shift.
        azimuth_deg: Largest angle about z from +y, to either side.
        elevation_deg: Largest angle above and below the horizon.

    Returns:
        cam2world, f32 [n, 4, 4].
    """
    half, top = np.radians(azimuth_deg), float(np.sin(np.radians(elevation_deg)))
    around_front = (np.pi / 2 - half, np.pi / 2 + half)
    return _spread_cameras(n, radius_world, seed, azimuth_rad=around_front, height=(-top, top))


def _spread_cameras(
    n: int,
    radius_world: float,
    seed: int,
    azimuth_rad: tuple[float, float],
    height: tuple[float, float],
) -> FloatArray:
    """Cameras on the part of a sphere between two azimuths and two heights (sines of the elevation)."""
    shift = np.random.default_rng(seed).random(2)
    unit = (shift + np.arange(n)[:, None] * np.asarray(_R2_STEPS)) % 1.0
    low, span = np.array([azimuth_rad[0], height[0]]), np.ptp([azimuth_rad, height], axis=1)
    place = low + span * unit
    return look_at_origin(azimuth_rad=place[:, 0], height=place[:, 1], radius_world=radius_world)


def orbit_cameras(n: int, elevation_deg: float, radius_world: float) -> FloatArray:
    """Places cameras on a circle around the z axis that look at the origin, the first one at azimuth 0.

    Args:
        n: Number of cameras.
        elevation_deg: Above the horizon.
        radius_world: Distance from the origin, in world units.

    Returns:
        cam2world, f32 [n, 4, 4].
    """
    azimuth_rad = np.arange(n) * (2 * np.pi / n)
    return look_at_origin(azimuth_rad, np.full(n, np.sin(np.radians(elevation_deg))), radius_world)


def look_at_origin(
    azimuth_rad: npt.NDArray[np.float64], height: npt.NDArray[np.float64], radius_world: float
) -> FloatArray:
    """Returns cameras that look at the origin from a sphere around it.

    The right axis follows from the azimuth alone, so the pole is no special case.

    Args:
        azimuth_rad: Angle about z from +x towards +y, [n].
        height: Sine of the elevation, in [−1, 1], [n].
        radius_world: Radius of the sphere, in world units.

    Returns:
        cam2world, f32 [n, 4, 4].
    """
    cosine = np.sqrt(np.maximum(0.0, 1.0 - height**2))
    outward = np.stack([np.cos(azimuth_rad) * cosine, np.sin(azimuth_rad) * cosine, height], axis=-1)
    right = np.stack([-np.sin(azimuth_rad), np.cos(azimuth_rad), np.zeros_like(azimuth_rad)], axis=-1)
    cam2world = np.zeros((len(azimuth_rad), 4, 4))
    cam2world[:, :3, 0] = right
    cam2world[:, :3, 1] = np.cross(-outward, right)
    cam2world[:, :3, 2] = -outward
    cam2world[:, :3, 3] = radius_world * outward
    cam2world[:, 3, 3] = 1.0
    return cam2world.astype(np.float32)


def intrinsics(focal: float, width: int, height: int) -> FloatArray:
    """Returns the pinhole matrix in pixels, f32 [3, 3].

    Args:
        focal: Focal length in image widths.
        width: Image width in pixels.
        height: Image height in pixels; pixels are square.
    """
    f_px = focal * width
    return np.array([[f_px, 0.0, width / 2], [0.0, f_px, height / 2], [0.0, 0.0, 1.0]], dtype=np.float32)


def opencv_to_blender(cam2world: AnyFloatArray) -> AnyFloatArray:
    """Converts camera axes [..., 4, 4] from OpenCV's to Blender's; the camera stays where it is."""
    return (cam2world @ _FLIP_YZ).astype(cam2world.dtype)


def blender_to_opencv(cam2world: AnyFloatArray) -> AnyFloatArray:
    """Converts camera axes [..., 4, 4] from Blender's to OpenCV's; undoes `opencv_to_blender`.

    The axes of OpenGL, NeRF and nerfstudio are Blender's.
    """
    return (cam2world @ _FLIP_YZ).astype(cam2world.dtype)


def project(
    points_world: npt.NDArray[np.floating[Any]], cam2world: FloatArray, intrinsics_px: FloatArray
) -> npt.NDArray[np.float64]:
    """Projects world points [P, 3] into one camera: column and row in pixels, planar depth in world units."""
    world2cam = np.linalg.inv(cam2world.astype(np.float64))
    in_camera = points_world @ world2cam[:3, :3].T + world2cam[:3, 3]
    homogeneous = in_camera @ intrinsics_px.astype(np.float64).T
    depth = homogeneous[:, 2:]
    return np.concatenate([homogeneous[:, :2] / depth, depth], axis=1)


def ray_lengths(intrinsics_px: FloatArray, width: int, height: int) -> FloatArray:
    """Returns the length of each pixel's ray per unit of planar depth, f32 [H, W], for pixel centres."""
    x = (np.arange(width) + 0.5 - intrinsics_px[0, 2]) / intrinsics_px[0, 0]
    y = (np.arange(height) + 0.5 - intrinsics_px[1, 2]) / intrinsics_px[1, 1]
    lengths: FloatArray = np.sqrt(1.0 + x[None, :] ** 2 + y[:, None] ** 2).astype(np.float32)
    return lengths


def heldout_count(n: int, fraction: float) -> int:
    """Returns how many of n views are held out."""
    return min(max(1, round(n * fraction)), n - 1) if n > 1 else 0


def heldout_mask(n: int, fraction: float, seed: int) -> BoolArray:
    """Draws the held-out views: round(n · fraction) of n, at least one and never all (n ≥ 2).

    Returns:
        bool [n], true where a view serves final metrics only.
    """
    mask = np.zeros(n, dtype=np.bool_)
    mask[np.random.default_rng(seed).permutation(n)[: heldout_count(n, fraction)]] = True
    return mask
