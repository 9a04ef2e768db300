"""The report of a dataset without fits: bounded reading, throughput, pictures of failures, hostile text."""

from __future__ import annotations

import base64
import html
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.report import collect_render, contact_sheets, failures, write_report
from pipeline.report.contact_sheets import read_contact_sheets
from pipeline.report.images import safe_picture, thumbnail
from pipeline.report.records import StageRun
from pipeline.report.render_charts import _projected, rate_chart
from pipeline.report.throughput import throughput
from pipeline.run import read_events
from pipeline.warning_kinds import WarningCounter
from storage.errors import UsageError
from storage.layout import run_folder
from storage.plan import PlanHeader, write_plan
from storage.records import Failure, PlanRow
from storage.store import Store
from storage.views import ViewsStore
from tests.test_pipeline.html_page import HtmlPage
from tests.test_pipeline.small_dataset import EVIL_ID, N_VIEWS, SIZE_PX, object_views

Event = dict[str, Any]
HOSTILE = 'x" onerror="alert(1)'


def picture(kind: str = "PNG", size: tuple[int, int] = (8, 8)) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def write_views_only(root: Path, n_objects: int = 30, n_shards_done: int | None = None) -> Store:
    """Two classes of discs in shards of 5; row 1 has an evil id, rows 2, 7 and 12 failed."""
    ids = {1: EVIL_ID}
    rows = [
        PlanRow(row, ids.get(row, f"object-{row:03d}"), ("car", "sofa")[row % 2], "test", f"{row}", f"f{row}")
        for row in range(n_objects)
    ]
    header = PlanHeader(
        n_objects=n_objects, n_views=N_VIEWS, height=SIZE_PX, width=SIZE_PX, objects_per_views_shard=5
    )
    store = Store(root)
    views = ViewsStore.create_or_open(store, write_plan(store, header, rows))
    failed = {
        2: Failure("overexposed", "all of it is <b>white</b>", "", "fpipe repro 'a&b' 2", picture()),
        7: Failure("empty_render", "nothing to see", "", "", f"javascript:{HOSTILE}"),
        12: Failure("empty_render", "nothing <i>here</i>", "", "", "data:image/svg+xml;base64,PHN2Zz4="),
    }
    for shard in range(views.n_shards if n_shards_done is None else n_shards_done):
        builder = views.builder(shard, f"views-{shard}")
        for row in views.shard_rows(shard):
            info = {
                "cpu_s": 0.05 + 0.01 * row,
                "render_s": 0.06,
                "load_s": 0.01,
                "fetch_s": 0.002,
                "n_faces": 9,
            }
            info["warnings"] = [f"texture {HOSTILE}-{row}.png is missing"] if row % 10 == 4 else []
            if row in failed:
                builder.fail(row, failed[row])
            else:
                builder.add(row, object_views(row), info)
        builder.commit({"seconds": 1.0, "render_s": 0.4})
    return store


def write_run(store: Store, name: str, started: str, events: list[Event], seconds: float = 0.0) -> None:
    folder = run_folder("render", name)
    record = {"stage": "render", "started": started, "seconds": seconds, "summary": {"objects_ok": 1}}
    store.create(f"{folder}/run.json", json.dumps(record).encode())
    store.create(
        f"{folder}/events-0000.jsonl", "".join(json.dumps(event) + "\n" for event in events).encode()
    )


def done(at_s: float, seconds: float, n_ok: int, node: str = "a") -> dict[str, Any]:
    return {
        "event": "shard_done",
        "at_s": at_s,
        "seconds": seconds,
        "n_ok": n_ok,
        "n_failed": 1,
        "node": node,
    }


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    store = write_views_only(tmp_path_factory.mktemp("views") / "only views")
    write_run(store, "r1", "2026-01-02T10:00:00+00:00", [done(10, 10, 12)], 11.0)
    write_run(store, "r2", "2026-01-02T12:00:00+00:00", [done(20, 20, 15), {"event": "shard_failed"}], 20.0)
    path = Path(write_report(store.url))
    assert path == Path(store.url) / "reports" / "render.html"
    return path.read_text(encoding="utf-8")


def test_views_alone_make_a_page_with_the_sections_that_they_allow(report: str) -> None:
    page = HtmlPage(report)
    assert {"top", "render", "speed", "failures", "cost", "use", "provenance"} <= set(page.ids)
    assert not {"accuracy", "objects", "turntables", "between", "training"} & set(page.ids)
    assert page.texts["h1"] == ["13 cars and 14 sofas, rendered"]
    assert set(page.links) <= {f"#{anchor}" for anchor in page.ids}
    assert all(load.startswith("data:image/") for load in page.loads)


def test_contact_sheets_name_objects_and_hold_two_views_of_each(report: str) -> None:
    page = HtmlPage(report)
    tiles = [image for image in page.images if str(image["alt"]).startswith("Two views of")]
    assert len(tiles) == 27
    assert f"Two views of {EVIL_ID}" in [image["alt"] for image in tiles]
    assert {(image["width"], image["height"]) for image in tiles} == {(str(2 * SIZE_PX), str(SIZE_PX))}
    assert "<script>alert" not in report


