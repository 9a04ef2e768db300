from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config import load_config, read_preset
from pipeline.model.shared import SharedComponents
from tests.benchmarks import paper_fit
from tests.benchmarks.bench_fit import draw, first_reach, overridden, summary
from tests.benchmarks.fit_case import CaseObject, FitCase, load_case, save_case
from tests.benchmarks.fit_fixture import Size, make_case, preset_settings
from tests.benchmarks.paper_fit import PaperFit, PaperRecipe
from tests.benchmarks.plot import log_ticks
from tests.test_pipeline.toy import toy_fit_settings, toy_object, toy_trainer, trained_shared

FORBIDDEN = ["diffusers", "ray", "zarr", "pydantic", "yaml", "bpy", "fsspec", "safetensors", "google_crc32c"]
FORBIDDEN += ["PIL", "jaxtyping"]


@pytest.fixture(scope="module")
def shared() -> SharedComponents:
    return trained_shared(toy_trainer())


def case_object(seed: int, views: int = 3) -> CaseObject:
    toy = toy_object(seed, views=views)
    return CaseObject(toy.object_id, "toy", toy.images, toy.cam2world, toy.intrinsics, toy.heldout)


@pytest.fixture(scope="module")
def case_file(shared: SharedComponents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "toy.npz"
    objects = [case_object(7), case_object(8)]
    save_case(path, FitCase(shared, objects, toy_fit_settings(), {"size": "toy"}))
    return path


def test_a_case_comes_back_from_its_file(shared: SharedComponents, case_file: Path) -> None:
    case = load_case(case_file)
    assert case.settings == toy_fit_settings()
    own, code = case.objects[1], (shared.mean_micro, shared.mean_coefficients)
    np.testing.assert_array_equal(own.rgba, case_object(8).rgba)
    np.testing.assert_array_equal(own.heldout, case_object(8).heldout)
    cameras = [torch.from_numpy(values) for values in (own.cam2world, own.intrinsics)]
    before, after = (some.render_rgb(*code, *cameras) for some in (shared, case.shared))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    views = own.training().rgb(torch.device("cpu"))
    torch.testing.assert_close(
        case.shared.reconstruct(views), shared.reconstruct(views), rtol=1e-4, atol=1e-5
    )


def test_the_last_objects_are_fitted_and_the_others_trained_on() -> None:
    objects = [case_object(seed) for seed in range(3)]
    size = Size(2, 1, 3, n_base=2, ae_steps=3, warmup_steps=2, joint_steps=1, objects_per_step=2)
    case = make_case(objects, size, "small", None, "cpu")
    assert case.objects == objects[2:]
    assert case.shared.base_planes.shape == (2, 3, 22, 64, 64)
    assert case.shared.f_mic == 10
    assert case.settings == preset_settings("coarse")
    assert case.settings.latent_rates.micro == load_config(read_preset("default"), {}, (), {}).fit.lr_micro


def test_the_papers_rates_epochs_and_views(shared: SharedComponents) -> None:
    fit = PaperFit(shared, [case_object(7).training()], PaperRecipe())  # two training views
    rates = {}
    for epoch in fit.run():
        rates[epoch] = fit.rates
    assert len(rates) == 30 + 50
    assert fit.views_rendered == 2 * (30 + 50)
    assert rates[1] == (1e-2, 1e-2)
    assert rates[2] == pytest.approx((0.941e-2, 0.941e-2))
    assert rates[30] == pytest.approx((1e-2 * 0.941**29,) * 2)
    assert rates[31] == (1e-3, 1e-2)
    assert rates[80] == pytest.approx((1e-3 * 0.941**49, 1e-2 * 0.941**49))


def test_every_pixel_of_every_view_is_marched_through_the_planes(
    shared: SharedComponents, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]] = []
    render = paper_fit.render_rays_twice

    def watched(*arguments: Any) -> Any:
        seen.append(arguments[3:7])  # origins, directions, depths, fine samples
        return render(*arguments)

    monkeypatch.setattr(paper_fit, "render_rays_twice", watched)
    objects = [case_object(seed, views=4).training() for seed in (7, 8)]
    for _ in PaperFit(shared, objects, PaperRecipe(latent_epochs=1, rgb_epochs=1)).run():
        pass
    assert len(seen) == 2 * 3 * 2  # epochs, views, objects: one after the other on a CPU
    radius = shared.geometry.clip_radius
    assert radius is not None
    for origins, directions, depths, n_fine in seen:
        assert depths.shape == (8 * 8, 48)
        assert n_fine == 48
        # By Pythagoras a ray at distance d from the centre has a chord of 2 sqrt(r² - d²) in the clip sphere,
        # which lies within the planes' box here. 48 samples, one in each part, spread over most of it.
        closest = (origins + (-origins * directions).sum(1, keepdim=True) * directions).norm(dim=1)
        chord = 2 * (radius**2 - closest**2).clamp(min=0).sqrt()
        spread = depths[:, -1] - depths[:, 0]
        assert (spread <= chord + 1e-5).all()
        assert (spread >= chord * 46 / 48 - 1e-5).all()
    for epoch in (seen[:6], seen[6:]):
        places = {tuple(found[0][0].tolist()) for found in epoch}
        assert places == {tuple(pose[:3, 3].tolist()) for own in objects for pose in own.cam2world}


