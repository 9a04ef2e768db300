from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.fit.optimise import fit_objects, fit_stream
from pipeline.fit.pace import Stopping
from pipeline.fit.settings import FittedCode
from pipeline.model.shared import SharedComponents
from pipeline.train.joint import JointTrainer
from pipeline.train.ray_bank import build_ray_bank
from pipeline.train.training_views import TrainingViews, over_white
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


@pytest.fixture(scope="module")
def trained() -> SharedComponents:
    """Components that have learned something, so that fits converge."""
    settings = replace(toy_settings(), warmup_steps=120, warmup_pixels=128, joint_steps=10)
    objects = [toy_object(seed).training() for seed in range(3)]
    return trained_shared(JointTrainer(objects, toy_autoencoder(), settings, seed=0))


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


def test_one_object_overfits_and_its_heldout_view_is_right(trained: SharedComponents) -> None:
    toy = toy_object(11, views=14, heldout=2)
    settings = toy_fit_settings(latent_steps=120, latent_pixels=256, rgb_steps=20, n_samples=16)
    fit = fit_objects(trained, [toy.training()], settings)[0]
    found, white = _heldout_psnr(trained, toy, fit)
    assert fit.curve[0][1] > 2 * fit.curve[settings.latent_steps // settings.curve_every - 1][1]
    assert found > white + 5


def _stream(shared: SharedComponents, seeds: Sequence[int], batch: int, **values: object) -> list[FittedCode]:
    starts = ((toy_object(seed).training(), None) for seed in seeds)
    return list(fit_stream(shared, starts, toy_fit_settings(**values), 0, batch))


def test_a_slot_is_refilled_and_nothing_of_its_last_object_remains(shared: SharedComponents) -> None:
    few = _stream(shared, (7, 8, 9, 10), batch=2)
    assert sorted(fit.object_id for fit in few) == ["toy-10", "toy-7", "toy-8", "toy-9"]
    for fit in few:
        alone = fit_objects(shared, [toy_object(int(fit.object_id[4:])).training()], toy_fit_settings())[0]
        assert _distance(fit, alone) < 1e-4
        assert [step for step, _ in fit.curve] == [step for step, _ in alone.curve] == [4, 6]
        assert fit.steps == (4, 2)


def test_objects_are_taken_when_there_is_room_for_them(shared: SharedComponents) -> None:
    taken: list[int] = []

    def source() -> Iterator[tuple[TrainingViews, None]]:
        for seed in (7, 8, 9, 10, 11):
            taken.append(seed)
            yield toy_object(seed).training(), None

    results = fit_stream(shared, source(), toy_fit_settings(), 0, 2)
    next(results)
    assert taken == [7, 8]
    next(results)
    next(results)
    assert taken == [7, 8, 9, 10]


def test_an_object_that_gains_nothing_ends_early_and_the_others_go_on(
    trained: SharedComponents,
) -> None:
    """The batch is packed again: an object that ends makes room, the next ones are as if alone."""
    rule = {"curve_every": 5, "latent_steps": 60, "stopping": Stopping(gain=0.1, lowered=1)}
    fits = _stream(trained, (7, 8, 9, 10), batch=2, **rule)
    taken = {fit.object_id: fit.steps for fit in fits}
    assert all(10 <= latent < 60 and latent % 5 == 0 for latent, _ in taken.values()), taken
    assert len(set(taken.values())) > 1, "the objects should not all end at once"
    for fit in fits:
        alone = _stream(trained, (int(fit.object_id[4:]),), batch=1, **rule)[0]
        assert alone.steps == fit.steps
        assert _distance(fit, alone) < 1e-4
        assert [step for step, _ in fit.curve] == [*range(5, fit.steps[0] + 1, 5), sum(fit.steps)]


def test_an_object_without_rays_is_refused_and_the_others_are_fitted(shared: SharedComponents) -> None:
    empty = replace(toy_object(8).training(), rgba=np.zeros_like(toy_object(8).training().rgba))
    objects = [toy_object(7).training(), empty, toy_object(9).training()]
    first, bad, last = fit_objects(shared, objects, toy_fit_settings())
    assert bad.failure_kind == "empty_hull"
    assert bad.failure is not None
    assert "toy-8" in bad.failure
    for fit, seed in ((first, 7), (last, 9)):
        assert fit.failure is None
        assert (
            _distance(fit, fit_objects(shared, [toy_object(seed).training()], toy_fit_settings())[0]) < 1e-4
        )


def test_views_without_alpha_are_fitted_along_whole_rays(trained: SharedComponents) -> None:
    toy = toy_object(11, views=14, heldout=2)
    blind = replace(toy.training(), has_alpha=False)
    settings = toy_fit_settings(latent_steps=120, latent_pixels=256, rgb_steps=20, n_samples=16)
    fit = fit_objects(trained, [blind], settings)[0]
    found, white = _heldout_psnr(trained, toy, fit)
    assert fit.failure is None
    assert found > white + 5


def test_costs_are_those_of_each_object(shared: SharedComponents) -> None:
    began = time.process_time()
    fits = _stream(shared, (7, 8, 9), batch=2)
    spent = time.process_time() - began
    assert all(0 < fit.cpu_seconds < spent for fit in fits)
    assert 0.5 * spent < sum(fit.cpu_seconds for fit in fits) <= spent


def test_views_that_no_ray_of_the_object_meets_cost_nothing(shared: SharedComponents) -> None:
    """Imported views may look past the object; an RGB step of nothing but such views has no ray at all."""
    seen = toy_object(7).training()
    past = seen.cam2world.copy()
    past[1:, :3, 2] *= -1.0  # all but the first view look away
    past[1:, :3, 0] *= -1.0
    alphas = seen.rgba.copy()
    alphas[1:] = 0
    views = replace(seen, cam2world=past, rgba=alphas)
    bank = build_ray_bank([views], 4, shared.geometry, 1, torch.device("cpu"))
    assert (bank.view_start[0].diff() > 0).tolist() == [True] + [False] * (len(alphas) - 1)
    settings = toy_fit_settings(rgb_steps=6, rgb_views=1)
    fit = fit_objects(shared, [views], settings)[0]
    assert fit.failure is None, fit.failure
    other = toy_object(8).training()
    assert _distance(fit, fit_objects(shared, [views, other], settings)[0]) < 1e-4


@pytest.mark.parametrize("n_fine", [0, 8])
def test_values_that_are_no_numbers_stay_with_their_object(shared: SharedComponents, n_fine: int) -> None:
    objects = [toy_object(7).training(), toy_object(8).training()]
    assert shared.mean_micro is not None
    broken = np.full_like(shared.mean_micro.numpy(), np.nan)
    settings = toy_fit_settings(n_fine=n_fine)
    bad, good = fit_objects(
        shared, objects, settings, init=[(broken, shared.mean_coefficients.numpy()), None]
    )
    assert bad.failure is not None
    assert good.failure is None
    assert _distance(good, fit_objects(shared, objects[1:], settings)[0]) < 1e-4


def test_whatever_it_runs_with_a_fit_has_the_same_quality() -> None:
    """Planes of the paper's side and a hundred steps: rounding grows, and must not show."""
    settings = replace(toy_settings(), resolution=64, warmup_steps=80, warmup_pixels=128, joint_steps=10)
    learned = [toy_object(seed).training() for seed in range(3)]
    shared = trained_shared(JointTrainer(learned, toy_autoencoder(), settings, seed=0))
    toys = [toy_object(seed, views=8, heldout=2) for seed in (7, 8, 9)]
    rule = toy_fit_settings(
        latent_steps=100, latent_pixels=128, rgb_steps=10, levels=2, stopping=Stopping(0.06, 0.3, 1)
    )

    def fitted(order: Sequence[int], batch: int, threads: int) -> list[FittedCode]:
        torch.set_num_threads(threads)
        try:
            starts = ((toys[i].training(), None) for i in order)
            return sorted(fit_stream(shared, starts, rule, 0, batch), key=lambda fit: fit.object_id)
        finally:
            torch.set_num_threads(1)

    usual = fitted((0, 1, 2), batch=3, threads=1)
    elsewhere = [fitted((2, 0, 1), batch=2, threads=2)]
    # Another machine rounds otherwise in every operation; this moves every product by as much.
    noise = torch.randn(shared.base_planes.shape, generator=torch.Generator().manual_seed(0))
    shared.base_planes.mul_(1 + 1e-6 * noise)
    elsewhere.append(fitted((0, 1, 2), batch=3, threads=1))
    assert all(_distance(a, b) > 0 for a, b in zip(usual, elsewhere[1], strict=True))
    for fits in elsewhere:
        for toy, a, b in zip(toys, usual, fits, strict=True):
            assert abs(_heldout_psnr(shared, toy, a)[0] - _heldout_psnr(shared, toy, b)[0]) < 0.05
