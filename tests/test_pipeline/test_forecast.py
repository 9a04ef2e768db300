from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.calibration_training import _training_seconds
from pipeline.config import load_config, read_preset
from pipeline.forecast import forecast
from pipeline.forecast_costs import Cost, Load, Range, stage_figures
from pipeline.prices import read_prices
from storage.errors import UsageError


def test_a_whole_training_from_its_first_steps() -> None:
    seconds = {
        "warmup": [2.5, 0.5, 0.75],
        "joint": [1.0, 1.0, 2.0],
    }  # none of an autoencoder: RGB is rendered
    counts = {"autoencoder": 0, "warmup": 10, "joint": 20}
    # 10 · 0.5 + 20 · 1, and 2 s of preparation for a fifth of the objects: 10 s for all.
    assert _training_seconds(seconds, counts, prepared=5.0) == 10 * 0.5 + 20 * 1.0 + 2.0 * 5


@pytest.mark.bpy
def test_rgb_is_measured_without_an_autoencoder() -> None:
    settings = [
        *("compute.executor=local", "source.classes={car: 2}", "render.views=4"),
        *("train.warmup.objects=3", "train.joint.objects=3"),
    ]
    found = forecast(load_config(read_preset("ablation/tri-planes"), settings=settings))
    assert found["seconds"]["train_shared"] > 0  # no start is guessed any more: what it takes is measured
    assert found["seconds"]["fit_objects"] > 0
    assert found["memory"]["train"]["total"] > 0
    # All that renderings need, as in the ablation's table: renderer, and the background's 64 × 64 RGB pixels.
    assert found["bytes"]["shared"] > 3 * 64 * 64 * 4
    stages = found["stages"]
    assert all(
        stage["wall_s"]["low"] <= stage["wall_s"]["likely"] <= stage["wall_s"]["high"]
        for stage in stages.values()
    )
    assert all(stage["money"] is None and stage["gpu_hours"]["high"] == 0 for stage in stages.values())


def test_a_stage_from_what_an_object_costs() -> None:
    cost = Cost(Range(1.0, 2.0, 4.0), Range(10.0, 20.0, 40.0), task_cpu_s=3.0, task_s=5.0, start_s=7.0)
    load = Load(n_objects=30, n_tasks=5, puts=2_000_000, gets=0, stored_bytes=7, moved_bytes=9, gpus=0.5)
    found = stage_figures(load, cost, 2, {"cpu-hour": 36.0, "gpu-hour": 7.2, "million-puts": 5.0})
    # 30 · 2 + 5 · 3 = 75 CPU-seconds; 30 · 20 + 5 · 5 = 625 s of tasks, each with half a GPU.
    assert found["cpu_hours"]["likely"] == pytest.approx(75 / 3600, rel=1e-3)
    assert found["gpu_hours"]["likely"] == pytest.approx(0.5 * 625 / 3600, rel=1e-3)
    assert found["wall_s"]["likely"] == 7 + 375  # three rounds of two workers, the last with one of them
    assert found["money"]["likely"] == pytest.approx(0.75 + 0.625 + 10.0, rel=1e-3)


def test_what_was_not_measured_has_no_hours_and_no_price() -> None:
    found = stage_figures(Load(3, 1, 10, 10, 5, 5, gpus=1.0), None, 2, {"gpu-hour": 1.0})
    assert [found[name] for name in ("cpu_hours", "gpu_hours", "wall_s", "money")] == [None] * 4
    assert found["requests"] == {"puts": 10, "gets": 10}


def test_prices_from_texts_and_files(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("cpu-hour: 0.03\ngpu-hour: 0.8\n")
    assert read_prices([str(file), "gpu-hour=1"]) == {"cpu-hour": 0.03, "gpu-hour": 1.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gold=1", "there are cpu-hour"),
        ("cpu-hour=-1", "from 0 up"),
        ("cpu-hour=x", "from 0 up"),
        ("none.yaml", "neither"),
    ],
)
def test_bad_prices_are_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_prices([text])