def test_hostile_reasons_and_pictures_stay_out_of_the_markup(report: str) -> None:
    page = HtmlPage(report)
    section = report.partition('id="failures"')[2].partition("</section>")[0]
    assert section.count("<img") == 1  # the PNG; neither the script nor the SVG
    assert picture() in section
    assert "all of it is <b>white</b>" in page.texts["p"]
    assert "fpipe repro 'a&b' 2" in page.texts["code"]
    assert "javascript:" not in report
    assert "svg+xml" not in report
    assert not any(name.startswith("on") for image in page.images for name in image)
    assert html.escape('texture x" … is missing') in section


def test_failures_are_counted_by_class(report: str) -> None:
    section = report.partition('id="failures"')[2].partition("</section>")[0]
    rows = section.partition("<tbody>")[2].partition("</tbody>")[0].split("</tr>")
    assert ["empty_render" in rows[0], "overexposed" in rows[1]] == [True, True]
    assert [">2<" in rows[0], ">1<" in rows[1], ">3<" in rows[2]] == [True] * 3


def test_nothing_rendered_is_refused(tmp_path: Path) -> None:
    store = write_views_only(tmp_path / "data", n_shards_done=0)
    with pytest.raises(UsageError, match="nothing is rendered yet; run fpipe render"):
        write_report(store.url)
    with pytest.raises(UsageError, match="no dataset"):
        write_report(tmp_path / "nowhere")


def test_a_stage_that_is_not_finished_says_what_is_missing(tmp_path: Path) -> None:
    store = write_views_only(tmp_path / "data", n_shards_done=1)
    text = Path(write_report(store.url)).read_text()
    assert "25 objects of the plan are not rendered yet." in text
    HtmlPage(text)


