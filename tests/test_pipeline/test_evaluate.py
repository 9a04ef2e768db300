"""Evaluation: one object's figures by hand, statistics over objects, stored against recomputed figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluate import (
    METRIC_NAMES,
    evaluate_dataset,
    evaluate_object,
    recompute_figures,
    summarise,
)
from storage.errors import UsageError
from storage.planes import PlanesStore
from tests.test_pipeline.small_dataset import (
    SHARED_VERSION,
    DiscRenderer,
    object_views,
    write_small_dataset,
)


def _flat_views(n: int, grey: int, alpha: int = 255) -> np.ndarray:
    rgba = np.full((n, 16, 16, 4), grey, dtype=np.uint8)
    rgba[..., 3] = alpha
    return rgba


def _cameras(*azimuths_deg: float) -> np.ndarray:
    cameras = np.repeat(np.eye(4)[None], len(azimuths_deg), axis=0)
    for camera, azimuth in zip(cameras, np.radians(azimuths_deg), strict=True):
        camera[:3, 2] = [-math.cos(azimuth), -math.sin(azimuth), 0]
    return cameras


def test_figures_of_flat_views_by_hand() -> None:
    heldout = _flat_views(1, 102)  # 0.4
    train = np.concatenate([_flat_views(1, 0), _flat_views(1, 204)])  # 0.0 and 0.8
    rendered = np.full((1, 16, 16, 3), 0.5)
    ceiling = np.full((1, 16, 16, 3), 0.41)
    figures = evaluate_object(rendered, ceiling, heldout, _cameras(10), train, _cameras(90, 350))
    assert set(figures) == set(METRIC_NAMES)
    assert figures["psnr_db"] == pytest.approx(20.0, abs=1e-4)  # off by 0.1
    assert figures["foreground_psnr_db"] == pytest.approx(20.0, abs=1e-4)
    assert figures["ceiling_psnr_db"] == pytest.approx(40.0, abs=1e-4)  # off by 0.01
    assert figures["white_psnr_db"] == pytest.approx(-20 * math.log10(0.6), abs=1e-4)
    assert figures["nearest_view_psnr_db"] == pytest.approx(-20 * math.log10(0.4), abs=1e-4)  # 350: grey 0.8
    assert math.isnan(figures["lpips"])


def test_renderings_are_clipped_like_an_image_file() -> None:
    heldout, rendered = _flat_views(1, 255), np.full((1, 16, 16, 3), 1.7)
    figures = evaluate_object(rendered, rendered, heldout, _cameras(0), _flat_views(1, 0), _cameras(0))
    assert figures["psnr_db"] == pytest.approx(100.0)
    assert figures["ceiling_psnr_db"] == pytest.approx(100.0)


def test_figures_average_over_views_and_skip_views_without_the_object() -> None:
    heldout = np.concatenate([_flat_views(1, 0), _flat_views(1, 0, alpha=0)])  # black; nothing at all
    rendered = np.stack([np.full((16, 16, 3), 0.1), np.full((16, 16, 3), 0.9)])
    figures = evaluate_object(rendered, rendered, heldout, _cameras(0, 0), _flat_views(1, 0), _cameras(0))
    assert figures["psnr_db"] == pytest.approx(20.0, abs=1e-4)  # both are off by 0.1
    assert figures["foreground_psnr_db"] == pytest.approx(20.0, abs=1e-4)  # the first view alone
    assert figures["white_psnr_db"] == pytest.approx((0.0 + 100.0) / 2)


def test_lpips_is_what_the_given_network_says() -> None:
    heldout, rendered = _flat_views(2, 51), np.full((2, 16, 16, 3), 0.5)
    seen = []

    def lpips(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
        seen.append((image.shape, float(image.mean()), float(truth.mean())))
        return np.array([0.25, 0.5])

    figures = evaluate_object(
        rendered, rendered, heldout, _cameras(0, 0), _flat_views(1, 0), _cameras(0), lpips
    )
    assert figures["lpips"] == pytest.approx(0.375)
    assert seen == [((2, 16, 16, 3), pytest.approx(0.5), pytest.approx(0.2))]


@pytest.mark.parametrize(
    ("rendered", "heldout", "match"),
    [
        (np.full((1, 16, 16, 3), np.nan), _flat_views(1, 0), "not finite"),
        (np.zeros((0, 16, 16, 3)), _flat_views(0, 0), "no held-out view"),
        (np.zeros((2, 16, 16, 3)), _flat_views(1, 0), "one shape"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(rendered: np.ndarray, heldout: np.ndarray, match: str) -> None:
    cameras = _cameras(*[0.0] * len(heldout))
    with pytest.raises(ValueError, match=match):
        evaluate_object(rendered, rendered, heldout, cameras, _flat_views(1, 0), _cameras(0))


def test_summary_by_hand() -> None:
    regime = np.array([1, 2, 2, 0, 2], dtype=np.uint8)
    psnr = np.array([30.0, 20.0, 24.0, 99.0, 28.0], dtype=np.float32)  # the fourth row has no fit
    figures = {"psnr_db": psnr, "ssim": psnr / 100, "lpips": np.full(5, np.nan)}
    summary = summarise(figures, regime, {"fit": "base"})
    assert summary["fit"] == "base"
    assert [summary[group]["objects"] for group in ("all", "regime1", "regime2")] == [4, 1, 3]
    assert summary["regime2"]["psnr_db"] == {"mean": 24.0, "median": 24.0, "p05": pytest.approx(20.4)}
    assert summary["regime1"]["psnr_db"] == {"mean": 30.0, "median": 30.0, "p05": 30.0}
    assert summary["all"]["psnr_db"]["mean"] == pytest.approx(25.5)
    assert summary["all"]["ssim"]["mean"] == pytest.approx(0.255)
    assert summary["all"]["lpips"] == {"mean": None}
    assert summary["all"]["white_psnr_db"] == {"mean": None}  # a figure that nobody has


def test_summary_has_every_promised_key_and_is_json_even_without_objects() -> None:
    summary = summarise({}, np.zeros(3, dtype=np.uint8))
    assert summary["version"] == "1.0"
    assert "Gaussian window 11x11" in summary["definitions"]["ssim"]
    for group in ("all", "regime1", "regime2"):
        assert summary[group]["objects"] == 0
        assert set(summary[group]) == {"objects", *METRIC_NAMES}
        assert set(summary[group]["psnr_db"]) == {"mean", "median", "p05"}
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_a_data_set_is_summarised_from_its_stored_figures(tmp_path: Path) -> None:
    store = write_small_dataset(tmp_path / "data")
    summary = evaluate_dataset(store.url)
    assert (summary["fit"], summary["shared_version"]) == ("base", SHARED_VERSION)
    # ten objects, rows 2 and 3 failed; of the others 1, 5, 7, 9 are odd
    assert [summary[group]["objects"] for group in ("all", "regime1", "regime2")] == [8, 4, 4]
    stored = PlanesStore.open(store).metrics()["psnr_db"]
    assert summary["all"]["psnr_db"]["mean"] == pytest.approx(float(np.nanmean(stored)), abs=1e-5)
    assert summary["all"]["ceiling_psnr_db"]["mean"] > summary["all"]["psnr_db"]["mean"]


def test_recomputed_figures_equal_the_stored_ones(tmp_path: Path) -> None:
    store = write_small_dataset(tmp_path / "data", n_objects=5)
    planes, renderer = PlanesStore.open(store), DiscRenderer()
    again = recompute_figures(store, planes, renderer)  # type: ignore[arg-type]
    for name, values in planes.metrics().items():
        np.testing.assert_allclose(again[name], values, rtol=1e-5, err_msg=name)
    heldout = object_views(0)
    assert renderer.n_views == 3 * heldout.heldout.sum()  # three good rows
    np.testing.assert_array_equal(renderer.cameras[0], heldout.cam2world[heldout.heldout])


def test_an_unknown_fit_is_named(tmp_path: Path) -> None:
    store = write_small_dataset(tmp_path / "data", n_objects=4)
    with pytest.raises(UsageError, match="nope"):
        evaluate_dataset(store.url, fit="nope")
