"""The Cycles session: settings, lights, camera, crop, pixels without files. Runs in the child process only.

Images are u8 [V, H, W, 4], straight alpha, sRGB, row 0 on top. A pixel's value depends on the mesh, its
camera and the settings, and on nothing else: seed, samples and filter are fixed, and the crop is aligned with
pixels. Depth and normals are those of the surface behind the pixel's centre, not means over the pixel: a mean
of two depths lies on neither surface.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bpy
import numpy as np
import numpy.typing as npt

from render_jobs.cameras import hemisphere_cameras, intrinsics, opencv_to_blender, project, ray_lengths
from render_jobs.devices import use_device
from render_jobs.mesh_file import MeshInput
from render_jobs.prepare import prepare_mesh
from render_jobs.scene import LoadedMesh, load_mesh
from render_jobs.shading import SUN_DIRECTION

if TYPE_CHECKING:
    from render_jobs.config import Device

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
Crop = tuple[int, int, int, int]
Region = tuple[slice, slice]

_MARGIN_PX = 2
_NEAR_WORLD, _FAR_WORLD = 0.01, 100.0
_CENTRE_WIDTH_PX = 0.01  # the least that Cycles' filter_width takes
# Light of the "diffuse" shading: radiance of a white sky and irradiance of one sun, a white face stays below
# 1.
_SKY_RADIANCE, _SUN_IRRADIANCE = 0.55, 1.2


def versions() -> dict[str, str]:
    """Returns the versions that images depend on."""
    return {"bpy": bpy.app.version_string, "numpy": np.__version__}


class CyclesSession:
    """One Blender scene that renders one mesh after the other."""

    def __init__(
        self, width: int, height: int, samples: int, bounces: int, shading: str, device: Device = "cpu"
    ) -> None:
        bpy.ops.wm.read_factory_settings(use_empty=True)
        self._size = (width, height)
        self._captured: list[dict[str, FloatArray]] = []
        self._scene = bpy.context.scene
        self._camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
        self._scene.collection.objects.link(self._camera)
        self._scene.camera = self._camera
        self._set_output(width, height)
        self._set_cycles(samples, bounces)
        use_device(self._scene, device)
        if shading == "diffuse":
            self._add_lights()
        self._capture_pixels()

    def _set_output(self, width: int, height: int) -> None:
        render = self._scene.render
        render.engine = "CYCLES"
        render.resolution_x, render.resolution_y, render.resolution_percentage = width, height, 100
        render.film_transparent = True
        render.use_persistent_data = True
        render.use_border = render.use_crop_to_border = True
        render.threads_mode, render.threads = "FIXED", 1
        render.use_compositing = render.use_sequencer = False
        render.dither_intensity = 0.0
        self._scene.view_settings.view_transform = "Standard"

    def _set_cycles(self, samples: int, bounces: int) -> None:
        cycles = self._scene.cycles
        cycles.seed = 0
        cycles.sampling_pattern = "TABULATED_SOBOL"
        cycles.use_adaptive_sampling = cycles.use_denoising = False
        cycles.use_light_tree = cycles.use_auto_tile = False
        cycles.max_bounces = cycles.diffuse_bounces = bounces
        cycles.glossy_bounces = cycles.transmission_bounces = cycles.volume_bounces = 0
        cycles.transparent_max_bounces = 64
        self._samples = samples
        self._sample_areas()

    def _sample_areas(self) -> None:
        """A pixel is the mean over its area."""
        cycles = self._scene.cycles
        cycles.samples, cycles.pixel_filter_type = self._samples, "BOX"
        layer = self._scene.view_layers[0]
        layer.use_pass_z = layer.use_pass_normal = False
        self._scene.update_tag()  # persistent data ignores changed settings without it

    def _sample_centres(self, names: Collection[str]) -> None:
        """A pixel is one ray through its centre: Cycles fills depth and normal from its first sample."""
        cycles = self._scene.cycles
        cycles.samples, cycles.pixel_filter_type, cycles.filter_width = 1, "GAUSSIAN", _CENTRE_WIDTH_PX
        layer = self._scene.view_layers[0]
        layer.use_pass_z, layer.use_pass_normal = "depth" in names, "normals" in names
        self._scene.update_tag()

    def _add_lights(self) -> None:
        world = bpy.data.worlds.new("sky")
        self._scene.world = world
        background = next(n for n in world.node_tree.nodes if n.type == "BACKGROUND")
        background.inputs["Color"].default_value = (1.0, 1.0, 1.0, 1.0)
        background.inputs["Strength"].default_value = _SKY_RADIANCE
        light = bpy.data.lights.new("sun", "SUN")
        light.energy = _SUN_IRRADIANCE
        sun = bpy.data.objects.new("sun", light)
        sun.matrix_world = _towards(SUN_DIRECTION).T.tolist()
        self._scene.collection.objects.link(sun)

    def _capture_pixels(self) -> None:
        """Takes Cycles' pixels from its engine: the "Render Result" image has none in background mode."""
        from cycles import CyclesRender, engine

        session = self

        def render(self: CyclesRender, depsgraph: bpy.types.Depsgraph) -> None:
            engine.render(self, depsgraph)
            result = self.get_result()
            size = (result.resolution_y, result.resolution_x)
            session._captured.append({p.name: _pixels(p, size) for p in result.layers[0].passes})

        CyclesRender.render = render

    def render_views(self, mesh: LoadedMesh, cam2world: FloatArray, intrinsics_px: FloatArray) -> ByteArray:
        """Renders the loaded mesh from every camera.

        Args:
            mesh: The loaded mesh; its vertices bound the crop.
            cam2world: [V, 4, 4], OpenCV axes, no scale.
            intrinsics_px: [V, 3, 3]; square pixels, no skew.

        Returns:
            u8 [V, H, W, 4].

        Raises:
            ValueError: Intrinsics that Blender's camera cannot have.
        """
        width, height = self._size
        images = np.zeros((len(cam2world), height, width, 4), dtype=np.uint8)
        for view, region, passes in self._crops(mesh, cam2world, intrinsics_px):
            images[view][region] = straight_srgb(passes["Combined"])
        return images

    def render_passes(
        self, mesh: LoadedMesh, cam2world: FloatArray, intrinsics_px: FloatArray, names: Collection[str]
    ) -> dict[str, npt.NDArray[Any]]:
        """Renders the geometry behind every pixel's centre; see `render_views` for the arguments.

        Args:
            mesh: The loaded mesh.
            cam2world: [V, 4, 4].
            intrinsics_px: [V, 3, 3].
            names: Which of "depth" and "normals".

        Returns:
            depth: f32 [V, H, W], distance along the ray in world units, inf where there is nothing.
            normals: f16 [V, H, W, 3], unit, in the world frame, towards the camera; 0 where there is nothing.
        """
        shape = (len(cam2world), self._size[1], self._size[0])
        depth = np.full(shape, np.inf, dtype=np.float32)
        normals = np.zeros((*shape, 3), dtype=np.float16)
        if not names:
            return {}
        self._sample_centres(names)
        try:
            for view, region, passes in self._crops(mesh, cam2world, intrinsics_px):
                if "depth" in names:
                    planar = passes["Depth"][..., 0]
                    distance = planar * ray_lengths(intrinsics_px[view], *self._size)[region]
                    depth[view][region] = np.where(planar < _FAR_WORLD, distance, np.inf)
                if "normals" in names:
                    normals[view][region] = passes["Normal"]
        finally:
            self._sample_areas()
        return {name: array for name, array in (("depth", depth), ("normals", normals)) if name in names}

    def _crops(
        self, mesh: LoadedMesh, cam2world: FloatArray, intrinsics_px: FloatArray
    ) -> Iterator[tuple[int, Region, dict[str, FloatArray]]]:
        """Renders the part of every view that can show the mesh; yields view, region, passes [h, w, C]."""
        for view, (camera, matrix) in enumerate(zip(cam2world, intrinsics_px, strict=True)):
            self._set_camera(camera, matrix)
            left, top, right, bottom = crop = self._crop(mesh.vertices_world, camera, matrix)
            if left < right and top < bottom:
                yield view, np.s_[top:bottom, left:right], self._render_crop(crop)

    def _set_camera(self, cam2world: FloatArray, matrix: FloatArray) -> None:
        if abs(matrix[0, 0] - matrix[1, 1]) > 1e-3 or matrix[0, 1] != 0:
            raise ValueError("pixels must be square and without skew")
        width, height = self._size
        data = self._camera.data
        data.sensor_fit = "HORIZONTAL"
        data.lens = float(matrix[0, 0]) / width * data.sensor_width
        data.shift_x = (width / 2 - float(matrix[0, 2])) / width
        data.shift_y = (float(matrix[1, 2]) - height / 2) / width
        data.clip_start, data.clip_end = _NEAR_WORLD, _FAR_WORLD
        self._camera.matrix_world = opencv_to_blender(cam2world).T.tolist()

    def _crop(self, vertices: npt.NDArray[np.float64], camera: FloatArray, matrix: FloatArray) -> Crop:
        """Returns left, top, right, bottom of the vertices in the image, in whole pixels, with a margin."""
        width, height = self._size
        pixels = project(vertices, camera, matrix)
        if pixels[:, 2].min() <= _NEAR_WORLD:
            return 0, 0, width, height
        low = np.floor(pixels[:, :2].min(axis=0)).astype(int) - _MARGIN_PX
        high = np.ceil(pixels[:, :2].max(axis=0)).astype(int) + _MARGIN_PX
        left, top = np.clip(low, 0, (width, height))
        right, bottom = np.clip(high, 0, (width, height))
        return int(left), int(top), int(right), int(bottom)

    def _render_crop(self, crop: Crop) -> dict[str, FloatArray]:
        left, top, right, bottom = crop
        width, height = self._size
        render = self._scene.render
        render.border_min_x, render.border_max_x = _border(left, width), _border(right, width)
        render.border_min_y, render.border_max_y = (
            _border(height - bottom, height),
            _border(height - top, height),
        )
        self._captured.clear()
        bpy.ops.render.render()
        got = [passes["Combined"].shape[:2] for passes in self._captured]
        if got != [(bottom - top, right - left)]:
            raise RuntimeError(f"Cycles returned {got} for the crop {crop}")
        return {name: pixels[::-1] for name, pixels in self._captured[0].items()}


