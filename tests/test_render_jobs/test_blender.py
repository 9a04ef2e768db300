"""Where things appear in the image, and that a pixel depends on nothing but mesh, camera and settings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from render_jobs.cameras import hemisphere_cameras, intrinsics, opencv_to_blender, project, sphere_cameras
from render_jobs.config import RenderConfig
from render_jobs.normalize import transform_points
from render_jobs.poses import ObjectCameras, object_cameras, parse_rig
from render_jobs.worker import BlenderWorker
from tests.test_render_jobs.meshes import (
    COLOURED_CUBE,
    CUBE_CORNERS,
    as_input,
    cameras_at,
    cubes,
    render,
    write_mesh,
)

pytestmark = pytest.mark.bpy

# Corners of a box in file coordinates, so that normalisation has something to do, and an odd one inside.
POINTS = np.array(
    [[x, y, z] for x in (3, 7) for y in (-2, 0) for z in (10, 13)] + [[4.2, -0.7, 12.5]], dtype=float
)


def coverage(corners_px: np.ndarray, left: int, top: int, size: int) -> np.ndarray:
    """Share of each pixel that the outline of projected corners [8, 2] covers, by 32 × 32 points."""
    fine = (np.arange(32 * size) + 0.5) / 32
    points = np.stack(np.broadcast_arrays(fine[None] + left, fine[:, None] + top), axis=-1)
    distances = ConvexHull(corners_px).equations
    inside = (points @ distances[:, :2].T + distances[:, 2] <= 0).all(axis=-1)
    return inside.reshape(size, 32, size, 32).mean(axis=(1, 3))


def centroid(alpha: np.ndarray) -> np.ndarray:
    """Column and row of the mean of a window, in pixels."""
    rows, columns = np.mgrid[: alpha.shape[0], : alpha.shape[1]] + 0.5
    return np.array([(alpha * columns).sum(), (alpha * rows).sum()]) / alpha.sum()


def rig_file(width: int, height: int) -> bytes:
    """Cameras of a file: every one with a focal length, distance, roll and principal point of its own."""
    rng = np.random.default_rng(5)
    frames = []
    for camera in opencv_to_blender(sphere_cameras(8, 1.0, 4).astype(np.float64)):
        roll, distance = rng.uniform(-np.pi, np.pi), rng.uniform(1.1, 2.0)
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]]
        camera[:3, 3] *= distance
        f_px = 0.55 * width * distance
        centre = np.array([width, height]) / 2 + rng.uniform(-12, 12, 2)
        lens = {"fl_x": f_px, "fl_y": f_px, "cx": centre[0], "cy": centre[1]}
        frames.append({"transform_matrix": (camera @ turn).tolist(), **lens})
    return json.dumps({"w": width, "h": height, "frames": frames}).encode()


def cameras_of(poses: str, width: int, height: int, shift: tuple[float, float]) -> ObjectCameras:
    if poses == "file":
        config = RenderConfig(views=8, width=width, height=height, cameras="rig.json")
        return object_cameras(config, "a", parse_rig(rig_file(width, height), "rig.json"))
    focal = 1.02 if width == height else 0.7
    found = object_cameras(
        RenderConfig(views=8, width=width, height=height, focal=focal, poses=poses, seed=4), "a"
    )
    found.intrinsics[:, :2, 2] += shift
    return found


@pytest.mark.parametrize(
    ("poses", "width", "height", "shift"),
    [
        ("hemisphere", 128, 128, (0, 0)),
        ("hemisphere", 160, 96, (7.25, -4.5)),
        ("sphere", 96, 160, (-3.5, 11.75)),
        ("front", 128, 128, (0, 0)),
        ("file", 160, 160, (0, 0)),
    ],
)
def test_cubes_appear_where_the_camera_model_says(
    worker: BlenderWorker, tmp_path: Path, poses: str, width: int, height: int, shift: tuple[float, float]
) -> None:
    path = write_mesh(tmp_path, cubes(POINTS, 0.1))
    cam2world, matrices, _ = cameras_of(poses, width, height, shift)
    # With the default 8 samples alpha is too coarse to locate a spot of 2 × 2 pixels.
    config = RenderConfig(width=width, height=height, samples=128, clipping="allow")
    rendered = worker.render(as_input(path), cam2world, matrices, config)
    corners = transform_points(rendered.mesh_to_world, (POINTS[:, None] + 0.1 * CUBE_CORNERS).reshape(-1, 3))
    errors, areas = [], []
    for image, camera, matrix in zip(rendered.images, cam2world, matrices, strict=True):
        outlines = project(corners, camera, matrix)[:, :2].reshape(-1, 8, 2)
        centres = outlines.mean(axis=1)
        for i, outline in enumerate(outlines):
            gap = np.abs(np.delete(centres, i, axis=0) - centres[i]).max(axis=1).min()
            left, top = centres[i].astype(int) - 4
            if gap < 9 or min(left, top) < 0 or left + 9 > width or top + 9 > height:
                continue  # overlaps another cube, or is cut off
            alpha = image[top : top + 9, left : left + 9, 3] / 255.0
            expected = coverage(outline, left, top, 9)
            errors.append(centroid(alpha) - centroid(expected))
            areas.append(alpha.sum() / expected.sum())
    assert len(errors) > 30
    assert np.abs(errors).max() < 0.05, "pixels"
    assert np.abs(np.mean(errors, axis=0)).max() < 0.005, "pixels: no systematic shift"
    np.testing.assert_allclose(np.mean(areas), 1, atol=0.01)


def test_mesh_to_world_is_the_documented_map(worker: BlenderWorker, tmp_path: Path) -> None:
    # Box from (3, −2, 10) to (7, 0, 13) and the cubes' 0.05 all round: 4.1 × 2.1 × 3.1 around (5, −1, 11.5).
    rendered = render(worker, write_mesh(tmp_path, cubes(POINTS, 0.1)), cameras_at([0], [0.5]))
    scale = 1 / np.linalg.norm([4.1, 2.1, 3.1])
    expected = np.array(
        [[scale, 0, 0, -5 * scale], [0, 0, -scale, 11.5 * scale], [0, scale, 0, scale], [0, 0, 0, 1]]
    )
    np.testing.assert_allclose(rendered.mesh_to_world, expected, atol=1e-5)


def test_equal_bytes_in_another_process_after_another_history(worker: BlenderWorker, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first = write_mesh(tmp_path / "a", COLOURED_CUBE, "newmtl paint\nKd 0.9 0.3 0.1\n")
    second = write_mesh(tmp_path / "b", cubes(rng.uniform(-1, 1, (60, 3)), 0.3))
    cameras = hemisphere_cameras(6, 1.3, 1)
    render(worker, first, cameras)
    here = render(worker, second, cameras)
    with BlenderWorker() as other:
        there = render(other, second, cameras)
        render(other, first, cameras, samples=2)
        again = render(other, second, cameras)
        fewer = render(other, second, cameras[3:4])
    np.testing.assert_array_equal(here.images, there.images)
    np.testing.assert_array_equal(here.images, again.images)
    np.testing.assert_array_equal(here.images[3:4], fewer.images)


def test_settings_take_effect_in_a_running_child(worker: BlenderWorker, tmp_path: Path) -> None:
    path = write_mesh(tmp_path, COLOURED_CUBE, "newmtl paint\nKd 0.9 0.3 0.1\n")
    cameras = cameras_at([33], [0.4])
    levels = []
    for samples in (1, 8, 1):
        alpha = render(worker, path, cameras, samples=samples).images[..., 3]
        levels.append(len(np.unique(alpha)))
    assert levels[0] == levels[2] == 2, "one sample: covered or not"
    assert levels[1] > 4
    assert render(worker, path, cameras, size=48).images.shape == (1, 48, 48, 4)


CROP_SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from render_jobs.blender import CyclesSession
from render_jobs.cameras import hemisphere_cameras, intrinsics
from render_jobs.mesh_file import MeshInput
from render_jobs.prepare import prepare_mesh
from render_jobs.scene import load_mesh
width, height = map(int, sys.argv[2:])
session = CyclesSession(width, height, samples=8, bounces=0, shading="default")
path = Path(sys.argv[1])
(path.parent / "private").mkdir()
mesh = load_mesh(prepare_mesh(MeshInput(path, path.parent), path.parent / "private"), "default")
cameras = hemisphere_cameras(5, 1.3, 2), np.repeat(intrinsics(0.7, width, height)[None], 5, 0)
cropped = session.render_views(mesh, *cameras)
session._crop = lambda *_: (0, 0, width, height)
whole = session.render_views(mesh, *cameras)
assert cropped[..., 3].any(axis=(1, 2)).all()
assert (cropped == whole).all(), np.argwhere(cropped != whole)[:5]
"""


