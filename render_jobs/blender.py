"""The Cycles session: settings, camera, crop, and pixels without files. Runs in the child process only.

Images are u8 [V, H, W, 4], straight alpha, sRGB. A pixel's value depends on the mesh, the camera and the settings,
and on nothing else: seed, samples and filter are fixed, and the crop is aligned with pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import addon_utils
import bpy
import numpy as np
import numpy.typing as npt

from render_jobs.cameras import opencv_to_blender, project
from render_jobs.scene import LoadedMesh

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

_MARGIN_PX = 2


class CyclesSession:
    """One Blender scene that renders one mesh after the other."""

    def __init__(self, width: int, height: int, samples: int, bounces: int) -> None:
        bpy.ops.wm.read_factory_settings(use_empty=True)
        self._size = (width, height)
        self._captured: FloatArray | None = None
        self._scene = bpy.context.scene
        self._configure(width, height, samples, bounces)
        self._camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
        self._scene.collection.objects.link(self._camera)
        self._scene.camera = self._camera
        self._patch_capture()

    def _configure(self, width: int, height: int, samples: int, bounces: int) -> None:
        render, cycles = self._scene.render, None
        render.engine = "CYCLES"
        cycles = self._scene.cycles
        render.resolution_x, render.resolution_y, render.resolution_percentage = width, height, 100
        render.film_transparent = True
        render.use_persistent_data = True
        render.use_border = render.use_crop_to_border = True
        render.threads_mode, render.threads = "FIXED", 1
        render.use_compositing = render.use_sequencer = False
        render.dither_intensity = 0.0
        cycles.device = "CPU"
        cycles.samples = samples
        cycles.seed = 0
        cycles.pixel_filter_type = "BOX"
        cycles.sampling_pattern = "TABULATED_SOBOL"
        cycles.use_adaptive_sampling = False
        cycles.use_denoising = False
        cycles.use_light_tree = False
        cycles.use_auto_tile = False
        cycles.max_bounces = cycles.diffuse_bounces = bounces
        cycles.glossy_bounces = cycles.transmission_bounces = cycles.volume_bounces = 0
        cycles.transparent_max_bounces = 32
        self._scene.view_settings.view_transform = "Standard"

    def _patch_capture(self) -> None:
        """Makes Cycles hand its pixels over: the "Render Result" image has none in background mode."""
        from cycles import CyclesRender, engine

        session = self

        def render(self: CyclesRender, depsgraph: bpy.types.Depsgraph) -> None:
            engine.render(self, depsgraph)
            result = self.get_result()
            layer = result.layers[0].passes
            combined = next(p for p in layer if p.name == "Combined")
            pixels = np.empty((result.resolution_y, result.resolution_x, 4), dtype=np.float32)
            combined.rect.foreach_get(pixels.reshape(-1))
            session._captured = pixels

        CyclesRender.render = render

    def render_views(self, mesh: LoadedMesh, cam2world: FloatArray, intrinsics: FloatArray) -> Iterator[ByteArray]:
        """Renders the loaded mesh; yields u8 [H, W, 4] per camera.

        Args:
            mesh: The loaded mesh; its vertices bound the crop.
            cam2world: [V, 4, 4], OpenCV axes.
            intrinsics: [V, 3, 3] in pixels; square pixels, no skew.
        """
        self._scene.update_tag()
        corners = mesh.vertices_world
        for camera, matrix in zip(cam2world, intrinsics, strict=True):
            self._set_camera(camera, matrix)
            yield self._render_crop(*self._crop(corners, camera, matrix))

    def _set_camera(self, cam2world: FloatArray, intrinsics: FloatArray) -> None:
        width, height = self._size
        data = self._camera.data
        data.sensor_fit = "HORIZONTAL"
        data.lens = float(intrinsics[0, 0]) / width * data.sensor_width
        data.shift_x = (width / 2 - float(intrinsics[0, 2])) / width
        data.shift_y = (float(intrinsics[1, 2]) - height / 2) / width
        data.clip_start, data.clip_end = 0.01, 100.0
        self._camera.matrix_world = opencv_to_blender(cam2world).T.tolist()

    def _crop(self, points: npt.NDArray[np.float64], camera: FloatArray, matrix: FloatArray) -> tuple[int, int, int, int]:
        width, height = self._size
        pixels = project(points, camera, matrix)
        if pixels[:, 2].min() <= 0.01:
            return 0, 0, width, height
        left, top = np.floor(pixels[:, :2].min(axis=0)).astype(int) - _MARGIN_PX
        right, bottom = np.ceil(pixels[:, :2].max(axis=0)).astype(int) + _MARGIN_PX
        left, right = np.clip([left, right], 0, width)
        top, bottom = np.clip([top, bottom], 0, height)
        return int(left), int(top), int(right), int(bottom)

    def _render_crop(self, left: int, top: int, right: int, bottom: int) -> ByteArray:
        width, height = self._size
        image = np.zeros((height, width, 4), dtype=np.uint8)
        if right <= left or bottom <= top:
            return image
        render = self._scene.render
        render.border_min_x, render.border_max_x = left / width, right / width
        render.border_min_y, render.border_max_y = 1.0 - bottom / height, 1.0 - top / height
        self._captured = None
        bpy.ops.render.render()
        pixels = self._captured
        if pixels is None or pixels.shape[:2] != (bottom - top, right - left):
            raise RuntimeError(f"crop {(left, top, right, bottom)} came back as {None if pixels is None else pixels.shape}")
        image[top:bottom, left:right] = straight_srgb(pixels[::-1])
        return image


def straight_srgb(premultiplied: FloatArray) -> ByteArray:
    """Converts linear premultiplied RGBA [..., 4] to straight-alpha sRGB u8; transparent pixels become zero."""
    alpha = np.clip(premultiplied[..., 3:], 0.0, 1.0)
    linear = np.clip(premultiplied[..., :3] / np.maximum(alpha, 1e-6), 0.0, 1.0)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    rgba = np.concatenate([srgb, alpha], axis=-1)
    rgba[(alpha < 0.5 / 255)[..., 0]] = 0.0
    return np.asarray(rgba * 255.0 + 0.5).astype(np.uint8)
