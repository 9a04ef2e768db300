"""Depth and normals against geometry worked out by hand, through the real renderer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from render_jobs.cameras import intrinsics, ray_lengths
from render_jobs.config import ExecutionLimits
from render_jobs.worker import BlenderWorker
from storage.errors import EnvironmentProblem
from tests.test_render_jobs.meshes import COLOURED_CUBE, cameras_at, render, write_mesh

BOTH = ("depth", "normals")
HALF_CUBE = 0.5 / np.sqrt(3.0)  # a cube of bounding-box diagonal 1


def rays(cam2world: np.ndarray, size: int) -> np.ndarray:
    """Unit directions through the pixel centres, world frame, [H, W, 3]."""
    matrix = intrinsics(1.02, size, size)
    pixels = np.arange(size) + 0.5
    x, y = np.meshgrid((pixels - matrix[0, 2]) / matrix[0, 0], (pixels - matrix[1, 2]) / matrix[1, 1])
    directions = np.stack([x, y, np.ones_like(x)], -1) @ cam2world[:3, :3].T
    return directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def box_entry(origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the cube's surface along each ray (inf outside), and the normal there: slab by slab."""
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (-HALF_CUBE - origin) / directions, (HALF_CUBE - origin) / directions
    near, far = np.minimum(first, second), np.maximum(first, second)
    entry, axis = near.max(-1), near.argmax(-1)
    hit = entry < far.min(-1)
    normals = np.eye(3)[axis] * -np.sign(directions)
    return np.where(hit, entry, np.inf), normals * hit[..., None]


def test_depth_and_normals_of_a_cube(worker: BlenderWorker, tmp_path: Path) -> None:
    cameras = cameras_at([20, 130], [0.3, -0.6])
    rendered = render(worker, write_mesh(tmp_path, COLOURED_CUBE, "newmtl paint\n"), cameras, 64, passes=BOTH)
    depth, normals = rendered.passes["depth"], rendered.passes["normals"]
    assert depth.dtype == np.float32
    assert normals.dtype == np.float16
    for view, camera in enumerate(cameras):
        expected, facing = box_entry(camera[:3, 3], rays(camera, 64))
        agree = np.isfinite(depth[view]) == np.isfinite(expected)
        assert agree.mean() > 0.998  # the filter's width of 0.01 px may take a pixel on the very edge
        both = np.isfinite(depth[view]) & np.isfinite(expected)
        assert both.sum() > 500
        error = np.abs(depth[view][both] - expected[both])
        assert np.median(error) < 2e-5
        assert np.quantile(error, 0.99) < 5e-4
        same = np.abs(normals[view] - facing)[both].max(-1) < 2e-3
        assert same.mean() > 0.99
        assert not normals[view][~np.isfinite(depth[view])].any()


def test_passes_change_no_colour_and_no_later_render(worker: BlenderWorker, tmp_path: Path) -> None:
    path, cameras = write_mesh(tmp_path, COLOURED_CUBE, "newmtl paint\n"), cameras_at([30, 200], [0.4, 0.1])
    plain = render(worker, path, cameras)
    assert plain.passes == {}
    with_passes = render(worker, path, cameras, passes=BOTH)
    assert with_passes.images.tobytes() == plain.images.tobytes()
    assert render(worker, path, cameras).images.tobytes() == plain.images.tobytes()
    alone = render(worker, path, cameras, passes=("depth",))
    assert list(alone.passes) == ["depth"]
    assert alone.passes["depth"].tobytes() == with_passes.passes["depth"].tobytes()


def test_back_faces_show_normals_towards_the_camera(worker: BlenderWorker, tmp_path: Path) -> None:
    square = "v -1 -1 0\nv 1 -1 0\nv 1 1 0\nv -1 1 0\nf 1 2 3 4\n"  # file z is −y of the world
    cameras = cameras_at([90, -90], [0.0, 0.0])  # from the front (+y), and from behind
    normals = render(worker, write_mesh(tmp_path, square), cameras, passes=BOTH).passes["normals"]
    np.testing.assert_allclose(normals[0, 32, 32], [0, 1, 0], atol=1e-3)
    np.testing.assert_allclose(normals[1, 32, 32], [0, -1, 0], atol=1e-3)


def test_ray_lengths_by_hand() -> None:
    # f = 2 px, centre (2, 1): the pixel at row 0, column 3 looks along (1.5 / 2, −0.5 / 2, 1).
    matrix = np.array([[2.0, 0, 2.0], [0, 2.0, 1.0], [0, 0, 1]], np.float32)
    lengths = ray_lengths(matrix, 4, 2)
    assert lengths.shape == (2, 4)
    assert lengths[0, 3] == pytest.approx(np.sqrt(1 + 0.75**2 + 0.25**2))


@pytest.mark.parametrize("device", ["cuda", "optix"])
def test_a_gpu_that_is_not_there_is_a_problem_of_the_environment(device: str, tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    limits = ExecutionLimits(device=device)  # type: ignore[arg-type]
    with BlenderWorker(limits) as worker, pytest.raises(EnvironmentProblem, match=f"no {device} device"):
        render(worker, write_mesh(tmp_path, COLOURED_CUBE, "newmtl paint\n"), cameras_at([0], [0]))