def _pixels(render_pass: Any, size: tuple[int, int]) -> FloatArray:
    """Returns one pass of Cycles, [h, w, C], row 0 at the bottom."""
    pixels = np.empty((*size, render_pass.channels), dtype=np.float32)
    render_pass.rect.foreach_get(pixels.reshape(-1))
    return pixels


def _border(edge_px: int, size_px: int) -> float:
    """Returns the border that Blender truncates to edge_px: half a pixel more, against float32."""
    return min(1.0, (edge_px + 0.5) / size_px)


def straight_srgb(premultiplied: FloatArray) -> ByteArray:
    """Converts linear premultiplied RGBA [..., 4] to straight-alpha sRGB u8; clear pixels become zero."""
    alpha = np.clip(premultiplied[..., 3:], 0.0, 1.0)
    linear = np.clip(premultiplied[..., :3] / np.maximum(alpha, 1e-6), 0.0, 1.0)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    rgba = np.concatenate([srgb, alpha], axis=-1)
    rgba[alpha[..., 0] < 0.5 / 255] = 0.0
    rounded: ByteArray = (rgba * 255.0 + 0.5).astype(np.uint8)
    return rounded


def _towards(direction: tuple[float, float, float]) -> FloatArray:
    """Returns a rotation [4, 4] whose +z axis points along a direction: a sun lamp shines along its −z."""
    z = np.asarray(direction) / np.linalg.norm(direction)
    x = np.cross((0.0, 1.0, 0.0), z)
    x /= np.linalg.norm(x)
    matrix = np.eye(4, dtype=np.float32)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = x, np.cross(z, x), z
    return matrix


def self_test(device: Device = "cpu", size_px: int = 16) -> None:
    """Renders one triangle from one camera.

    Raises:
        RuntimeError: The image is empty.
        DeviceError: There is no such device.
    """
    session = CyclesSession(size_px, size_px, samples=1, bounces=0, shading="default", device=device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "triangle.obj"
        path.write_text("v 0 0 0\nv 1 0 0\nv 0 0 -1\nf 1 2 3\n")
        private = Path(folder) / "private"
        private.mkdir()
        mesh = load_mesh(prepare_mesh(MeshInput(path, path.parent), private), "default")
    images = session.render_views(
        mesh, hemisphere_cameras(1, 1.3, 0), intrinsics(1.02, size_px, size_px)[None]
    )
    if not images[..., 3].any():
        raise RuntimeError("Blender renders empty images")
