"""Pictures of planes are those of the evaluation, whichever way the planes come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluate import evaluate_object
from pipeline.fit_views import FitRenderer
from pipeline.render_planes import PlanesRenderer
from render_jobs.cameras import orbit_cameras
from storage.errors import UsageError
from storage.planes import PlanesStore
from storage.reader import PlanesDataset, open_planes
from storage.store import Store
from tests.conftest import fpipe


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> PlanesDataset:
    return open_planes(tiny_dataset)


@pytest.fixture(scope="module")
def renderer(dataset: PlanesDataset) -> PlanesRenderer:
    return PlanesRenderer.open(dataset)


def test_held_out_views_are_those_of_the_evaluation(
    dataset: PlanesDataset, renderer: PlanesRenderer, tiny_dataset: Path
) -> None:
    store = Store(tiny_dataset)
    planes = PlanesStore.open(store)
    judge = FitRenderer.open(store, planes.header.shared_version)
    for entry in (dataset[0], dataset[5]):
        heldout, views = entry.heldout(), dataset.views.read(entry.row)
        cameras, matrices = entry.cam2world()[heldout], entry.intrinsics()[heldout]
        ours = renderer.render(entry, cameras, matrices)
        fit = planes.read(entry.row)
        theirs = judge.render(fit.micro, fit.coefficients, cameras, matrices)
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
        train = ~heldout
        figures = evaluate_object(
            ours, None, views.images[heldout], cameras, views.images[train], views.cam2world[train]
        )
        assert figures["psnr_db"] == pytest.approx(entry.metrics["psnr_db"], abs=1e-3)


def test_arrays_flat_arrays_and_normalised_ones_give_the_same(
    dataset: PlanesDataset, renderer: PlanesRenderer
) -> None:
    entry = dataset[3]
    cameras = entry.cam2world()[:2]
    expected = renderer.render(entry, cameras)
    assert expected.shape == (2, 64, 64, 3) and expected.std() > 0.01
    assert np.array_equal(renderer.render(entry.planes(), cameras), expected)
    assert np.array_equal(renderer.render(entry.planes("flat"), cameras), expected)
    np.testing.assert_allclose(renderer.render(entry, cameras[1])[0], expected[1], atol=2e-5)
    sampled = entry.planes("flat", normalize="minmax")
    assert np.abs(sampled).max() <= 1 + 1e-6
    np.testing.assert_allclose(renderer.render(sampled, cameras, normalized="minmax"), expected, atol=1e-4)
    other = renderer.render(dataset[4].planes(), cameras)
    assert np.abs(other - expected).max() > 1e-3, "another object looks otherwise"


def test_what_cannot_be_rendered_is_refused(dataset: PlanesDataset, renderer: PlanesRenderer) -> None:
    planes, cameras = dataset[0].planes(), orbit_cameras(2, 20.0, 1.3)
    for wrong in (planes[:, 1:], planes[None], dataset[0].micro()):
        with pytest.raises(UsageError, match="give fused planes"):
            renderer.render(wrong, cameras)
    with pytest.raises(UsageError, match="finite"):
        renderer.render(np.full_like(planes, np.nan), cameras)
    with pytest.raises(UsageError, match="cam2world"):
        renderer.render(planes, cameras[:, :3])
    with pytest.raises(UsageError, match="arrays"):
        renderer.render(dataset[0], cameras, normalized="std")


def test_preview_writes_a_sheet_or_a_turntable(tiny_dataset: Path, tmp_path: Path) -> None:
    done = fpipe(
        "preview", tiny_dataset, "car-000000", "--out", tmp_path / "new" / "sheet.png", "--views", "8"
    )
    assert done.code == 0, done.err
    sheet = np.asarray(Image.open(tmp_path / "new" / "sheet.png"))
    assert sheet.shape == (2 * 64, 6 * 64, 3) and (sheet[64:, 2 * 64 :] == 255).all()
    done = fpipe("preview", tiny_dataset, "car-000000", "--out", tmp_path / "turn.webp", "--views", "5")
    with Image.open(tmp_path / "turn.webp") as turntable:
        assert done.code == 0 and turntable.n_frames > 1 and turntable.size == (64, 64)
    assert fpipe("preview", tiny_dataset, "car-000000", "--out", tmp_path / "x.jpg").code == 2
    unknown = fpipe("preview", tiny_dataset, "nobody")
    assert unknown.code == 2 and "nobody" in unknown.err
