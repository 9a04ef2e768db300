"""Image metrics and baselines: the one definition of PSNR and SSIM that every figure of fpipe uses.

Images are sRGB in [0, 1], arrays of shape [V, H, W, 3] for V views of one object. Every metric comes back per
view, float64 [V]; the mean over an object's views is the object's figure, and a dataset's figures are
statistics over objects. Averaging the squared error over a batch first would give lower decibels (METHOD,
section 5). NumPy only: metrics run on every object, on whatever machine fits it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

PSNR_DEFINITION: Final = "per view over height, width and RGB in [0, 1], then the mean over views"
SSIM_DEFINITION: Final = (
    "Gaussian window 11x11, sigma 1.5, valid region, population covariance, K1 0.01, K2 0.03, "
    "data range 1, mean over RGB"
)
FOREGROUND_DEFINITION: Final = "PSNR over the pixels with alpha > 0"

# 100 dB: an 8-bit image cannot tell smaller errors from zero, and no figure becomes infinite.
MSE_FLOOR: Final = 1e-10

_WINDOW: Final = 11
_WINDOW_SIGMA_PX: Final = 1.5
_C1: Final = 0.01**2
_C2: Final = 0.03**2

Images = NDArray[Any]
PerView = NDArray[np.float64]


def composite(rgba: NDArray[np.uint8], background: float = 1.0) -> NDArray[np.float32]:
    """Lay straight-alpha views over a uniform background, in sRGB.

    Args:
        rgba: Views [V, H, W, 4], sRGB, straight alpha.
        background: Grey level of the background in [0, 1]; white by default.

    Returns:
        RGB views [V, H, W, 3] in [0, 1].
    """
    scaled = rgba.astype(np.float32) / np.float32(255)
    alpha = scaled[..., 3:]
    return np.asarray(scaled[..., :3] * alpha + np.float32(background) * (1 - alpha), dtype=np.float32)


def psnr(image: Images, truth: Images) -> PerView:
    """Peak signal-to-noise ratio of each view, in dB, for a peak of 1.

    Args:
        image: Views [V, H, W, 3] in [0, 1].
        truth: What they should be, same shape.

    Returns:
        Decibels [V]; at most 100 (`MSE_FLOOR`).

    Raises:
        ValueError: The shapes differ or are not [V, H, W, 3].
    """
    return _decibels(_squared_error(image, truth).mean(axis=(1, 2, 3)))


def foreground_psnr(image: Images, truth: Images, alpha: NDArray[Any]) -> PerView:
    """PSNR of each view over the pixels that the object covers.

    A white background flatters PSNR in proportion to its area; this figure leaves it out.

    Args:
        image: Views [V, H, W, 3] in [0, 1].
        truth: What they should be, same shape.
        alpha: Opacity [V, H, W] of the truth; every pixel above 0 counts in full.

    Returns:
        Decibels [V]; NaN for a view without any covered pixel.

    Raises:
        ValueError: The shapes do not belong together.
    """
    error = _squared_error(image, truth).mean(axis=3)
    if alpha.shape != error.shape:
        raise ValueError(f"alpha has shape {alpha.shape}, expected {error.shape}")
    covered = alpha > 0
    n_covered = covered.sum(axis=(1, 2))
    total = np.where(covered, error, 0.0).sum(axis=(1, 2))
    mse = np.divide(total, n_covered, out=np.full(len(total), np.nan), where=n_covered > 0)
    return _decibels(mse)


def ssim(image: Images, truth: Images) -> PerView:
    """Structural similarity of each view, as `SSIM_DEFINITION` says.

    Equal to scikit-image's `structural_similarity` with `gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False` once its map is cropped by 5 pixels, where no window leaves the image.

    Args:
        image: Views [V, H, W, 3] in [0, 1]; H and W at least 11.
        truth: What they should be, same shape.

    Returns:
        SSIM [V], at most 1.

    Raises:
        ValueError: The shapes differ, are not [V, H, W, 3], or are smaller than the window.
    """
    _check(image, truth)
    x, y = (np.ascontiguousarray(np.moveaxis(array, 3, 1), dtype=np.float64) for array in (image, truth))
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    var_x = _window_mean(x * x) - mean_x**2
    var_y = _window_mean(y * y) - mean_y**2
    cov = _window_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * cov + _C2) / (var_x + var_y + _C2)
    return np.asarray((luminance * structure).mean(axis=(1, 2, 3)), dtype=np.float64)


def white_psnr(truth: Images) -> PerView:
    """PSNR of an all-white image: the first baseline to beat.

    Args:
        truth: Views [V, H, W, 3] in [0, 1].

    Returns:
        Decibels [V].
    """
    return psnr(np.ones_like(truth), truth)


def nearest_views(heldout_cam2world: NDArray[Any], train_cam2world: NDArray[Any]) -> NDArray[np.int64]:
    """For each held-out camera, the training camera that looks in the most similar direction.

    Args:
        heldout_cam2world: Cameras [Vh, 4, 4], OpenCV axes.
        train_cam2world: Cameras [Vt, 4, 4], OpenCV axes; Vt at least 1.

    Returns:
        Indices [Vh] into the training cameras: smallest angle between the viewing directions, the first one
        of equals.

    Raises:
        ValueError: There is no training camera.
    """
    if not len(train_cam2world):
        raise ValueError("the nearest-training-view baseline needs at least one training view")
    cosine = _directions(heldout_cam2world) @ _directions(train_cam2world).T
    return np.asarray(cosine.argmax(axis=1), dtype=np.int64)


def _directions(cam2world: NDArray[Any]) -> NDArray[np.float64]:
    """Unit viewing directions [V, 3]: the camera's +z axis in the world."""
    forward = cam2world[:, :3, 2].astype(np.float64)
    return np.asarray(forward / np.linalg.norm(forward, axis=1, keepdims=True), dtype=np.float64)


def _decibels(mse: NDArray[np.float64]) -> PerView:
    return np.asarray(-10 * np.log10(np.maximum(mse, MSE_FLOOR)), dtype=np.float64)


def _squared_error(image: Images, truth: Images) -> NDArray[np.float64]:
    _check(image, truth)
    return np.asarray(np.square(image.astype(np.float64) - truth.astype(np.float64)), dtype=np.float64)


def _check(image: Images, truth: Images) -> None:
    if image.shape != truth.shape or image.ndim != 4 or image.shape[3] != 3:
        raise ValueError(
            f"expected two arrays [V, H, W, 3] of one shape, got {image.shape} and {truth.shape}"
        )


@lru_cache(maxsize=8)
def _window_matrix(size: int) -> NDArray[np.float64]:
    """The window as a banded matrix [size - 10, size]: filtering is then one product per axis."""
    if size < _WINDOW:
        raise ValueError(f"SSIM needs images of at least {_WINDOW} pixels a side, got {size}")
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    kernel = np.exp(-0.5 * (offsets / _WINDOW_SIGMA_PX) ** 2)
    matrix = np.zeros((size - _WINDOW + 1, size))
    for row in range(len(matrix)):
        matrix[row, row : row + _WINDOW] = kernel / kernel.sum()
    return matrix


def _window_mean(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian-weighted means of maps [..., H, W] over every window inside the image."""
    height, width = maps.shape[-2:]
    # One flat product: with a broadcast transposed matrix NumPy leaves BLAS and is eight times slower.
    rows = maps.reshape(-1, width) @ np.ascontiguousarray(_window_matrix(width).T)
    return np.asarray(_window_matrix(height) @ rows.reshape(*maps.shape[:-1], -1), dtype=np.float64)
