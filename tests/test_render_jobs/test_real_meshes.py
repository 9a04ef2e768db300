"""The loader and the renderer on real meshes, given by FPIPE_TEST_MESHES in ShapeNet v2 layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from render_jobs.cameras import hemisphere_cameras, seed_for
from render_jobs.sources.base import make_source
from render_jobs.worker import BlenderWorker
from tests.test_render_jobs.meshes import cameras_at, render

pytestmark = pytest.mark.bpy


def test_every_real_mesh_renders_whole_inside_the_frame_and_lit(
    worker: BlenderWorker, real_meshes: Path, tmp_path: Path
) -> None:
    source = make_source({"kind": "shapenet", "path": str(real_meshes)})
    entries = source.list({}, 0)
    assert len(entries) == len(list(real_meshes.glob("*/*/models/model_normalized.obj")))
    textured = 0
    for entry in entries:
        cameras = hemisphere_cameras(3, 1.3, seed_for(0, entry.object_id, "cameras"))
        images, _, mesh_to_world, info = render(worker, source.fetch(entry, tmp_path), cameras, size=128)
        alpha = images[..., 3]
        name = entry.object_id
        assert info["warnings"] == [], name
        assert (alpha.max(axis=(1, 2)) == 255).all(), name
        assert (alpha > 0).mean() > 0.01, name
        assert not alpha[:, [0, -1]].any(), f"{name} is cut off"
        assert not alpha[:, :, [0, -1]].any(), f"{name} is cut off"
        magenta = (images[..., 0] > 230) & (images[..., 1] < 20) & (images[..., 2] > 230)
        assert not magenta.any(), f"{name} misses a texture"
        assert images[alpha == 255][:, :3].max(axis=1).mean() > 30, f"{name} is black"
        assert np.isfinite(mesh_to_world).all()
        textured += info["n_textures"] > 0
    if len(entries) == 83:
        assert textured >= 25


def test_cars_stand_upright_and_along_the_second_axis(
    worker: BlenderWorker, real_meshes: Path, tmp_path: Path
) -> None:
    """ShapeNet's cars are longest along the file's z, the world's y, and lowest along the world's z or x."""
    source = make_source({"kind": "shapenet", "path": str(real_meshes)})
    upright = []
    for entry in source.list({"car": None}, 0):
        front, side = (
            render(worker, source.fetch(entry, tmp_path), cameras_at([90, 0], [0, 0])).images[..., 3] > 127
        )
        width, length = (np.ptp(np.flatnonzero(mask.any(axis=0))) for mask in (front, side))
        upright.append(length > 1.3 * width)
    assert np.mean(upright) > 0.9
