"""The six representations from training to table, on toy objects of two classes that are trained jointly."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr

from pipeline.ablation import (
    REPRESENTATIONS,
    AblationRow,
    _train_steps,
    ablation_rows,
    run_ablation,
    store_table,
    table_cells,
)
from pipeline.config import PipelineConfig, load_config, read_preset
from pipeline.evaluate import recompute_figures
from pipeline.executor import Task, TaskFunction, TaskOutcome, TaskResources
from pipeline.model import autoencoder as autoencoder_module
from pipeline.model import vae_files
from pipeline.model.shared import load_regime_one, load_shared
from pipeline.report import write_report
from storage.errors import StoreMismatchError
from storage.plan import PlanHeader, write_plan
from storage.planes import PlanesStore, published_fit
from storage.reader import open_planes
from storage.records import ObjectViews, PlanRow
from storage.store import Store
from storage.verify import verify
from storage.views import ViewsStore
from tests.test_pipeline.test_stages import Listening
from tests.test_pipeline.toy import SIZE_PX, toy_object

CLASSES = ("car", "sofa", "car", "sofa")
SMALL = (
    *("train.objects=2", "train.warmup.steps=3", "train.joint.steps=3", "train.warmup.pixels=32"),
    *("train.resolution=16", "train.samples=6", "train.losses.free_points=16"),
    *("train.geometry.n_coarse=8", "train.geometry.n_fine=0"),
    "compute.train_cpus=1",
    *("fit.latent_steps=3", "fit.latent_pixels=32", "fit.rgb_steps=2", "fit.samples=6", "fit.free_points=16"),
)


class Inline:
    """Runs tasks where they are."""

    name = "inline"
    grace_s = 0.0

    def run(
        self, function: TaskFunction, tasks: Sequence[Task], resources: TaskResources, *_: Any
    ) -> Iterator[TaskOutcome]:
        for task in tasks:
            yield TaskOutcome(task.shard, 1, function(**task.arguments), None, node="here")


@dataclass(frozen=True)
class Ablated:
    """A finished comparison."""

    store: Store
    configs: dict[str, PipelineConfig]
    rows: dict[str, AblationRow]


def _config(name: str, *settings: str) -> PipelineConfig:
    preset = read_preset(f"ablation/{name}")
    own = () if preset["train"]["autoencoder"]["size"] == "identity" else ("train.autoencoder.steps=2",)
    return load_config(preset, settings=[*SMALL, *own, *settings])


def _run(store: Store, configs: dict[str, PipelineConfig]) -> list[Any]:
    session: Any = SimpleNamespace(executor=Inline(), planned_workers=lambda *_: 1)
    return run_ablation(store, configs, "ablation", session, Listening(), {})


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> Ablated:
    store = Store(tmp_path_factory.mktemp("ablation"))
    objects = [toy_object(seed) for seed in range(len(CLASSES))]
    rows = [PlanRow(i, o.object_id, CLASSES[i], "test", "", f"f{i}") for i, o in enumerate(objects)]
    header = PlanHeader(
        n_objects=len(rows), n_views=6, height=SIZE_PX, width=SIZE_PX, objects_per_views_shard=len(rows)
    )
    views = ViewsStore.create_or_open(store, write_plan(store, header, rows))
    builder = views.builder(0, "views")
    for row, toy in enumerate(objects):
        found = ObjectViews(
            toy.images, toy.cam2world, toy.intrinsics, toy.heldout, np.eye(4, dtype=np.float32)
        )
        builder.add(row, found)
    builder.commit()
    configs = {name: _config(name) for name in REPRESENTATIONS}
    configs["eg3d"] = _config("fused-planes", "train.geometry.axes=eg3d")
    _run(store, configs)
    table = ablation_rows(store, list(configs), "ablation")
    return Ablated(store, configs, {row.name: row for row in table})


@pytest.mark.parametrize(
    ("name", "f_mic", "n_base", "factor"),
    [
        ("fused-planes", 8, 12, 2),
        ("ulw", 0, 12, 2),
        ("one-base-plane", 8, 1, 2),
        ("micro-only", 16, 0, 2),
        ("rgb", 8, 12, 1),
        ("tri-planes", 16, 0, 1),
    ],
)
def test_what_is_stored_is_the_representation(
    ablated: Ablated, name: str, f_mic: int, n_base: int, factor: int
) -> None:
    planes = open_planes(ablated.store.url, fit=f"ablation-{name}")
    assert len(planes) == len(CLASSES)
    for fitted in planes:
        assert fitted.micro().shape == (3, f_mic, 16, 16)
        assert fitted.coefficients().shape == (n_base,)
        assert fitted.planes().shape == (3, 16, 16, 16)
        assert np.isfinite(fitted.planes()).all()
    assert planes.planes_store.coefficients().shape == (len(CLASSES), n_base)
    assert planes.shared["factor"] == factor
    group = zarr.open_group(str(ablated.store.local_path(f"fits/ablation-{name}/planes.zarr")), mode="r")
    assert ("micro" in group) == (f_mic > 0)
    assert ("coefficients" in group) == (n_base > 0)


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_figures_are_those_of_what_is_stored(ablated: Ablated, name: str) -> None:
    planes = PlanesStore.open(ablated.store, f"ablation-{name}")
    again, stored = recompute_figures(ablated.store, planes), planes.metrics()
    for figure in ("psnr_db", "ssim", "ceiling_psnr_db"):
        np.testing.assert_allclose(again[figure], stored[figure], atol=1e-3, err_msg=figure)
    assert np.isfinite(stored["psnr_db"]).all()
    assert np.isnan(stored["ceiling_psnr_db"]).all() == (name in {"rgb", "tri-planes"})


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_classes_are_trained_together(ablated: Ablated, name: str) -> None:
    planes = PlanesStore.open(ablated.store, f"ablation-{name}")
    codes = load_regime_one(ablated.store, planes.header.shared_version)
    assert {CLASSES[planes.plan.row_of(object_id)] for object_id in codes.ids} == {"car", "sofa"}
    assert planes.regime().tolist().count(1) == 2


def test_rgb_needs_no_diffusers(ablated: Ablated, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise AssertionError("diffusers was asked for")

    for module in (autoencoder_module, vae_files):
        monkeypatch.setattr(module, "autoencoder_kl", missing)
    for name in ("rgb", "tri-planes"):
        shared = load_shared(ablated.store, ablated.rows[name].shared_version)
        assert shared.background_latent.shape == (3, SIZE_PX, SIZE_PX)
        files = {file for file in ablated.rows[name].shared_bytes if file.startswith("vae/")}
        assert files == {"vae/identity.json"}


@pytest.mark.parametrize("name", ["micro-only", "rgb"])
def test_a_report_can_be_written(ablated: Ablated, name: str) -> None:
    where = write_report(ablated.store.url, f"ablation-{name}")
    assert not re.search(r">[^<]*\bnan\b", Path(where).read_text().split("<body")[1])


def test_the_store_verifies(ablated: Ablated) -> None:
    assert verify(ablated.store, full=True) == []


def test_the_released_axes_are_named_in_the_store(ablated: Ablated) -> None:
    orders = {name: open_planes(ablated.store.url, fit=f"ablation-{name}") for name in ("ulw", "eg3d")}
    assert orders["ulw"].planes_store.header.plane_order == ("xy", "xz", "yz")
    assert orders["eg3d"].planes_store.header.plane_order == ("xy", "xz", "zx")
    group = zarr.open_group(str(ablated.store.local_path("fits/ablation-eg3d/planes.zarr")), mode="r")
    assert group["micro"].attrs["planes"] == ["xy", "xz", "zx"]


def test_the_table_counts_bytes_and_objects(ablated: Ablated) -> None:
    rows = ablated.rows
    # 3 planes · 16² texels · channels · 2 bytes, and 4 bytes per coefficient
    assert rows["fused-planes"].object_bytes == 3 * 256 * 8 * 2 + 4 * 12
    assert rows["ulw"].object_bytes == 4 * 12
    assert rows["tri-planes"].object_bytes == 3 * 256 * 16 * 2
    assert rows["fused-planes"].shared_bytes["base_planes.safetensors"] > 4 * 12 * 3 * 8 * 256
    assert sum(rows["tri-planes"].shared_bytes.values()) < sum(rows["micro-only"].shared_bytes.values())
    assert not any(file.startswith(("regime1/", "mean")) for file in rows["ulw"].shared_bytes)
    for row in rows.values():
        assert row.objects == 2
        assert row.train_steps == (6 if row.factor == 1 else 8)
        assert row.fit_seconds is not None
        assert row.fit_cpu_seconds is not None
        assert 0 < row.fit_cpu_seconds < row.fit_seconds * 4  # a few threads at most
        assert row.train_seconds is not None
    stored = store_table(ablated.store, list(rows.values()), "ablation")
    lines = ablated.store.read(stored).decode().splitlines()
    assert sum(line.startswith("| ") for line in lines) == 2 + len(rows)
    cells = table_cells(list(rows.values()))
    assert {len(line) for line in cells} == {len(cells[0])}
    values = json.loads(ablated.store.read("reports/ablation.json"))
    assert [row["name"] for row in values["rows"]] == list(rows)


def test_run_again_it_does_nothing_and_publishes_nothing(ablated: Ablated) -> None:
    assert published_fit(ablated.store) == "ablation-fused-planes"
    shared = ablated.store.read("shared/published.json")
    results = _run(ablated.store, dict(reversed(ablated.configs.items())))
    assert [result.done for result in results] == [0] * 2 * len(ablated.configs)
    assert published_fit(ablated.store) == "ablation-fused-planes"
    assert ablated.store.read("shared/published.json") == shared


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("fit.latent_steps=4", r"ablation-ulw .*fit\.latent_steps: .*another --name"),
        ("train.joint.steps=4", r"ablation-ulw .*train\.joint\.steps: .*another --name"),
    ],
)
def test_changed_settings_are_refused_before_anything_is_trained(
    ablated: Ablated, monkeypatch: pytest.MonkeyPatch, setting: str, said: str
) -> None:
    def train(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("a training was started")

    monkeypatch.setattr("pipeline.ablation.train_shared", train)
    with pytest.raises(StoreMismatchError, match=said):
        _run(ablated.store, {"new": _config("rgb"), "ulw": _config("ulw", setting)})


def test_steps_of_older_shared_components_are_those_of_their_curve() -> None:
    assert _train_steps({"steps": 7, "seconds": 1.0}) == 7
    assert _train_steps({"curve": [{"step": 1}, {"step": 2}]}) == 2
