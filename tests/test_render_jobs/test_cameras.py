from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from render_jobs.cameras import (
    blender_to_opencv,
    heldout_mask,
    hemisphere_cameras,
    intrinsics,
    look_at_origin,
    opencv_to_blender,
    project,
    seed_for,
)


def test_camera_on_the_x_axis_by_hand() -> None:
    # At (1.3, 0, 0), looking along −x: forward = −x, down = −z,
    # right = down × forward = (0, 0, −1) × (−1, 0, 0) = (0, 1, 0).
    [cam2world] = look_at_origin(np.array([0.0]), np.array([0.0]), 1.3)
    expected = [[0, 0, -1, 1.3], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(cam2world, expected, atol=1e-7)


def test_projection_by_hand() -> None:
    # From (1.3, 0, 0) the point (0.3, 0.1, 0.2) has depth 1.0, is 0.1 to the right and 0.2 above the axis:
    # column 64 + 130.56·0.1 = 77.056, row 64 − 130.56·0.2 = 37.888.
    [cam2world] = look_at_origin(np.array([0.0]), np.array([0.0]), 1.3)
    [pixel] = project(np.array([[0.3, 0.1, 0.2]]), cam2world, intrinsics(1.02, 128, 128))
    np.testing.assert_allclose(pixel, [77.056, 37.888, 1.0], atol=1e-4)


def test_intrinsics_count_focal_in_widths_and_centre_the_axis() -> None:
    np.testing.assert_allclose(intrinsics(1.02, 100, 60), [[102, 0, 50], [0, 102, 30], [0, 0, 1]], rtol=1e-7)


@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_hemisphere_cameras_are_rigid_look_at_the_origin_and_stand_above(seed: int) -> None:
    cam2world = hemisphere_cameras(500, 1.3, seed)
    assert cam2world.dtype == np.float32
    rotation, centre = cam2world[:, :3, :3], cam2world[:, :3, 3]
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1) - np.eye(3), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(centre, axis=1), 1.3, atol=1e-6)
    np.testing.assert_allclose(rotation[:, :, 2], -centre / 1.3, atol=1e-6)
    assert (centre[:, 2] >= 0).all()
    assert (rotation[:, 2, 1] <= 1e-6).all(), "image rows must run downwards in the world"


def test_hemisphere_cameras_are_uniform_over_the_area() -> None:
    # Uniform over the area: height uniform in [0, 1] and azimuth uniform, for one camera over many seeds.
    first = np.array([hemisphere_cameras(1, 1.0, seed)[0, :3, 3] for seed in range(2000)])
    azimuth = (np.arctan2(first[:, 1], first[:, 0]) / (2 * np.pi)) % 1.0
    for values in (first[:, 2], azimuth):
        distance = np.abs(np.sort(values) - (np.arange(2000) + 0.5) / 2000).max()
        assert distance < 1.63 / np.sqrt(2000), "Kolmogorov-Smirnov, 1 % level"


def test_one_set_of_cameras_covers_the_hemisphere_evenly() -> None:
    centres = hemisphere_cameras(160, 1.0, 5)[:, :3, 3]
    directions = hemisphere_cameras(2000, 1.0, 6)[:, :3, 3]
    gap_deg = np.degrees(np.arccos(np.clip((directions @ centres.T).max(axis=1), -1, 1)))
    # 160 caps that cover a hemisphere exactly have a radius of arccos(1 − 1/160) = 6.4°.
    assert gap_deg.max() < 3 * 6.4


def test_the_pole_is_an_ordinary_camera() -> None:
    [cam2world] = look_at_origin(np.array([0.7]), np.array([1.0]), 1.3)
    assert np.isfinite(cam2world).all()
    np.testing.assert_allclose(np.linalg.det(cam2world[:3, :3]), 1.0, atol=1e-6)


def test_more_views_keep_the_first_cameras() -> None:
    np.testing.assert_array_equal(hemisphere_cameras(40, 1.3, 9)[:10], hemisphere_cameras(10, 1.3, 9))


def test_blender_axes_by_hand_and_round_trip() -> None:
    # OpenCV's identity camera looks along +z with +y down; in Blender's axes its y and z columns turn round.
    np.testing.assert_array_equal(opencv_to_blender(np.eye(4, dtype=np.float32)), np.diag([1, -1, -1, 1]))
    cam2world = hemisphere_cameras(7, 1.3, 3)
    np.testing.assert_array_equal(blender_to_opencv(opencv_to_blender(cam2world)), cam2world)
    np.testing.assert_array_equal(opencv_to_blender(cam2world)[:, :3, 3], cam2world[:, :3, 3])


@pytest.mark.parametrize(
    ("n", "fraction", "count"),
    [(40, 0.1, 4), (160, 0.1, 16), (5, 0.1, 1), (2, 0.0, 1), (3, 0.99, 2), (1, 0.5, 0)],
)
def test_heldout_count(n: int, fraction: float, count: int) -> None:
    mask = heldout_mask(n, fraction, 0)
    assert mask.dtype == np.bool_
    assert mask.shape == (n,)
    assert mask.sum() == count


def test_heldout_views_are_spread_by_the_seed() -> None:
    masks = np.array([heldout_mask(40, 0.1, seed) for seed in range(400)])
    share = masks.mean(axis=0)  # expected 0.1, standard deviation 0.015
    assert share.min() > 0.04
    assert share.max() < 0.16


def test_seeds_are_the_same_in_every_process() -> None:
    code = "from render_jobs.cameras import seed_for; print(seed_for(3, 'car-1', 'cameras'))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == seed_for(3, "car-1", "cameras")
    seeds = {seed_for(s, o, p) for s in (0, 1) for o in ("a", "b") for p in ("cameras", "heldout")}
    assert len(seeds) == 8
