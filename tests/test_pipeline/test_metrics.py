"""Metrics against hand computations, their definitions spelt slowly, and scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from pipeline import metrics


def _noise(seed: int, shape: tuple[int, ...] = (3, 24, 31, 3)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def test_psnr_of_a_constant_error_is_twenty_log10() -> None:
    truth = np.full((2, 12, 12, 3), 0.5)
    off = truth + np.array([0.1, 0.01]).reshape(2, 1, 1, 1)
    # error 0.1 -> mse 0.01 -> 20 dB; error 0.01 -> mse 1e-4 -> 40 dB
    np.testing.assert_allclose(metrics.psnr(off, truth), [20.0, 40.0], atol=1e-9)


def test_psnr_averages_decibels_and_not_errors() -> None:
    truth = np.zeros((2, 12, 12, 3))
    off = truth + np.array([0.1, 0.01]).reshape(2, 1, 1, 1)
    pooled = -10 * math.log10((0.01 + 0.0001) / 2)
    assert metrics.psnr(off, truth).mean() == pytest.approx(30.0)
    assert pooled == pytest.approx(22.967, abs=1e-3)  # what averaging the error first would report


def test_equal_images_are_capped_at_100_db() -> None:
    image = _noise(0)
    np.testing.assert_allclose(metrics.psnr(image, image), 100.0)


def test_foreground_psnr_counts_each_covered_pixel_once_and_no_other() -> None:
    truth = np.ones((1, 12, 12, 3))
    image = truth.copy()
    image[0, 0, 0] = 0.5  # covered: squared error 0.25
    image[0, 0, 1] = 0.0  # not covered: would be squared error 1
    alpha = np.zeros((1, 12, 12), dtype=np.uint8)
    alpha[0, 0, 0] = 1  # the faintest cover counts in full
    alpha[0, 5, 5] = 255  # covered, no error
    # mse = (0.25 + 0) / 2 = 0.125
    assert metrics.foreground_psnr(image, truth, alpha)[0] == pytest.approx(-10 * math.log10(0.125))


def test_foreground_psnr_of_an_empty_view_is_nan() -> None:
    image = np.ones((2, 12, 12, 3))
    alpha = np.zeros((2, 12, 12), dtype=np.uint8)
    alpha[1] = 255
    figures = metrics.foreground_psnr(image, image * 0.9, alpha)
    assert np.isnan(figures[0])
    assert figures[1] == pytest.approx(20.0)


def test_foreground_psnr_of_a_fully_covered_view_is_psnr() -> None:
    image, truth = _noise(1), _noise(2)
    alpha = np.full(image.shape[:3], 255, dtype=np.uint8)
    np.testing.assert_allclose(metrics.foreground_psnr(image, truth, alpha), metrics.psnr(image, truth))


@pytest.mark.parametrize("strength", [0.02, 0.2, 1.0])
def test_ssim_agrees_with_scikit_image(strength: float) -> None:
    truth = _noise(3)
    image = (1 - strength) * truth + strength * _noise(4)
    for view, ours in enumerate(metrics.ssim(image, truth)):
        _, full = structural_similarity(
            image[view].astype(np.float64),
            truth[view].astype(np.float64),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            channel_axis=2,
            full=True,
        )
        assert ours == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-9)


def test_ssim_of_equal_images_is_one_and_of_inverted_ones_negative() -> None:
    image = _noise(5)
    np.testing.assert_allclose(metrics.ssim(image, image), 1.0)
    assert (metrics.ssim(1 - image, image) < 0).all()


def test_ssim_is_symmetric_and_does_not_mix_views() -> None:
    image, truth = _noise(6), _noise(7)
    together = metrics.ssim(image, truth)
    np.testing.assert_allclose(together, metrics.ssim(truth, image))
    np.testing.assert_allclose(together[1:2], metrics.ssim(image[1:2], truth[1:2]))


def test_ssim_refuses_images_smaller_than_its_window() -> None:
    small = np.zeros((1, 10, 12, 3))
    with pytest.raises(ValueError, match="11 pixels"):
        metrics.ssim(small, small)


@pytest.mark.parametrize("shape", [(24, 31, 3), (3, 24, 31, 4), (3, 24, 30, 3)])
def test_shapes_that_do_not_belong_together_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[V, H, W, 3\]"):
        metrics.psnr(np.zeros(shape), _noise(0))


def test_composite_is_the_straight_alpha_formula_in_srgb() -> None:
    rgba = np.array([[[[255, 0, 51, 51]]]], dtype=np.uint8)  # alpha 0.2 over white
    # 0.2 * (1, 0, 0.2) + 0.8 = (1.0, 0.8, 0.84)
    np.testing.assert_allclose(metrics.composite(rgba)[0, 0, 0], [1.0, 0.8, 0.84], atol=1e-6)
    np.testing.assert_allclose(metrics.composite(rgba, background=0.0)[0, 0, 0], [0.2, 0.0, 0.04], atol=1e-6)


def test_white_baseline_by_hand() -> None:
    truth = np.ones((1, 12, 12, 3))
    truth[0, :6] = 0.0  # half the picture black: mse 0.5
    assert metrics.white_psnr(truth)[0] == pytest.approx(-10 * math.log10(0.5))


def _camera_at(azimuth_deg: float) -> np.ndarray:
    """A camera on the unit circle that looks at the origin; only its position and +z axis matter here."""
    angle = math.radians(azimuth_deg)
    camera = np.eye(4)
    camera[:3, 3] = [math.cos(angle), math.sin(angle), 0]
    camera[:3, 2] = -camera[:3, 3]
    return camera


def test_nearest_view_is_the_one_with_the_smallest_angle() -> None:
    train = np.stack([_camera_at(a) for a in (0, 90, 180, 350)])
    heldout = np.stack([_camera_at(a) for a in (100, 356, 4, 181)])
    # 356 is 6 degrees from 350 and 4 from 0; 4 is 4 from 0 and 14 from 350
    np.testing.assert_array_equal(metrics.nearest_views(heldout, train), [1, 0, 0, 2])


def test_nearest_view_does_not_depend_on_the_distance() -> None:
    train = np.stack([_camera_at(a) for a in (0, 40)])
    train[1, :3, 3] *= 7
    np.testing.assert_array_equal(metrics.nearest_views(_camera_at(30)[None], train), [1])


def test_nearest_view_without_training_views_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one training view"):
        metrics.nearest_views(np.eye(4)[None], np.zeros((0, 4, 4)))
