from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from render_jobs.sources.views.images import BadImageError, decode, image_size, resized
from tests.test_render_jobs.view_files import picture, png, png_bomb


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


def png16(samples: np.ndarray, colour_type: int) -> bytes:
    """A 16-bit PNG, which Pillow reads but does not write. samples: u16 [h, w, channels]."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return png(samples.shape[1], samples.shape[0], 16, colour_type, rows)


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_lossless_rgba_comes_back_exactly(form: str, options: dict[str, Any]) -> None:
    found = decode(encoded(Image.fromarray(picture(1)), form, **options))
    np.testing.assert_array_equal(found.rgba, picture(1))
    assert found.has_alpha


def test_jpeg_is_nearly_right_and_has_no_alpha() -> None:
    smooth = np.linspace(0, 255, 256, dtype=np.uint8).reshape(16, 16)[..., None].repeat(3, axis=2)
    found = decode(encoded(Image.fromarray(smooth), "JPEG", quality=95))
    assert not found.has_alpha
    assert (found.rgba[..., 3] == 255).all()
    assert np.abs(found.rgba[..., :3].astype(int) - smooth).max() < 8


@pytest.mark.parametrize(
    ("channels", "colour_type", "has_alpha"), [(1, 0, False), (3, 2, False), (2, 4, True), (4, 6, True)]
)
def test_sixteen_bits_become_eight(channels: int, colour_type: int, has_alpha: bool) -> None:
    eight = np.random.default_rng(0).integers(0, 256, (4, 5, channels))
    found = decode(png16((eight * 257).astype(np.uint16), colour_type))
    colour, alpha = (eight[..., :-1], eight[..., -1]) if has_alpha else (eight, np.full((4, 5), 255))
    np.testing.assert_array_equal(found.rgba[..., :3], np.broadcast_to(colour, (4, 5, 3)))
    np.testing.assert_array_equal(found.rgba[..., 3], alpha)
    assert found.has_alpha == has_alpha


def test_grey_palette_and_transparent_colour() -> None:
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    found = decode(encoded(Image.fromarray(grey)))
    np.testing.assert_array_equal(found.rgba[..., :3], grey[..., None].repeat(3, axis=2))
    assert not found.has_alpha
    colours = Image.fromarray(picture(2)[..., :3])
    palette = colours.quantize(200)
    np.testing.assert_array_equal(decode(encoded(palette)).rgba[..., :3], np.asarray(palette.convert("RGB")))
    assert not decode(encoded(palette)).has_alpha
    assert decode(encoded(palette, transparency=3)).has_alpha
    first = tuple(picture(2)[0, 0, :3].tolist())
    keyed = decode(encoded(colours, transparency=first))
    assert keyed.has_alpha
    assert keyed.rgba[0, 0, 3] == 0


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", encoded(Image.new("L", (8, 8)), "TIFF")]
)
def test_what_is_no_image(data: bytes) -> None:
    for call in (decode, image_size):
        with pytest.raises(BadImageError):
            call(data)


@pytest.mark.parametrize("side", [9000, 10_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(BadImageError, match="pixels"):
        decode(png_bomb(side))


def test_areas_are_averaged_by_hand() -> None:
    # Three pixels become two: each takes one whole and half of the middle one, (2·90 + 60) / 3 = 80 and 50.
    row = np.array([[[90, 0, 0, 255], [60, 0, 0, 255], [45, 0, 0, 255]]], dtype=np.uint8)
    np.testing.assert_array_equal(resized(row, 2, 1)[0, :, 0], [80, 50])


def test_clear_pixels_give_no_colour() -> None:
    # A red opaque pixel beside a clear one: half as opaque, and as red as before.
    row = np.array([[[200, 0, 0, 255], [0, 0, 0, 0], [0, 9, 0, 0], [0, 0, 9, 0]]], dtype=np.uint8)
    np.testing.assert_array_equal(resized(row, 2, 1)[0], [[200, 0, 0, 128], [0, 0, 0, 0]])


def test_a_constant_stays_constant_at_any_size() -> None:
    flat = np.full((37, 23, 4), 131, dtype=np.uint8)
    for size in ((8, 8), (23, 37), (64, 40), (1, 1)):
        found = resized(flat, *size)
        assert found.shape == (size[1], size[0], 4)
        assert (found == 131).all()


def test_the_resized_image_over_white_is_the_image_over_white_resized() -> None:
    rgba = picture(5, (48, 36))
    opaque = rgba.astype(float)
    opaque = opaque[..., :3] * (opaque[..., 3:] / 255) + 255 - opaque[..., 3:]
    expected = opaque.reshape(12, 3, 16, 3, 3).mean(axis=(1, 3))
    small = resized(rgba, 16, 12).astype(float)
    found = small[..., :3] * (small[..., 3:] / 255) + 255 - small[..., 3:]
    np.testing.assert_allclose(found, expected, atol=1.6)