@pytest.mark.parametrize(("width", "height"), [(96, 64), (224, 224), (127, 93)])
def test_the_crop_changes_no_pixel(width: int, height: int, tmp_path: Path) -> None:
    # At 224 px an edge's share of the width is no exact float32: Blender once truncated it a pixel too far.
    path = write_mesh(tmp_path, cubes(np.random.default_rng(1).uniform(-1, 1, (20, 3)), 0.3))
    done = subprocess.run(
        [sys.executable, "-c", CROP_SCRIPT, str(path), str(width), str(height)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_camera_inside_the_mesh_sees_it_all_round(worker: BlenderWorker, tmp_path: Path) -> None:
    camera = np.eye(4, dtype=np.float32)[None]
    image = render(
        worker, write_mesh(tmp_path, COLOURED_CUBE, "newmtl paint\nKd 1 0 0\n"), camera, clipping="allow"
    ).images[0]
    assert (image[..., 3] == 255).all()


def test_cameras_that_blender_cannot_have_are_refused(worker: BlenderWorker, tmp_path: Path) -> None:
    matrix = intrinsics(1.0, 64, 64)
    matrix[1, 1] *= 2
    path = write_mesh(tmp_path, COLOURED_CUBE, "newmtl paint\n")
    with pytest.raises(Exception, match="square"):
        worker.render(as_input(path), cameras_at([0], [0]), matrix[None], RenderConfig(width=64, height=64))
