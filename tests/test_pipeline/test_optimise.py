from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.fit.optimise import fit_objects
from pipeline.fit.settings import FittedCode
from pipeline.model.shared import SharedComponents
from pipeline.train.joint import JointTrainer
from pipeline.train.training_views import over_white
from tests.test_pipeline.toy import (
    ToyObject,
    psnr,
    toy_autoencoder,
    toy_fit_settings,
    toy_object,
    toy_settings,
    toy_trainer,
    trained_shared,
)


@pytest.fixture(scope="module")
def shared() -> SharedComponents:
    return trained_shared(toy_trainer())


def _distance(a: FittedCode, b: FittedCode) -> float:
    assert a.micro is not None
    assert b.micro is not None
    return max(float(np.abs(a.micro - b.micro).max()), float(np.abs(a.coefficients - b.coefficients).max()))


def test_a_fit_is_repeatable_bit_by_bit(shared: SharedComponents) -> None:
    objects = [toy_object(7).training(), toy_object(8).training()]
    first, second = (fit_objects(shared, objects, toy_fit_settings()) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert _distance(a, b) == 0
        assert a.curve == b.curve


def test_a_fit_does_not_depend_on_its_company(shared: SharedComponents) -> None:
    objects = [toy_object(seed).training() for seed in (7, 8, 9)]
    together = fit_objects(shared, objects, toy_fit_settings())
    reversed_order = fit_objects(shared, objects[::-1], toy_fit_settings())[::-1]
    alone = [fit_objects(shared, [views], toy_fit_settings())[0] for views in objects]
    moved = _distance(together[0], together[1])
    for a, b, c in zip(together, reversed_order, alone, strict=True):
        assert _distance(a, b) < 1e-4
        assert _distance(a, c) < 1e-4
    assert moved > 1e-2  # the objects do differ


def test_windows_do_not_couple_objects_either(shared: SharedComponents) -> None:
    objects = [toy_object(seed).training() for seed in (7, 8)]
    settings = toy_fit_settings(crop_px=16)
    together = fit_objects(shared, objects, settings)
    assert _distance(together[1], fit_objects(shared, objects[1:], settings)[0]) < 1e-4


def test_heldout_views_do_not_matter(shared: SharedComponents) -> None:
    clean, noisy = toy_object(7), toy_object(7)
    noise = np.random.default_rng(0).integers(0, 256, noisy.images[noisy.heldout].shape)
    noisy.images[noisy.heldout] = noise
    noisy.cam2world[noisy.heldout] = np.eye(4)
    first, second = (fit_objects(shared, [toy.training()], toy_fit_settings())[0] for toy in (clean, noisy))
    assert _distance(first, second) == 0


def test_the_seed_and_the_id_decide(shared: SharedComponents) -> None:
    views = toy_object(7).training()
    fit = fit_objects(shared, [views], toy_fit_settings(), seed=0)[0]
    assert _distance(fit, fit_objects(shared, [views], toy_fit_settings(), seed=1)[0]) > 0
    renamed = replace(views, object_id="another")
    assert _distance(fit, fit_objects(shared, [renamed], toy_fit_settings(), seed=0)[0]) > 0


def test_a_fit_starts_from_the_mean_object_or_a_given_code(shared: SharedComponents) -> None:
    objects = [toy_object(7).training(), toy_object(8).training()]
    assert shared.mean_micro is not None
    micro = np.ones_like(shared.mean_micro.numpy())
    coefficients = np.full(2, 3.0, np.float32)
    settings = toy_fit_settings(latent_steps=0, rgb_steps=0)
    given, mean = fit_objects(shared, objects, settings, init=[(micro, coefficients), None])
    assert given.micro is not None
    assert (given.micro == 1).all()
    assert (given.coefficients == 3).all()
    np.testing.assert_array_equal(mean.coefficients, shared.mean_coefficients.numpy())
    np.testing.assert_array_equal(mean.micro, shared.mean_micro.numpy())


def test_one_object_that_diverges_leaves_the_others_alone(shared: SharedComponents) -> None:
    objects = [toy_object(7).training(), toy_object(8).training()]
    assert shared.mean_micro is not None
    broken = np.full_like(shared.mean_micro.numpy(), np.nan)
    coefficients = shared.mean_coefficients.numpy()
    bad, good = fit_objects(shared, objects, toy_fit_settings(), init=[(broken, coefficients), None])
    assert bad.failure is not None
    assert good.failure is None
    assert _distance(good, fit_objects(shared, objects[1:], toy_fit_settings())[0]) < 1e-4


def test_shared_components_stay_frozen(shared: SharedComponents) -> None:
    before = {name: value.clone() for name, value in shared.renderer.state_dict().items()}
    base = shared.base_planes.clone()
    fit_objects(shared, [toy_object(7).training()], toy_fit_settings())
    assert torch.equal(base, shared.base_planes)
    assert all(torch.equal(value, before[name]) for name, value in shared.renderer.state_dict().items())


def _heldout_psnr(shared: SharedComponents, toy: ToyObject, fit: FittedCode) -> tuple[float, float]:
    """PSNR of the fit on held-out views, and of white."""
    truth = over_white(torch.from_numpy(toy.images[toy.heldout]))
    cameras, matrices = (torch.from_numpy(x[toy.heldout]) for x in (toy.cam2world, toy.intrinsics))
    micro = None if fit.micro is None else torch.from_numpy(fit.micro)
    rendered = shared.render_rgb(micro, torch.from_numpy(fit.coefficients), cameras, matrices)
    return psnr(rendered, truth), psnr(torch.ones_like(truth), truth)


def test_one_object_overfits_and_its_heldout_view_is_right() -> None:
    trained = replace(toy_settings(), warmup_steps=120, warmup_pixels=128, joint_steps=10)
    objects = [toy_object(seed).training() for seed in range(3)]
    shared = trained_shared(JointTrainer(objects, toy_autoencoder(), trained, seed=0))
    toy = toy_object(11, views=14, heldout=2)
    settings = toy_fit_settings(latent_steps=120, latent_pixels=256, rgb_steps=20, n_samples=16)
    fit = fit_objects(shared, [toy.training()], settings)[0]
    found, white = _heldout_psnr(shared, toy, fit)
    assert fit.curve[0][1] > 2 * fit.curve[settings.latent_steps // settings.curve_every - 1][1]
    assert found > white + 5
