"""The baseline of bench_render: how most scripts render a dataset with Blender.

For every view: an empty scene, the mesh imported, a sun and a sky, a camera, 16 samples, a PNG. Run as a
process of its own: python -m tests.benchmarks.plain_render VIEWS SIZE MESH…; prints the CPU-seconds that
rendering took, Blender's start left out.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import bpy

from render_jobs.cameras import hemisphere_cameras, opencv_to_blender

SAMPLES, FOCAL = 16, 1.02


def render_view(mesh: str, camera_matrix: list[list[float]], size_px: int, target: Path) -> None:
    """Renders one view into one file."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.wm.obj_import(filepath=mesh)
    scene = bpy.context.scene
    scene.world = bpy.data.worlds.new("sky")
    sun = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.data.lens = FOCAL * camera.data.sensor_width
    camera.matrix_world = camera_matrix
    for thing in (sun, camera):
        scene.collection.objects.link(thing)
    scene.camera = camera
    scene.render.engine = "CYCLES"
    scene.cycles.samples = SAMPLES
    scene.cycles.use_denoising = False
    scene.render.film_transparent = True
    scene.render.resolution_x = scene.render.resolution_y = size_px
    scene.render.resolution_percentage = 100
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.render.filepath = str(target)
    bpy.ops.render.render(write_still=True)


def main() -> None:
    """Renders every mesh from every camera."""
    n_views, size_px = int(sys.argv[1]), int(sys.argv[2])
    cameras = [matrix.T.tolist() for matrix in opencv_to_blender(hemisphere_cameras(n_views, 1.3, 0))]
    with tempfile.TemporaryDirectory() as folder:
        render_view(sys.argv[3], cameras[0], size_px, Path(folder, "warm.png"))
        began = time.process_time()
        for number, mesh in enumerate(sys.argv[3:]):
            for view, camera in enumerate(cameras):
                render_view(mesh, camera, size_px, Path(folder, f"{number}-{view}.png"))
        sys.stderr.write(f"cpu_s {time.process_time() - began}\n")


if __name__ == "__main__":
    main()
