from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from render_jobs.image_checks import check_images, picture_of
from render_jobs.mesh_file import MeshError


def views(n: int = 3, size: int = 32) -> np.ndarray:
    """Grey squares in the middle."""
    images = np.zeros((n, size, size, 4), dtype=np.uint8)
    images[:, 8:-8, 8:-8] = (90, 90, 90, 255)
    return images


def error_of(images: np.ndarray, clipping: str = "fail") -> MeshError:
    with pytest.raises(MeshError) as caught:
        check_images(images, clipping)
    return caught.value


def decoded(picture: str) -> np.ndarray:
    head, _, body = picture.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB"))


def test_good_views_pass() -> None:
    assert check_images(views(), "fail") == []
    near = views()
    near[:, 1:-1, 1:-1] = (90, 90, 90, 255)
    assert check_images(near, "fail") == [], "one clear pixel all round is enough"


def test_empty_views() -> None:
    images = views()
    images[1] = 0
    assert check_images(images, "fail") == ["1 of 3 views are empty"]
    error = error_of(images * 0)
    assert error.kind == "empty_render"
    assert (decoded(error.picture) > 250).all()


def test_more_than_half_saturated_is_overexposed() -> None:
    images = views()
    images[:, 8:16, 8:-8, :3] = 255  # half of 16 rows
    assert check_images(images, "fail") == []
    images[2, 16, 8, :3] = 255
    error = error_of(images)
    assert error.kind == "overexposed"
    assert abs(decoded(error.picture)[2, 2].astype(int) - 128).max() < 8
    images[..., 2] = np.minimum(images[..., 2], 254)
    assert check_images(images, "fail") == [], "bright yellow has a colour"


@pytest.mark.parametrize("pixel", [(0, 9), (31, 9), (9, 0), (9, 31)])
def test_the_outermost_pixels_must_be_clear(pixel: tuple[int, int]) -> None:
    images = views()
    images[(1, *pixel)] = (200, 0, 0, 1)
    error = error_of(images)
    assert error.kind == "clipped_render"
    assert "1 of 3 views" in str(error)
    assert "render.radius_world" in str(error)
    assert len(error.picture) > 100
    [warning] = check_images(images, "allow")
    assert "1 of 3 views" in warning


def test_pictures_are_small_and_on_white() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2000, 1000, 4), dtype=np.uint8)
    assert len(picture_of(noise)) < 11_000
    image = views(1, 64)[0]
    small = decoded(picture_of(image))
    assert small.shape == (64, 64, 3)
    assert abs(small[32, 32].astype(int) - 90).max() < 8
    assert small[2, 2].min() > 247
