"""Pictures as data URIs: single views, sprite sheets, and error maps with their colour scale."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.report.render_records import Picture

ERROR_MAX: Final = 0.3  # mean absolute difference over RGB at which the error scale ends
SPRITE_COLUMNS: Final = 6

# Paper, straw, ember, wine, ink: lightness falls all the way, so the scale also reads in grey and
# colour-blind.
_ERROR_STOPS: Final = ("#ffffff", "#fbe3a6", "#f0934a", "#c23b3f", "#6b1546", "#1b0a26")
_WEBP_QUALITY: Final = 84

_PICTURE_URI: Final = re.compile(r"data:image/(?:png|jpeg|webp);base64,([A-Za-z0-9+/]+={0,2})")
_PICTURE_CHARACTERS: Final = 200_000
_PICTURE_PX: Final = 1024


def data_uri(picture: Picture) -> str:
    """A picture as WebP text for `src`: about 3 KB for a rendered view of 128 x 128."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=_WEBP_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def safe_picture(uri: str) -> str:
    """The data URI of a recorded picture where it may stand in a page, otherwise nothing.

    Only a PNG, JPEG or WebP of moderate size passes: a sidecar may have been written by anybody's code.
    """
    found = _PICTURE_URI.fullmatch(uri) if len(uri) <= _PICTURE_CHARACTERS else None
    if found is None:
        return ""
    try:
        with Image.open(io.BytesIO(base64.b64decode(found[1])), formats=("PNG", "JPEG", "WEBP")) as picture:
            return uri if max(picture.size) <= _PICTURE_PX else ""
    except (OSError, binascii.Error, ValueError, Image.DecompressionBombError):
        return ""


def thumbnail(picture: Picture, edge_px: int) -> Picture:
    """The picture, made smaller where its longer edge exceeds `edge_px`."""
    height, width = picture.shape[:2]
    scale = edge_px / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def to_picture(image: NDArray[Any]) -> Picture:
    """Colours in [0, 1] as 8-bit sRGB, rounded."""
    return np.asarray(np.rint(np.clip(image, 0, 1) * 255), dtype=np.uint8)


def sprite(frames: Sequence[Picture]) -> Picture:
    """Frames in reading order on one sheet, `SPRITE_COLUMNS` a row; unused places stay white."""
    height, width = frames[0].shape[:2]
    n_rows = -(-len(frames) // SPRITE_COLUMNS)
    sheet = np.full((n_rows * height, SPRITE_COLUMNS * width, 3), 255, dtype=np.uint8)
    for index, frame in enumerate(frames):
        row, column = divmod(index, SPRITE_COLUMNS)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = frame
    return sheet


def error_map(picture: Picture, truth: Picture) -> Picture:
    """Mean absolute difference over RGB on the error scale; above `ERROR_MAX` it keeps its last colour."""
    error = np.abs(picture.astype(np.float32) - truth.astype(np.float32)).mean(axis=2) / 255
    return error_colours(error / ERROR_MAX)


def error_colours(position: NDArray[Any]) -> Picture:
    """Colours [..., 3] of positions on the error scale; outside [0, 1] its ends."""
    stops = np.array(
        [[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in _ERROR_STOPS], dtype=np.float32
    )
    places = np.linspace(0, 1, len(stops))
    channels = [np.interp(position, places, stops[:, channel]) for channel in range(3)]
    return np.asarray(np.rint(np.stack(channels, axis=-1)), dtype=np.uint8)


def error_gradient() -> str:
    """The error scale as a CSS gradient, left to right."""
    return f"linear-gradient(90deg, {', '.join(_ERROR_STOPS)})"
