"""The training section: there as soon as a training is, and true to what the store holds."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.model.shared import load_regime_one, read_meta
from pipeline.report import write_report
from pipeline.report.curves import recorded_losses, training_curves
from pipeline.report.training_charts import coefficient_bars, curve
from pipeline.report.training_gallery import read_training_gallery
from pipeline.report.training_records import CoefficientPair
from pipeline.train.job import train_folder
from storage.layout import PUBLISHED_SHARED
from storage.plan import read_plan
from storage.store import Store
from storage.views import ViewsStore
from tests.test_pipeline.disc_training import TRAIN, disc_dataset, train_discs
from tests.test_pipeline.html_page import HtmlPage
from tests.test_pipeline.small_dataset import SIZE_PX


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    store = disc_dataset(tmp_path_factory.mktemp("trained") / "discs")
    with pytest.raises(InterruptedError):
        train_discs(store, stop=7)
    version = train_discs(store)
    store.replace(PUBLISHED_SHARED, json.dumps({"shared_version": version, "config": {}}).encode())
    return store, version


class _Recorder:
    """Stands in for the renderer: keeps the codes that it is asked for."""

    def __init__(self) -> None:
        self.codes: list[tuple[Any, np.ndarray]] = []

    def render(self, micro: Any, coefficients: Any, cam2world: Any, matrices: Any) -> np.ndarray:
        self.codes.append((micro, np.array(coefficients)))
        return np.ones((len(cam2world), SIZE_PX, SIZE_PX, 3), dtype=np.float32)

    def ceiling(self, rgb: np.ndarray) -> np.ndarray:
        return 0.9 * rgb


def _section(text: str) -> str:
    return text.partition('<section id="training"')[2].partition("</section>")[0]


def test_a_report_after_training_shows_it_without_any_fit(trained: tuple[Store, str]) -> None:
    store, _ = trained
    text = Path(write_report(store.url)).read_text()
    HtmlPage(text)
    section = _section(text)
    assert len(re.findall(r'class="trace"', section)) == 4
    assert section.count('class="triplet"') == 3  # three objects: truth, autoencoder, error
    assert section.count('class="timeline"') == 2
    assert section.count("held-out view") >= 2 * 3
    assert "after step 6" in section
    assert "after step 12" in section
    assert section.count("Base plane ") == 2
    assert "resumed at step 6" in section
    assert section.count('class="coefficients"') == 1


def test_without_torch_everything_that_is_not_rendered_is_there(trained: tuple[Store, str]) -> None:
    store, _ = trained
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"from pipeline.report import write_report; print(write_report({store.url!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    section = _section(Path(done.stdout.strip()).read_text())
    assert 'class="timeline"' in section
    assert 'class="coefficients"' in section
    assert 'class="triplet"' not in section
    assert "Base plane " not in section


def test_base_planes_are_rendered_one_by_one(trained: tuple[Store, str]) -> None:
    store, version = trained
    recorder: Any = _Recorder()
    gallery = read_training_gallery(ViewsStore.open(store), version, read_meta(store, version), recorder)
    own = load_regime_one(store, version).coefficients
    mean, deviation, length = own.mean(0), own.std(0), np.linalg.norm(own, axis=1).mean()
    assert len(gallery.base_planes) == 2
    found = [coefficients for _, coefficients in recorder.codes]
    for k in range(2):
        less, more, alone = found[3 * k : 3 * k + 3]
        unit = np.eye(2)[k]
        np.testing.assert_allclose(alone, unit * length * np.sign(mean[k]), rtol=1e-5)
        np.testing.assert_allclose(less, mean - 2 * deviation[k] * unit, rtol=1e-5)
        np.testing.assert_allclose(more, mean + 2 * deviation[k] * unit, rtol=1e-5)
    assert gallery.with_micro
    assert all(micro is not None and micro.shape == (3, 2, 8, 8) for micro, _ in recorder.codes)


def test_the_two_objects_are_those_farthest_apart(trained: tuple[Store, str]) -> None:
    store, version = trained
    gallery = read_training_gallery(ViewsStore.open(store), version, read_meta(store, version), None)
    codes = load_regime_one(store, version)
    distances = {
        (a, b): np.linalg.norm(codes.coefficients[a] - codes.coefficients[b])
        for a in range(3)
        for b in range(a + 1, 3)
    }
    a, b = max(distances, key=lambda pair: distances[pair])
    assert gallery.pair is not None
    assert gallery.pair.ids == (codes.ids[a], codes.ids[b])
    np.testing.assert_array_equal(gallery.pair.coefficients[1], codes.coefficients[b])


def test_pictures_of_the_training_are_shown_as_they_were_stored(trained: tuple[Store, str]) -> None:
    store, version = trained
    views = ViewsStore.open(store)
    gallery = read_training_gallery(views, version, read_meta(store, version), None)
    data = store.read(f"{train_folder(read_plan(store), TRAIN)}/pictures/00000012.webp")
    with Image.open(io.BytesIO(data)) as sheet:
        stored = np.asarray(sheet.convert("RGB"))
    second = gallery.timelines[1]
    assert [step for step, _ in second.frames] == [6, 12]
    np.testing.assert_array_equal(second.frames[1][1], stored[SIZE_PX:])
    assert views.read_views(views.plan.row_of(second.object_id), [second.view]).heldout.all()


@pytest.mark.parametrize("damage", [b"RIFF????WEBP", b""])
def test_damaged_pictures_and_records_are_left_out(tmp_path: Path, damage: bytes) -> None:
    store = disc_dataset(tmp_path)
    version = train_discs(store)
    folder = train_folder(read_plan(store), TRAIN)
    views, meta = ViewsStore.open(store), read_meta(store, version)
    store.replace(f"{folder}/pictures/00000006.webp", damage)
    for timeline in read_training_gallery(views, version, meta, None).timelines:
        assert [step for step, _ in timeline.frames] == [12]
    store.replace(f"{folder}/monitor.json", damage)
    assert read_training_gallery(views, version, meta, None).timelines == []
    assert len(recorded_losses(store, meta)) == 12
    store.replace(f"{folder}/curve.safetensors", damage)
    assert recorded_losses(store, meta) == []


def test_groups_of_steps_stay_within_their_phase() -> None:
    rows = [(step, "warmup", {"latent": 1.0}) for step in range(1, 302)]
    rows += [(step, "joint", {"latent": 9.0}) for step in range(302, 501)]
    (found,) = training_curves(rows, resumed=[100.0])
    assert set(found.values) == {1.0, 9.0}
    assert found.steps[found.values.index(9.0) - 1] == 301.0
    text = curve(found, 420)
    path = re.search(r'd="([^"]*)" class="trace"', text)
    assert path is not None
    assert path[1].count("M") == 2  # a line breaks between phases
    assert "resumed at step 100" in text


def test_bars_have_the_height_of_their_coefficients() -> None:
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    values = (np.array([1.0, -0.5], np.float32), np.array([0.0, 0.25], np.float32))
    text = coefficient_bars(CoefficientPair(("a<b", "c"), (picture, picture), values), 700)
    bars = re.findall(r'<rect x="[^"]*" y="([^"]*)" width="[^"]*" height="([^"]*)" class="(\w+)"', text)
    heights = {(css, index): float(bar[1]) for index, bar in enumerate(bars) for css in [bar[2]]}
    # In order of base planes, first object first: 1, 0 (a hairline of half a pixel), -0.5, 0.25.
    one = heights[("first", 0)]
    assert one == pytest.approx((250 - 24 - 6) / 2 / 1.06, abs=0.01)
    assert heights[("second", 1)] == 0.5
    assert heights[("first", 2)] == pytest.approx(one / 2, abs=0.01)
    assert heights[("second", 3)] == pytest.approx(one / 4, abs=0.01)
    assert "a&lt;b" in text