def test_a_data_set_in_which_all_failed_gets_a_report(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    header = PlanHeader(n_objects=1, n_views=2, height=8, width=8, objects_per_views_shard=1)
    plan = write_plan(store, header, [PlanRow(0, "a", "car", "test", "0", "f")])
    builder = ViewsStore.create_or_open(store, plan).builder(0, "x")
    builder.fail(0, Failure("crash", "SIGSEGV"))
    builder.commit()
    text = Path(write_report(store.url)).read_text()
    assert "Nothing could be rendered" in text
    assert "SIGSEGV" in text
    HtmlPage(text)


def test_a_report_on_views_needs_no_torch(tmp_path: Path) -> None:
    store = write_views_only(tmp_path / "data", n_objects=5)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"from pipeline.report import write_report; write_report({store.url!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reading_is_bounded_and_counts_stay_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write_views_only(tmp_path / "data")
    monkeypatch.setattr(collect_render, "MAX_SHARDS_READ", 2)
    monkeypatch.setattr(failures, "LISTED", 1)
    monkeypatch.setattr(failures, "_LISTED_PER_KIND", 1)
    views = ViewsStore.open(store)
    found = collect_render.collect_render(store, views, views.status(), [], 1000)
    again = collect_render.collect_render(store, views, views.status(), [], 1000)
    assert (found.n_ok, found.n_failed, found.n_planned) == (27, 3, 30)
    assert 8 <= found.n_read <= 10
    assert found.objects == again.objects
    kinds = failures.collect_failures(views, views.status())
    assert [(kind.kind, kind.n_objects, len(kind.objects)) for kind in kinds] == [
        ("empty_render", 2, 1),
        ("overexposed", 1, 1),
    ]
    assert "of 27 objects" in Path(write_report(store.url)).read_text()


def test_sheets_choose_by_lot_and_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = ViewsStore.open(write_views_only(tmp_path / "data"))
    monkeypatch.setattr(contact_sheets, "TILES", 10)
    first, second = (read_contact_sheets(views, views.status(), ["car", "sofa"]) for _ in range(2))
    names = {name: [tile.object_id for tile in tiles] for name, tiles in first.tiles.items()}
    assert {name: len(ids) for name, ids in names.items()} == {"car": 5, "sofa": 5}
    assert names == {name: [tile.object_id for tile in tiles] for name, tiles in second.tiles.items()}
    assert names["car"] != [f"object-{row:03d}" for row in (0, 4, 6, 8, 10)], "not simply the first ones"
    assert first.cameras is not None
    assert first.cameras.others.shape == (10 * N_VIEWS, 3)


# Throughput: one shard of 12 objects in 10 s, then, two hours later, 15 objects in 20 s; 4 views each.


def runs(*recorded: tuple[str, list[Event], float]) -> list[tuple[StageRun, list[Event]]]:
    return [
        (StageRun("render", f"r{index}", started, seconds), events)
        for index, (started, events, seconds) in enumerate(recorded)
    ]


def test_the_rate_of_a_resumed_stage_leaves_the_pause_out() -> None:
    found = throughput(
        runs(
            ("2026-01-02T10:00:00+00:00", [done(10, 10, 12)], 10.0),
            ("2026-01-02T12:00:00+00:00", [done(20, 20, 15)], 20.0),
        ),
        n_views=4,
    )
    assert found is not None
    assert found.edges_s[-1] == 30
    assert found.starts == [(0.0, "02 Jan 10:00"), (10.0, "02 Jan 12:00")]
    assert (found.views_per_s * np.diff(found.edges_s)).sum() == pytest.approx(27 * 4)
    middle = (found.edges_s[:-1] + found.edges_s[1:]) / 2
    np.testing.assert_allclose(found.views_per_s[middle < 9.5], 4.8)
    np.testing.assert_allclose(found.views_per_s[middle > 10.5], 3.0)
    assert [(run.n_ok, run.views_per_s, run.mean_tasks) for run in found.runs] == [(12, 4.8, 1), (15, 3, 1)]
    assert "3.6 on average" in rate_chart(found, 860)


def test_runs_side_by_side_add_up() -> None:
    both = [done(10, 10, 5, "a"), done(10, 10, 5, "b")]
    found = throughput(
        runs(("2026-01-02T10:00:00+00:00", both, 10.0), ("2026-01-02T10:00:05+00:00", both, 10.0)), n_views=1
    )
    assert found is not None
    assert found.edges_s[-1] == 15
    assert len(found.starts) == 1
    middle = (found.edges_s[:-1] + found.edges_s[1:]) / 2
    np.testing.assert_allclose(found.views_per_s[(middle > 5.5) & (middle < 9.5)], 2.0)
    assert (found.runs[0].mean_tasks, found.runs[0].nodes) == (2, ["a", "b"])


def test_events_that_lack_something_are_passed_over(tmp_path: Path) -> None:
    again = {"event": "shard_done", "at_s": 3.0, "skipped": True, "n_ok": 9, "n_failed": 0}
    odd = [again, {"event": "shard_done", "at_s": "?", "seconds": 1}, {"event": "error"}, done(8, 2, 3)]
    found = throughput(runs(("2026-01-02T10:00:00+00:00", odd, 0.0)), n_views=1)
    assert found is not None
    assert (found.edges_s[-1], found.runs[0].n_ok) == (8, 3), "a killed run lasted until its last event"
    assert throughput(runs(("yesterday", [done(8, 2, 3)], 1.0)), n_views=1) is None
    assert throughput(runs(("2026-01-02T10:00:00+00:00", [again], 4.0)), n_views=1) is None
    store = Store(tmp_path)
    store.create("runs/render/r/events-0000.jsonl", b'{"event": "error"}\n[1]\n{ torn')
    assert list(read_events(store, "render", "r")) == [{"event": "error"}]
    assert list(read_events(store, "render", "none")) == []


def test_warnings_are_grouped_by_wording() -> None:
    counter = WarningCounter()
    counter.add("a", ["texture x.png of material M is missing", "texture y z.png of material N is missing"])
    counter.add("b", ["3 of 24 views are empty", "texture q.png of material M is missing"])
    counter.add("c", ["12 of 24 views are empty", "faces without a material are drawn grey", " "])
    assert [(kind.text, kind.n_objects) for kind in counter.kinds()] == [
        ("texture … is missing", 2),
        ("… of 24 views are empty", 2),
        ("faces without a material are drawn grey", 1),
    ]
    assert counter.kinds()[0].examples[0] == ("a", "texture x.png of material M is missing")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pictures_of_the_usual_kinds_pass(kind: str) -> None:
    assert safe_picture(picture(kind)) == picture(kind)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "javascript:alert(1)",
        "https://example.org/x.png",
        "data:text/html;base64,PGI+",
        "data:image/svg+xml;base64,PHN2Zz4=",
        "data:image/png;base64,AAAA",
        "data:image/png;base64,A",
        picture() + '" onerror="alert(1)',
        picture() + "\n",
        picture(size=(2000, 8)),
        "data:image/png;base64," + "A" * 300_000,
        picture("JPEG").replace("jpeg", "gif"),
    ],
)
def test_whatever_else_stands_for_a_picture_is_dropped(uri: str) -> None:
    assert safe_picture(uri) == ""


def test_cameras_spread_evenly_over_the_sphere_fill_the_disc_evenly() -> None:
    z = (np.arange(10_000) + 0.5) / 5000 - 1
    azimuth = np.arange(10_000) * 2.399963
    flat = np.sqrt(1 - z**2)
    places = _projected(np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), z], axis=1))
    area = np.sort((places**2).sum(axis=1))  # of a disc, radius² is uniform: 0 at the pole, 2 at the nadir
    np.testing.assert_allclose(area, 2 * (np.arange(10_000) + 0.5) / 10_000, atol=1e-3)
    np.testing.assert_allclose(_projected(np.array([[0.0, 1.0, 0.0]])), [[0, 1]], atol=1e-9)  # front: up


def test_thumbnails_only_shrink() -> None:
    small = np.zeros((20, 30, 3), np.uint8)
    assert thumbnail(small, 128) is small
    assert thumbnail(np.full((256, 512, 3), 7, np.uint8), 128).shape == (64, 128, 3)
