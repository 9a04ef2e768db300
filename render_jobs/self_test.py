"""A cube through the whole render path: tells whether Blender works on this machine."""

from __future__ import annotations

import time

import numpy as np

from render_jobs.cameras import hemisphere_cameras, intrinsics
from render_jobs.config import ExecutionLimits, RenderConfig
from render_jobs.mesh_file import MeshInput
from render_jobs.worker import BlenderWorker, RenderFailure
from storage.records import Failure

CUBE = """\
v -1 -1 -1
v 1 -1 -1
v 1 1 -1
v -1 1 -1
v -1 -1 1
v 1 -1 1
v 1 1 1
v -1 1 1
f 4 3 2 1
f 5 6 7 8
f 1 2 6 5
f 3 4 8 7
f 2 3 7 6
f 4 1 5 8
"""


def render_cube(size_px: int) -> tuple[str, float]:
    """Renders one view of a cube and returns Blender's version and the seconds that it took, start included.

    Raises:
        RenderFailure: nothing, or nothing visible, was rendered.
        EnvironmentProblem: Blender does not start.
    """
    began = time.monotonic()
    config = RenderConfig(views=2, width=size_px, height=size_px)
    with BlenderWorker(ExecutionLimits(startup_s=120.0, deadline_s=60.0)) as worker:
        mesh = worker.folder / "cube.obj"
        mesh.write_text(CUBE)
        cameras = hemisphere_cameras(1, config.radius_world, seed=0)
        camera = np.stack([intrinsics(config.focal, size_px, size_px)])
        rendered = worker.render(MeshInput(mesh, worker.folder), cameras, camera, config)
    if not rendered.images[..., 3].any():
        raise RenderFailure(Failure("empty_render", "the cube is invisible"))
    return f"Blender {rendered.info['bpy']}", time.monotonic() - began
