"""What images say about a mesh that rendered: empty, overexposed or cut off by the edge of the image."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from render_jobs.mesh_file import MeshError

ByteArray = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]

_PICTURE_PX = 160
_PICTURE_BYTES = 8192
_MAX_SATURATED = 0.5
_GREY = 128  # behind what is too bright: on white nobody would see it


def check_images(images: ByteArray, clipping: str) -> list[str]:
    """Looks for renders that are no picture of the object.

    Args:
        images: u8 [V, H, W, 4], straight alpha.
        clipping: "fail" or "allow": what an object beyond the image's edge means.

    Returns:
        Warnings.

    Raises:
        MeshError: kinds empty_render, overexposed, clipped_render, with a picture.
    """
    pixels = np.array([np.count_nonzero(image[..., 3]) for image in images])
    n, n_empty = len(images), int((pixels == 0).sum())
    if n_empty == n:
        raise MeshError("empty_render", "nothing of the mesh is visible in any view", picture_of(images[0]))
    _check_exposure(images, pixels)
    warnings = [f"{n_empty} of {n} views are empty"] if n_empty else []
    return warnings + _clipping_warnings(images, clipping)


def _check_exposure(images: ByteArray, pixels: Counts) -> None:
    saturated = np.array([_n_saturated(image) for image in images])
    part = float(saturated.sum() / pixels.sum())
    if part > _MAX_SATURATED:
        worst = int(np.argmax(saturated / np.maximum(pixels, 1)))
        reason = f"{part:.0%} of the object is white beyond what an image can hold: its base colours exceed 1"
        raise MeshError("overexposed", reason, picture_of(images[worst], _GREY))


def _n_saturated(image: ByteArray) -> int:
    pixels = np.ascontiguousarray(image).view("<u4")  # a quarter of the time that three channels take
    return int(np.count_nonzero(((pixels & 0xFFFFFF) == 0xFFFFFF) & (pixels > 0xFFFFFF)))


def _clipping_warnings(images: ByteArray, clipping: str) -> list[str]:
    """An object touches the outermost pixels only by leaving the image: the usual camera keeps clear."""
    at_edge = np.array([_n_edge_pixels(image[..., 3]) for image in images])
    n_clipped = int((at_edge > 0).sum())
    if n_clipped == 0:
        return []
    message = f"the object reaches the edge of the image in {n_clipped} of {len(images)} views"
    if clipping == "allow":
        return [message]
    advice = "raise render.radius_world, lower render.focal, or set render.clipping to allow when it is meant"
    raise MeshError("clipped_render", f"{message}: {advice}", picture_of(images[int(np.argmax(at_edge))]))


def _n_edge_pixels(alpha: ByteArray) -> int:
    edges = alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]
    return sum(int(np.count_nonzero(edge)) for edge in edges)


def picture_of(image: ByteArray, background: int = 255) -> str:
    """Returns a small picture of a view as a data URI of at most 11,000 characters.

    Args:
        image: u8 [H, W, 4], straight alpha.
        background: Grey level behind it, 255 for white.
    """
    alpha = image[..., 3:].astype(np.float32) / 255
    composited = (image[..., :3] * alpha + background * (1 - alpha) + 0.5).astype(np.uint8)
    picture = Image.fromarray(composited)
    for size_px in (_PICTURE_PX, _PICTURE_PX // 2, _PICTURE_PX // 4):
        picture.thumbnail((size_px, size_px))
        for quality in (80, 50, 20):
            file = io.BytesIO()
            picture.save(file, "WEBP", quality=quality)
            if file.tell() <= _PICTURE_BYTES:
                return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
    return ""
