"""Forecasts from the runs of a finished dataset, and the comparison with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import PipelineConfig, load_config
from pipeline.forecast import forecast
from pipeline.forecast_history import finished_shards, measured_before
from pipeline.forecast_kept import compared, save_forecast
from pipeline.planned import stored_config
from pipeline.report.collect import collect, read_runs
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
    shards = finished_shards(store)
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


def test_what_is_kept_is_compared_with_the_runs(tmp_path: Path) -> None:
    store = write_small_dataset(tmp_path)  # one run of render, 12.5 s
    event = '{"event": "shard_done", "shard": %d, "n_ok": 4, "n_bytes": 700, "usage": {"cpu_seconds": %g}}\n'
    store.create("runs/render/r1/events-0000.jsonl", (event % (0, 2.5) + event % (1, 3.5)).encode())
    assert compared(store, read_runs(store)) == []
    hours = {"low": 5 / 3600, "likely": 8 / 3600, "high": 9 / 3600}
    stage = {"cpu_hours": hours, "wall_s": {"low": 9.0, "likely": 10.0, "high": 11.0}}
    unknown = {"cpu_hours": None, "wall_s": None}
    stages = {"render": stage, "train_shared": unknown, "fit_objects": unknown}
    save_forecast(store, {"stages": stages, "bytes": {"views": 1500, "planes": 9, "shared": None}})
    (one,) = compared(store, read_runs(store))
    assert (one.stage, one.wall_s, one.actual_wall_s) == ("render", 10.0, 12.5)
    assert one.cpu_s == pytest.approx((5, 8, 9))
    assert (one.actual_cpu_s, one.stored_bytes, one.actual_bytes) == (6.0, 1500, 1400)
    findings = collect(store, ViewsStore.open(store), ViewsStore.open(store).status(), None)
    page = str(cost(findings))
    assert "75 %" in page  # 6 of 8 CPU-seconds
    assert "5.0\u202fs to 9.0\u202fs" in page
