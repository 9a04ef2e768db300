"""Decodes images of views: PNG, JPEG and WebP, colour or grey, 8 or 16 bits, straight alpha or none."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

ByteArray = npt.NDArray[np.uint8]

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
MAX_IMAGE_BYTES = 1 << 28
MAX_PIXELS = 8192 * 8192
_FORMATS = ("PNG", "JPEG", "WEBP")
_WITH_ALPHA = {"RGBA", "LA", "PA", "RGBa", "La"}
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class BadImageError(ValueError):
    """An image cannot be decoded, or is too large to be tried."""


class Decoded(NamedTuple):
    """An image.

    Attributes:
        rgba: u8 [h, w, 4], sRGB, alpha 255 where the file has none.
        has_alpha: Whether the file has alpha.
    """

    rgba: ByteArray
    has_alpha: bool


def image_size(data: bytes) -> tuple[int, int]:
    """Returns width and height from an image's header; raises BadImageError."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                width, height = image.size
        except _BROKEN as error:
            raise BadImageError(_reason(error)) from error
    if width * height > MAX_PIXELS:
        raise BadImageError(f"{width}×{height} pixels, at most {MAX_PIXELS} are decoded")
    return width, height


def decode(data: bytes) -> Decoded:
    """Decodes an image, after its header said that it is of sane size; raises BadImageError."""
    image_size(data)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            image.load()
            return _eight_bits(image)
    except _BROKEN as error:
        raise BadImageError(_reason(error)) from error


def _eight_bits(image: Image.Image) -> Decoded:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip it at 255 instead of scaling it
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(grey)
    has_alpha = image.mode in _WITH_ALPHA or "transparency" in image.info
    return Decoded(np.array(image.convert("RGBA"), dtype=np.uint8), has_alpha)


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is no PNG, JPEG or WebP image"
    return f"it cannot be decoded: {error}"


def resized(rgba: ByteArray, width: int, height: int) -> ByteArray:
    """Resizes an image by averaging over the area of each new pixel, colours weighted by alpha.

    Args:
        rgba: u8 [h, w, 4], straight alpha.
        width: New width in pixels.
        height: New height in pixels.

    Returns:
        u8 [height, width, 4]; clear pixels become zero.
    """
    if rgba.shape[:2] == (height, width):
        return rgba
    values = rgba.astype(np.float32)
    values[..., :3] *= values[..., 3:] / 255.0
    rows, columns = _area_weights(rgba.shape[0], height), _area_weights(rgba.shape[1], width)
    values = np.tensordot(rows, values, axes=(1, 0))
    values = np.moveaxis(np.tensordot(columns, values, axes=(1, 1)), 0, 1)
    alpha = values[..., 3:]
    values[..., :3] *= 255.0 / np.maximum(alpha, 1e-3)
    values[alpha[..., 0] < 0.5] = 0.0
    shrunk: ByteArray = (np.clip(values, 0.0, 255.0) + 0.5).astype(np.uint8)
    return shrunk


def _area_weights(n_in: int, n_out: int) -> npt.NDArray[np.float32]:
    """Share of each old pixel in each new one along an axis, [n_out, n_in]; rows sum to 1."""
    edges = np.arange(n_out + 1) * (n_in / n_out)
    old = np.arange(n_in)
    overlap = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    weights: npt.NDArray[np.float32] = (np.maximum(overlap, 0.0) * (n_out / n_in)).astype(np.float32)
    return weights
