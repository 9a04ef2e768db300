"""The report: self-contained, well-formed, complete, and safe against what ids and reasons may hold."""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.report import write_report
from pipeline.report.charts import Ridge, nice_ticks, ridges
from pipeline.report.curves import recorded_losses, training_curves
from pipeline.report.gallery import TURNTABLE_ELEVATION_DEG, TURNTABLE_FRAMES, mix
from pipeline.report.images import ERROR_MAX, data_uri, error_colours, error_map, sprite
from pipeline.report.markup import Html, el, join
from pipeline.report.wording import count, duration, fixed, nouns, signed, size
from render_jobs.cameras import orbit_cameras
from storage.errors import UsageError
from storage.plan import read_plan
from storage.planes import PlanesStore
from storage.records import ObjectFit
from storage.store import Store
from tests.test_pipeline.html_page import HtmlPage
from tests.test_pipeline.small_dataset import EVIL_ID, DiscRenderer, write_fit, write_small_dataset

SECTIONS = {
    "accuracy",
    "objects",
    "turntables",
    "between",
    "render",
    "speed",
    "failures",
    "training",
    "cost",
    "use",
    "provenance",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, DiscRenderer]:
    store = write_small_dataset(tmp_path_factory.mktemp("report") / "cars & co")
    renderer = DiscRenderer()
    path = Path(write_report(store.url, renderer=renderer))  # type: ignore[arg-type]
    assert path == Path(store.url) / "reports" / "base.html"
    return path.read_text(encoding="utf-8"), renderer


def test_the_page_is_well_formed_and_has_every_section(report: tuple[str, DiscRenderer]) -> None:
    page = HtmlPage(report[0])
    assert report[0].startswith("<!DOCTYPE html>")
    assert set(page.ids) >= SECTIONS
    assert len(page.ids) == len(set(page.ids))
    assert set(page.links) <= {f"#{anchor}" for anchor in page.ids}


def test_the_page_loads_nothing(report: tuple[str, DiscRenderer]) -> None:
    page = HtmlPage(report[0])
    assert page.loads
    assert all(load.startswith("data:image/webp;base64,") for load in page.loads)
    assert not re.search(r"url\(|@import|https?://", report[0])
    assert html.escape("default-src 'none'; img-src data:") in report[0]


def test_every_picture_is_an_image_with_a_description(report: tuple[str, DiscRenderer]) -> None:
    page = HtmlPage(report[0])
    assert len(page.images) > 20
    for image in page.images:
        assert image["alt"]
        with Image.open(io.BytesIO(base64.b64decode(str(image["src"]).partition(",")[2]))) as picture:
            assert picture.format == "WEBP"
    for film in page.films:
        assert int(str(film["data-frames"])) <= int(str(film["data-columns"])) * int(str(film["data-rows"]))


def test_ids_and_reasons_are_text_and_never_markup(report: tuple[str, DiscRenderer]) -> None:
    page = HtmlPage(report[0])
    assert "<script>alert" not in report[0]
    assert "<b>has no faces" not in report[0]
    assert len(page.texts["script"]) == 1
    assert any(EVIL_ID in text for texts in page.texts.values() for text in texts)
    assert "the mesh <b>has no faces</b>" in page.texts["p"]


def test_failures_are_listed_once_with_the_stage_that_caused_them(report: tuple[str, DiscRenderer]) -> None:
    section = report[0].partition('id="failures"')[2].partition("</section>")[0]
    assert section.count("<tr>") == 4  # head, row 2 (render), row 3 (fit), total
    assert section.count("object-002") == 1
    assert "no_faces" in section
    assert "fit_diverged" in section
    assert "fpipe repro 2" in section


def test_figures_on_the_page_are_those_of_the_store(report: tuple[str, DiscRenderer], tmp_path: Path) -> None:
    store = write_small_dataset(tmp_path / "again")
    planes = PlanesStore.open(store)
    chosen = planes.metrics()["psnr_db"][planes.regime() == 2]
    figures = report[0].partition('class="key-figures"')[2].partition("</dl>")[0]
    assert f"<dd>{fixed(float(chosen.mean()), 2)}" in figures