@pytest.mark.parametrize(("sane", "planes", "coefficients"), [(False, 1.0, 1.0), (True, 0.1, 1 / 16)])
def test_initial_values(shared: SharedComponents, sane: bool, planes: float, coefficients: float) -> None:
    wide = replace(shared, base_planes=torch.zeros(256, *shared.base_planes.shape[1:]))
    fit = PaperFit(wide, [case_object(seed).training() for seed in range(8)], PaperRecipe(sane=sane), seed=3)
    assert fit.micro is not None
    micro, own = fit.micro.detach(), fit.coefficients.detach()
    assert float(micro.std()) == pytest.approx(planes, rel=0.02)
    assert float(own.std()) == pytest.approx(coefficients, rel=0.05)
    assert abs(float(micro.mean())) < 0.02 * planes


def test_only_the_codes_learn(shared: SharedComponents) -> None:
    fit = PaperFit(shared, [case_object(7).training()], PaperRecipe(latent_epochs=1, rgb_epochs=1))
    assert fit.micro is not None
    frozen = [*shared.renderer.parameters(), *shared.autoencoder.parameters(), shared.base_planes]
    for param in frozen:
        param.grad = None  # of the joint training
    values = [param.clone() for param in frozen]
    start, own = fit.micro.detach().clone(), fit.coefficients.detach().clone()
    for _ in fit.run():
        assert fit.micro.grad is not None
        assert fit.coefficients.grad is not None
    assert not torch.equal(start, fit.micro)
    assert not torch.equal(own, fit.coefficients)
    assert all(param.grad is None and not param.requires_grad for param in frozen)
    assert all(map(torch.equal, frozen, values))


def test_epsilon_is_what_tells_the_baselines_apart_in_small_gradients(shared: SharedComponents) -> None:
    """Adam's first step is rate · g / (|g| + eps): a full rate unless the gradient is below eps."""
    moved = []
    for sane in (False, True):
        fit = PaperFit(
            shared, [case_object(7).training()], PaperRecipe(sane=sane, latent_epochs=1, rgb_epochs=0)
        )
        assert fit.micro is not None
        fit._n_views = 1  # one step
        before = fit.micro.detach().clone()
        next(fit.run())
        assert fit.micro.grad is not None
        reached = fit.micro.grad.abs() > 0
        moved.append(float((fit.micro.detach() - before).abs()[reached].min()))
    assert moved[1] > 0.99e-2 > moved[0]


def test_costs_between_points_are_interpolated_in_the_logarithm() -> None:
    curve = [(1.0, 10.0), (4.0, 20.0), (16.0, 30.0)]
    assert first_reach(curve, 15.0) == pytest.approx(2.0)  # halfway from 1 to 4
    assert first_reach(curve, 30.0) == pytest.approx(16.0)
    assert first_reach(curve, 5.0) == 1.0
    assert first_reach(curve, 30.5) is None


def test_ours_is_compared_with_the_better_baseline() -> None:
    curves = {
        "published": [(10.0, 12.0), (40.0, 18.0)],
        "reference": [(10.0, 20.0), (20.0, 22.0), (40.0, 21.0)],
        "ours": [(0.25, 19.0), (1.0, 21.0), (4.0, 23.0)],
    }
    found = summary(curves)
    assert (found["better_baseline"], found["target_db"]) == ("reference", 21.0)
    assert (found["ours_reach"], found["baseline_first"]) == (1.0, round(200**0.5, 2))
    assert (found["ratio_first"], found["ratio_whole"]) == (round(200**0.5, 2), 40.0)
    assert found["best_db"] == {"published": 18.0, "reference": 22.0, "ours": 23.0}
    never = summary({**curves, "ours": [(1.0, 20.9)]})
    assert never["ours_reach"] is never["ratio_first"] is never["ratio_whole"] is None


def test_ticks_of_a_logarithmic_axis_enclose_the_points() -> None:
    assert log_ticks(0.08, 1.5) == [0.05, 0.1, 0.2, 0.5, 1.0, 2.0]
    assert log_ticks(1.0, 5.0) == [1.0, 2.0, 5.0]
    assert log_ticks(3.0, 3.0) == [2.0, 5.0]


def test_settings_are_changed_by_name() -> None:
    changed = overridden(toy_fit_settings(), ["latent_steps=9", "lambda_free=0.5"])
    assert (changed.latent_steps, changed.lambda_free) == (9, 0.5)
    with pytest.raises(ValueError, match="no number 'latent_step'"):
        overridden(toy_fit_settings(), ["latent_step=9"])


def test_all_recipes_run_with_torch_and_numpy_alone(case_file: Path, tmp_path: Path) -> None:
    hook = f"""
import importlib.abc, runpy, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {FORBIDDEN}:
            raise ImportError(name + " is not on this machine")
sys.meta_path.insert(0, Absent())
sys.argv = ["bench_fit", *sys.argv[1:]]
runpy.run_module("tests.benchmarks.bench_fit", run_name="__main__")
"""
    command = [sys.executable, "-c", hook, "--fixture", str(case_file), "--out", str(tmp_path)]
    command += ["--jobs", "1", "--budgets", "0", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "no plot without Pillow" in done.stderr
    result = json.loads(done.stdout)
    assert result == json.loads((tmp_path / "fit.json").read_text())
    assert set(result["curves"]) == {"published", "reference", "ours"}
    for curve in result["curves"].values():
        costs = [cost for cost, _ in curve]
        assert costs == sorted(costs)
        assert costs[0] > 0
        assert all(np.isfinite(psnr_db) for _, psnr_db in curve)
    assert len(result["curves"]["ours"]) == 2
    assert result["sizes"]["train_views"] == 2
    draw(result, tmp_path / "fit.png")
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")
