"""What a calibration finds, against datasets that were made for real."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from pipeline import calibration_fit
from pipeline.calibration import Measured, calibrated
from pipeline.calibration_fit import FitBytes
from pipeline.calibration_render import spread
from pipeline.config import PipelineConfig, load_config
from pipeline.forecast import forecast
from pipeline.planned import planned
from render_jobs.sources.base import ObjectEntry
from storage.planes import PlanesStore
from storage.store import Store
from storage.views import ViewsStore
from tests.conftest import TINY, fpipe
from tests.s3_server import Shim
from tests.test_pipeline.test_forecast_requests import counted

LOCAL = "compute.executor=local"


def tiny(*settings: str) -> PipelineConfig:
    return load_config(yaml.safe_load(TINY.read_text()), settings=[LOCAL, *settings])


def measured(config: PipelineConfig) -> Measured:
    return calibrated(*planned(config), fits_per_shard=1)


def test_objects_are_tried_from_everywhere_in_the_list() -> None:
    entries = [ObjectEntry(f"car-{i}", "car", "", "") for i in range(24)]

    def numbers(chosen: Sequence[ObjectEntry]) -> list[int]:
        return [int(entry.object_id.removeprefix("car-")) for entry in chosen]

    assert sorted(numbers(spread(entries, 8))) == [0, 3, 6, 9, 12, 15, 18, 21]
    assert numbers(spread(entries, 8))[:4] == [0, 9, 18, 3]  # where rendering is slow only these are
    assert numbers(spread(entries[:2], 8)) == [0, 1]


def test_bytes_of_objects_and_of_statistics() -> None:
    # Two files of 4 and 2 objects: 900 - 100 and 520 - 120 bytes, 1200 for 6 objects.
    assert FitBytes.of([900, 520], [4, 2], [100, 120]) == FitBytes(per_object=200, per_shard=110)


@pytest.mark.slow
@pytest.mark.bpy
def test_fits_run_to_their_own_end(monkeypatch: pytest.MonkeyPatch) -> None:
    early = ["source.classes={car: 2}", "fit.latent_steps=400", "fit.stop_gain=0.5"]
    monkeypatch.setattr(calibration_fit, "FIT_BUDGET_S", float("inf"))
    found = measured(tiny(*early))
    said = re.search(r"2 fits ended by themselves after (\d+) to (\d+) of 404 steps", found.basis)
    assert said is not None
    assert 84 <= int(said[1]) <= int(said[2]) < 404  # rates are lowered twice before an end: 4 · 20 steps


@pytest.mark.slow
@pytest.mark.bpy
def test_bytes_are_those_of_a_dataset(tiny_dataset: Path) -> None:
    found = forecast(tiny("compute.workers=2"))
    store = Store(tiny_dataset)
    views, planes = ViewsStore.open(store).n_bytes(), PlanesStore.open(store)
    assert found["stages"]["render"]["bytes"]["stored"] == pytest.approx(views, rel=0.1)
    assert found["stages"]["fit_objects"]["bytes"]["stored"] == pytest.approx(planes.n_bytes(), rel=0.1)
    statistics = [planes.sidecar(shard).statistics for shard in planes.done()]
    assert sum(block.n_bytes for block in statistics if block) > 0.2 * planes.n_bytes()


@pytest.mark.slow
@pytest.mark.bpy
def test_a_forecast_of_a_run_on_s3(s3_root: str, s3_shim: Shim) -> None:
    options = ("--preset", str(TINY), "--set", LOCAL, "--set", "source.classes={car: 3}")
    found = fpipe("plan", s3_root, *options, "--forecast", "--json").json()
    for name, command in (
        ("render", "render"),
        ("train_shared", "train-shared"),
        ("fit_objects", "fit-objects"),
    ):
        s3_shim.requests.clear()
        assert fpipe(command, s3_root, *options).code == 0
        requests, said = counted(s3_shim.requests), found["stages"][name]["requests"]
        assert said["puts"] == pytest.approx(requests.puts, rel=0.25), (command, requests)
        assert said["gets"] == pytest.approx(requests.gets, rel=0.25), (command, requests)
    stages = fpipe("plan", s3_root, "--compare", "--json").json()["stages"]
    assert [one["stage"] for one in stages] == ["render", "train-shared", "fit-objects default"]
    for one in stages:
        assert one["complete"]
        assert abs(one["off"]["stored_bytes"]) < 0.25
        assert one["cpu_s"]["actual"] > 0