def test_flagged_objects_are_shown_with_pictures_losses_and_a_command(tmp_path: Path) -> None:
    store = write_small_dataset(tmp_path / "flagged", n_objects=26, classes=("car",))
    write_fit(store, read_plan(store), "spoilt", bad=20)
    text = Path(write_report(store.url, "spoilt", renderer=DiscRenderer())).read_text()  # type: ignore[arg-type]
    assert "flagged" in HtmlPage(text).ids
    section = text.partition('id="flagged"')[2].partition("</section>")[0]
    assert "1 object far below their class; 1 object not converged" in section
    bad, falling = section.split('class="flagged-fit"')[1:]
    assert "object-020" in bad
    assert "Far below its class" in bad
    assert (bad.count("<img"), falling.count("<img")) == (4, 4), "two held-out views, truth beside rendering"
    assert bad.count("<svg") == falling.count("<svg") == 1
    assert f"fpipe repro {store.url} object-020 --stage fit --name spoilt --out pictures" in bad
    assert "object-022" in falling
    assert "the loss fell by 3.0" in falling
    assert f"fpipe fit-objects {store.url} --refine --name spoilt --shard 7" in falling
    psnr = PlanesStore.open(store, "spoilt").metrics()["psnr_db"]
    assert fixed(float(psnr[20]), 2) in bad


def test_a_report_without_flags_has_no_such_section(report: tuple[str, DiscRenderer]) -> None:
    assert "flagged" not in HtmlPage(report[0]).ids


def test_turntables_use_cameras_of_no_view(report: tuple[str, DiscRenderer]) -> None:
    rings = [cameras for cameras in report[1].cameras if len(cameras) == TURNTABLE_FRAMES]
    assert rings
    np.testing.assert_allclose(
        rings[0], orbit_cameras(TURNTABLE_FRAMES, TURNTABLE_ELEVATION_DEG, 1.3), atol=1e-6
    )


def test_a_data_set_without_runs_curves_or_shared_metadata_still_gets_a_report(tmp_path: Path) -> None:
    store = write_small_dataset(tmp_path / "bare", n_objects=4)
    folder = Path(store.url)
    (folder / "runs/render/r1/run.json").write_bytes(b"{ torn")
    (folder / "shared/0123456789abcdef/shared.json").unlink()
    page = HtmlPage(Path(write_report(store.url, renderer=DiscRenderer())).read_text())  # type: ignore[arg-type]
    assert "training" not in page.ids
    assert "cost" in page.ids


def test_a_report_of_an_unknown_fit_is_refused(tmp_path: Path) -> None:
    store = write_small_dataset(tmp_path / "data", n_objects=4)
    with pytest.raises(UsageError, match="nope"):
        write_report(store.url, fit="nope", renderer=DiscRenderer())  # type: ignore[arg-type]


def test_elements_escape_text_and_attributes_but_not_markup() -> None:
    assert el("p", "<i>", Html("<b></b>"), None, 3) == "<p>&lt;i&gt;<b></b>3</p>"
    assert el("img", alt='"&', hidden=True, title=None, data_x=1.50) == (
        '<img alt="&quot;&amp;" hidden data-x="1.5">'
    )
    assert join("a<", Html("<br>")) == "a&lt;<br>"
    with pytest.raises(ValueError, match="children"):
        el("img", "text")


def test_error_map_is_white_without_error_and_monotonically_darker_with_it() -> None:
    same = np.full((4, 4, 3), 90, dtype=np.uint8)
    assert (error_map(same, same) == 255).all()
    lightness = error_colours(np.linspace(0, 1, 64)).astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) < 0).all()
    # a difference of 0.3 on every channel, and of anything beyond, has the last colour
    far = same + np.uint8(round(ERROR_MAX * 255) + 1)
    np.testing.assert_array_equal(error_map(far, same)[0, 0], error_colours(np.array(1.0)))


