"""Forecasts from the runs of a finished dataset, and the comparison with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import PipelineConfig, load_config
from pipeline.forecast import STAGES, forecast
from pipeline.forecast_history import finished_shards, measured_before
from pipeline.forecast_kept import save_forecast
from pipeline.planned import stored_config
from pipeline.report.collect import collect
from pipeline.report.forecasts import compared
from pipeline.report.records import ForecastFigure
from pipeline.report.sections_record import cost
from storage.errors import UsageError
from storage.store import Store
from storage.views import ViewsStore
from tests.conftest import fpipe
from tests.test_pipeline.small_dataset import write_small_dataset


def config_of(root: Path, *settings: str) -> PipelineConfig:
    values = stored_config(Store(root))
    assert values is not None
    return load_config({**values, "compute": {}}, settings=settings)


@pytest.mark.bpy
def test_the_same_again_takes_what_it_took(tiny_dataset: Path) -> None:
    store = Store(tiny_dataset)
    prices = {"cpu-hour": 1.0}
    found = forecast(config_of(tiny_dataset, "compute.workers=1"), prices=prices, earlier=store)
    shards = finished_shards(store, "default")
    for name, stage in (("render", "render"), ("fit_objects", "fit-objects")):
        hours = found["stages"][name]["cpu_hours"]
        assert 3600 * hours["likely"] == pytest.approx(
            sum(row["cpu_seconds"] for row in shards[stage]), rel=1e-3
        )
        assert hours["low"] <= hours["likely"] <= hours["high"]
        assert found["stages"][name]["money"]["likely"] == hours["likely"]
    more = forecast(config_of(tiny_dataset, "source.classes={car: 80}"), earlier=store)
    assert more["stages"]["render"]["cpu_hours"]["likely"] == pytest.approx(
        10 * found["stages"]["render"]["cpu_hours"]["likely"], rel=2e-3
    )


@pytest.mark.bpy
def test_other_settings_cost_something_else(tiny_dataset: Path) -> None:
    for setting, said in (
        ("fit.rgb_steps=9", r"fit\.rgb_steps: 4 .* -> 9"),
        ("render.views=9", r"render\.views: 8"),
        ("compute.fit_gpus=1", r"compute\.fit_gpus was 0 there, 1 is asked for"),
    ):
        with pytest.raises(UsageError, match=said):
            measured_before(Store(tiny_dataset), config_of(tiny_dataset, setting))


@pytest.mark.bpy
def test_a_dataset_without_runs_says_nothing(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no dataset"):
        measured_before(Store(tmp_path), config_of(tiny_dataset))
    done = fpipe("plan", tmp_path / "new", "--preset", "demo", "--from", tmp_path / "nothing")
    assert done.code == 2
    assert "there is no dataset" in done.err


def one_stage(cpu_s: tuple[float, float, float], wall_s: float, stored: int) -> dict[str, Any]:
    names = ("low", "likely", "high")
    hours = dict(zip(names, (value / 3600 for value in cpu_s), strict=True))
    return {"cpu_hours": hours, "wall_s": dict.fromkeys(names, wall_s), "bytes": {"stored": stored}}


def write_run(store: Store, stage: str, fit: str | None, seconds: float, cpu_s: Sequence[float]) -> None:
    record = {"stage": stage, "seconds": seconds, "started": fit or "", **({"fit": fit} if fit else {})}
    run = f"runs/{stage}/{fit or 'run'}"
    store.create(f"{run}/run.json", json.dumps(record).encode())
    events = [
        {"event": "shard_done", "shard": shard, "n_ok": 4, "n_bytes": 700, "usage": {"cpu_seconds": value}}
        for shard, value in enumerate(cpu_s)
    ]
    store.create(f"{run}/events-0000.jsonl", "\n".join(map(json.dumps, events)).encode())


def test_what_is_kept_is_compared_with_the_runs(tmp_path: Path) -> None:
    store = write_small_dataset(tmp_path)  # one run of render, 12.5 s; a fit "base"
    assert compared(store) == []
    write_run(store, "render", None, 3.5, [2.5, 3.5])
    write_run(store, "fit-objects", "other", 70.0, [100.0])
    said = one_stage((5, 9, 10), 20.0, 1500)
    save_forecast(store, {"fit": "base", "stages": dict.fromkeys(STAGES, said)})
    (render,) = compared(store)  # the other fit is not the one that was forecast
    write_run(store, "fit-objects", "base", 40.0, [18.0, 18.0])
    _, fit = compared(store)

    assert (render.stage, render.complete) == ("render", True)
    assert render.wall_s == ForecastFigure(20.0, 12.5 + 3.5, 20.0, 20.0)
    assert (render.cpu_s.low, render.cpu_s.likely, render.cpu_s.high) == pytest.approx((5, 9, 10))
    assert render.cpu_s.actual == 2.5 + 3.5
    assert render.cpu_s.off == pytest.approx(0.5)
    files = [file for file in (tmp_path / "views.zarr/images").rglob("*") if file.name != "zarr.json"]
    assert render.stored_bytes.actual == sum(file.stat().st_size for file in files if file.is_file())

    assert fit.stage == "fit-objects base"
    assert (fit.cpu_s.actual, fit.wall_s.actual) == (36.0, 40.0)
    assert fit.cpu_s.off == pytest.approx(-0.75)
    findings = collect(store, ViewsStore.open(store), ViewsStore.open(store).status(), None)
    page = str(cost(findings))
    assert "+50\u202f%" in page
    assert "\u221275\u202f%" in page
    assert "5.0\u202fs to 10\u202fs" in page
    done = fpipe("plan", tmp_path, "--compare")
    assert "+50%" in done.out
    assert "-75%" in done.out
    assert fpipe("plan", tmp_path, "--compare", "--json").json()["stages"][1]["off"]["wall_s"] == -0.5


def test_a_dataset_without_a_forecast_has_nothing_to_compare(tmp_path: Path) -> None:
    done = fpipe("plan", write_small_dataset(tmp_path).url, "--compare")
    assert done.code == 2
    assert "keeps no forecast: fpipe plan" in done.err


@pytest.mark.parametrize("flag", ["--calibrate", "--no-calibrate"])
def test_figures_come_from_one_place(tmp_path: Path, flag: str) -> None:
    done = fpipe("plan", tmp_path / "new", "--preset", "demo", "--from", tmp_path, flag)
    assert done.code == 2
    assert f"{flag} has no effect beside --from" in done.err