def test_sprite_holds_frames_in_reading_order() -> None:
    frames = [np.full((2, 3, 3), value, dtype=np.uint8) for value in range(8)]
    sheet = sprite(frames)
    assert sheet.shape == (4, 18, 3)
    assert sheet[0, ::3, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert sheet[2, ::3, 0].tolist() == [6, 7, 255, 255, 255, 255]
    assert data_uri(sheet).startswith("data:image/webp;base64,")


def test_mixing_ends_at_its_ends() -> None:
    a = ObjectFit(np.zeros((3, 1, 2, 2), np.float16), np.array([0.0, 4.0], np.float32), 2)
    b = ObjectFit(np.ones((3, 1, 2, 2), np.float16), np.array([2.0, 0.0], np.float32), 1)
    for share, expected in ((0.0, a), (1.0, b)):
        mixed = mix(a, b, share, share)
        np.testing.assert_array_equal(mixed.coefficients, expected.coefficients)
        np.testing.assert_array_equal(mixed.micro, expected.micro)
    quarter = mix(a, b, 0.25, 0.5)
    assert quarter.coefficients.tolist() == [0.5, 3.0]
    assert (quarter.micro == 0.5).all()


def test_ridges_draw_one_block_per_object() -> None:
    values = np.array([1.0, 1.0, 2.0, np.nan])
    chart = ridges([Ridge("a", "r1", values), Ridge("b", "r2", np.array([3.0]))], "dB", 1, 860)
    assert chart.count("<rect") == 4  # NaN is no object's figure
    assert "a: mean 1.3; b: mean 3.0" in chart
    assert "No figures" in ridges([Ridge("a", "r1", np.array([]))], "dB", 1, 860)


def test_ridges_of_many_objects_draw_whole_bars() -> None:
    chart = ridges([Ridge("a", "r1", np.random.default_rng(0).normal(size=20_000))], "dB", 1, 860)
    assert chart.count("<rect") <= 56


@pytest.mark.parametrize(
    ("low", "high", "n", "expected"),
    [
        (0, 10, 5, [0, 2, 4, 6, 8, 10]),
        (12.3, 27.9, 3, [15, 20, 25]),
        (0.81, 0.9, 4, [0.82, 0.84, 0.86, 0.88, 0.9]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, n: int, expected: list[float]) -> None:
    assert nice_ticks(low, high, n) == pytest.approx(expected)


def test_curves_are_read_from_every_form_and_thinned_by_medians(tmp_path: Path) -> None:
    rows = [[step, "warmup", {"latent": 1.0 if step % 3 else 100.0}] for step in range(1, 661)]
    store = Store(tmp_path)
    (curve,) = training_curves(recorded_losses(store, {"info": {"curve": rows, "train_hash": "of-before"}}))
    assert len(curve.steps) == 110  # groups of six
    assert set(curve.values) == {1.0}  # one outlier in three steps does not show in the line, but in the band
    assert (set(curve.low), set(curve.high)) == ({1.0}, {100.0})
    assert curve.span == (1.0, 660.0)
    mappings = [{"step": s, "phase": p, "losses": {"rgb": 0.5, "x": 1}} for s, p in ((1, "a"), (2, "b"))]
    rgb, other = training_curves(recorded_losses(store, {"curve": mappings}))
    assert (rgb.phases, other.name) == ([(1.0, "a"), (2.0, "b")], "x")
    assert training_curves([]) == []
    assert recorded_losses(store, {}) == []
    assert recorded_losses(store, {"curve": ["?", [1], {"step": None}]}) == []


def test_wording() -> None:
    assert [nouns(word) for word in ("car", "bus", "box", "lorry", "toy", "bench", "chairs", "glass")] == [
        *("cars", "buses", "boxes", "lorries", "toys", "benches", "chairs", "glasses"),
    ]
    assert (count(12345), fixed(-1.25, 1), fixed(None, 2), signed(3.0, 1)) == (
        "12\u202f345",
        "\u22121.2",
        "–",
        "+3.0",
    )
    assert [duration(s) for s in (0.0312, 4.26, 80.0, 125.0, 7384.0)] == [
        *("31\u202fms", "4.3\u202fs", "80\u202fs", "2\u202fmin 05\u202fs", "2\u202fh 03\u202fmin"),
    ]
    assert [size(n) for n in (999, 49_612, 3_720_000, 5.1e9)] == [
        *("999\u202fB", "49.6\u202fKB", "3.72\u202fMB", "5.10\u202fGB"),
    ]
