from __future__ import annotations

import copy
import gc
import io
import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.model.identity import IdentityAutoencoder
from pipeline.model.planes import fuse
from pipeline.model.renderer import render_views
from pipeline.train.joint import JointTrainer
from pipeline.train.losses import total_variation
from pipeline.train.object_codes import Leaves
from pipeline.train.schedule import Rates
from tests.test_pipeline.toy import (
    GEOMETRY,
    psnr,
    toy_autoencoder,
    toy_object,
    toy_settings,
    toy_trainer,
)


def _run(trainer: JointTrainer, steps: int) -> None:
    for _ in range(steps):
        trainer.step()


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, entry in value.items():
            found |= _leaves(entry, f"{path}/{key}")
        return found
    return {path: value}


def _same(a: dict[str, Any], b: dict[str, Any]) -> None:
    left, right = _leaves(a), _leaves(b)
    assert left.keys() == right.keys()
    for key, value in left.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, right[key]), key
        elif key != "/curve":
            assert value == right[key], key


def test_phases_follow_one_counter() -> None:
    trainer = toy_trainer()
    phases = []
    while trainer.phase != "done":
        phases.append(trainer.step().phase)
    assert phases == ["autoencoder"] * 3 + ["warmup"] * 4 + ["joint"] * 3
    assert [point.step for point in trainer.curve] == list(range(1, 11))
    assert trainer.curve[-1].losses.keys() == {"latent", "rgb", "ae", "free"}
    with pytest.raises(ValueError, match="done after 10 steps"):
        trainer.step()


@pytest.mark.parametrize("stop", [2, 3, 5, 7, 9])  # within each phase, and at both borders
def test_a_continued_run_has_the_same_bits(stop: int) -> None:
    whole = toy_trainer()
    _run(whole, 10)
    first = toy_trainer()
    _run(first, stop)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = toy_trainer()
    second.load_state_dict(torch.load(buffer, weights_only=True))
    _run(second, 10 - stop)
    _same(second.state_dict(), whole.state_dict())
    losses = [[point.losses for point in trainer.curve] for trainer in (second, whole)]
    assert losses[0] == losses[1]


def test_what_a_phase_leaves_behind_is_freed() -> None:
    trainer = toy_trainer()
    _run(trainer, 2)
    within = trainer.state_dict()
    assert within["autoencoder_trainer"]["optimiser"]["state"]
    own = weakref.ref(trainer._autoencoder_trainer)
    _run(trainer, 1)
    assert trainer.state_dict()["autoencoder_trainer"] is None, "a checkpoint at the border has no use for it"
    _run(trainer, 1)
    del within
    gc.collect()
    assert own() is None
    assert all(param.grad is None for param in trainer.autoencoder.parameters())
    latents = weakref.ref(trainer._latent_cache().latents)
    _run(trainer, 4)
    assert trainer.phase == "joint"
    gc.collect()
    assert latents() is None


def test_a_checkpoint_that_still_has_the_autoencoders_training_is_continued() -> None:
    """As older versions wrote it in every phase."""
    whole = toy_trainer()
    _run(whole, 2)
    old = copy.deepcopy(whole.state_dict()["autoencoder_trainer"])
    _run(whole, 3)
    state = copy.deepcopy(whole.state_dict()) | {"autoencoder_trainer": old}
    _run(whole, 5)
    again = toy_trainer()
    again.load_state_dict(state)
    _run(again, 5)
    _same(again.state_dict(), whole.state_dict())


def test_a_checkpoint_of_other_objects_is_refused() -> None:
    with pytest.raises(ValueError, match="other objects"):
        toy_trainer(2).load_state_dict(toy_trainer(3).state_dict())


def test_each_phase_trains_what_it_should() -> None:
    trainer = toy_trainer()
    _run(trainer, 3)
    before = copy.deepcopy(trainer.state_dict())
    _run(trainer, 4)
    warm = copy.deepcopy(trainer.state_dict())
    _same(warm["autoencoder"], before["autoencoder"])  # frozen in the warm-up
    for key in ("base_planes", "renderer", "coefficients", "micro"):
        with pytest.raises(AssertionError):
            _same({key: warm[key]}, {key: before[key]})
    _run(trainer, 3)
    after = trainer.state_dict()
    for part in ("vae.encoder.conv_in.weight", "vae.decoder.conv_out.weight"):
        assert not torch.equal(after["autoencoder"][part], warm["autoencoder"][part])
    assert torch.equal(after["autoencoder"]["latent_scale"], warm["autoencoder"]["latent_scale"])


def test_heldout_views_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    states = []
    for noise in (False, True):
        objects = []
        for seed in range(2):
            toy = toy_object(seed)
            if noise:
                toy.images[toy.heldout] = rng.integers(0, 256, toy.images[toy.heldout].shape)
            objects.append(toy.training())
        trainer = JointTrainer(objects, toy_autoencoder(), toy_settings(), seed=0)
        _run(trainer, 10)
        states.append(trainer.state_dict())
    _same(*states)


@pytest.mark.parametrize("steps", [1, 4, 8])
@pytest.mark.parametrize("where", ["shared", "code"])
def test_a_gradient_that_is_not_finite_stops_in_its_own_step(steps: int, where: str) -> None:
    trainer = toy_trainer()
    _run(trainer, steps)
    phase = trainer.phase
    if phase == "autoencoder":
        next(trainer.autoencoder.decoder_params()).register_hook(lambda grad: grad * math.nan)
    elif where == "shared":
        trainer.base_planes.register_hook(lambda grad: grad.index_fill(-1, torch.tensor([3]), math.inf))
    else:
        leaves_of = trainer._codes.leaves

        def broken(rows: Sequence[int]) -> Leaves:
            micro, coefficients = leaves_of(rows)
            coefficients.register_hook(lambda grad: grad * math.nan)
            return micro, coefficients

        trainer._codes.leaves = broken  # type: ignore[method-assign]
    before = _leaves(copy.deepcopy(trainer.state_dict()))
    place = "the autoencoder" if phase == "autoencoder" else rf"step {steps} \({phase}\)"
    said = rf"gradient of {place} is not finite .*at learning rate.* 0\.0\d+"
    with pytest.raises(FloatingPointError, match=said):
        trainer.step()
    after = _leaves(trainer.state_dict())
    rates = [name for name in after if name.endswith("param_groups")]  # those of the step that failed
    _same(*({name: value for name, value in one.items() if name not in rates} for one in (after, before)))


def test_a_loss_that_is_not_finite_stops_with_the_step() -> None:
    trainer = toy_trainer()
    _run(trainer, 4)
    with torch.no_grad():
        trainer.base_planes[0, 0, 0, 8, 8] = math.nan
    rate = 0.01 * 0.1 ** (1 / 4)  # after one of four warm-up steps, exponential decay to a tenth
    said = (
        rf"loss of step 4 \(warmup\) is nan at learning rates micro {rate:.3g}, coefficients {rate:.3g}, base"
    )
    with pytest.raises(FloatingPointError, match=said):
        _run(trainer, 2)
    assert trainer.step_count == 4


@pytest.mark.parametrize(("f_mic", "n_base"), [(0, 2), (4, 1), (4, 0)])
@pytest.mark.parametrize("rgb", [False, True])
def test_variants_are_settings(f_mic: int, n_base: int, rgb: bool) -> None:
    f_mac = 4 if n_base else 0
    settings = replace(toy_settings(), f_mic=f_mic, f_mac=f_mac, n_base=n_base, crop_px=16, ae_every=2)
    if rgb:
        settings = replace(settings, autoencoder=replace(settings.autoencoder, steps=0))

    def new_trainer() -> JointTrainer:
        objects = [toy_object(seed).training() for seed in range(2)]
        return JointTrainer(objects, IdentityAutoencoder() if rgb else toy_autoencoder(), settings, seed=0)

    trainer, other = new_trainer(), new_trainer()
    _run(trainer, trainer.total_steps - 2)
    other.load_state_dict(copy.deepcopy(trainer.state_dict()))
    for one in (trainer, other):
        _run(one, 2)
    _same(trainer.state_dict(), other.state_dict())
    assert (trainer.curve[-1].losses["ae"] == 0) == rgb
    codes = trainer.codes()
    assert (codes.micro is None) == (f_mic == 0)
    assert codes.coefficients.shape == (2, n_base)
    shared = trainer.shared_components()
    micro = None if codes.micro is None else torch.from_numpy(codes.micro)
    planes = fuse(micro, torch.from_numpy(codes.coefficients), shared.base_planes)
    assert planes.shape == (2, 3, f_mic + f_mac, 16, 16)


def test_total_variation_makes_planes_smoother() -> None:
    roughness = []
    for weight in (0.0, 10.0):
        settings = replace(toy_settings(), tv_warmup=weight, tv_joint=weight)
        trainer = JointTrainer([toy_object(0).training()], toy_autoencoder(), settings, seed=0)
        _run(trainer, 10)
        assert ("tv" in trainer.curve[-1].losses) == ("tv" in trainer.curve[4].losses) == (weight > 0)
        roughness.append(float(total_variation(trainer.base_planes.detach())))
    assert roughness[1] < 0.9 * roughness[0]


def test_each_group_has_the_rate_of_its_phase() -> None:
    """Adam's first step moves every value by the rate, whatever the gradient (its moments start at zero)."""
    settings = replace(
        toy_settings(),
        warmup_steps=1,
        joint_steps=1,
        joint_objects=1,
        warmup_objects=1,
        warmup_rates=Rates(1e-3, 2e-3, 4e-3, 8e-3),
        joint_rates=Rates(1e-3, 2e-3, 4e-3, 8e-3, 5e-4),
    )
    trainer = JointTrainer([toy_object(0).training()], toy_autoencoder(), settings, seed=0)
    _run(trainer, 3)
    moved: list[dict[str, float]] = []
    for _ in ("warmup", "joint"):
        before = _leaves(copy.deepcopy(trainer.state_dict()))
        trainer.step()
        after = _leaves(trainer.state_dict())
        names = ("/micro/values", "/coefficients/values", "/base_planes", "/renderer/hidden.weight")
        moved.append({name: float((after[name] - before[name]).abs().max()) for name in names})
        encoder = "/autoencoder/vae.encoder.conv_in.weight"
        moved[-1][encoder] = float((after[encoder] - before[encoder]).abs().max())
    assert list(moved[0].values()) == pytest.approx([1e-3, 2e-3, 4e-3, 8e-3, 0.0], rel=1e-3, abs=1e-9)
    assert moved[1][encoder] == pytest.approx(5e-4, rel=1e-2)


def test_training_lowers_the_losses() -> None:
    settings = replace(
        toy_settings(),
        autoencoder=replace(toy_settings().autoencoder, steps=2),
        warmup_steps=60,
        joint_steps=15,
    )
    trainer = JointTrainer([toy_object(s).training() for s in range(2)], toy_autoencoder(), settings, seed=0)
    _run(trainer, settings.autoencoder.steps + 75)
    warm = [point.losses["latent"] for point in trainer.curve if point.phase == "warmup"]
    joint = [point.losses["rgb"] for point in trainer.curve if point.phase == "joint"]
    assert np.mean(warm[-5:]) < 0.6 * np.mean(warm[:5])
    assert np.mean(joint[-4:]) < np.mean(joint[:4])


@pytest.mark.parametrize("extra", [{}, {"n_base": 0, "f_mac": 0}, {"n_fine": 4}, {"lambda_free": 0.0}])
def test_a_warmup_step_object_by_object_is_that_of_one_graph(extra: dict[str, Any]) -> None:
    recipe = replace(toy_settings().autoencoder, steps=0)
    settings = replace(toy_settings(), autoencoder=recipe, warmup_objects=3, tv_warmup=10.0, **extra)
    found = []
    for at_once in (False, True):
        objects = [toy_object(seed).training() for seed in range(3)]
        trainer = JointTrainer(objects, toy_autoencoder(), settings, seed=0)
        trainer._ranks.fraction = lambda wanted: 0.25  # type: ignore[method-assign]  # as one of four ranks
        trainer.at_once = at_once
        losses = trainer.step().losses
        shared = [trainer.base_planes, *trainer.renderer.parameters()]
        grads = [param.grad for param in shared if param.grad is not None]
        assert len(grads) == (5 if settings.n_base else 4)
        found.append((losses, grads, trainer.codes().micro))
    (losses, grads, micro), (whole, expected, expected_micro) = found
    assert losses == pytest.approx(whole, rel=1e-5)
    assert ("free" in losses) == bool(settings.lambda_free)
    for ours, theirs in zip(grads, expected, strict=True):
        # Relative to the largest: single elements may be nothing but rounding.
        assert float((ours - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())
    np.testing.assert_allclose(micro, expected_micro, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_fine", [0, 8])
def test_one_object_overfits(n_fine: int) -> None:
    settings = replace(
        toy_settings(),
        autoencoder=replace(toy_settings().autoencoder, steps=0),
        n_fine=n_fine,
        warmup_steps=300,
        warmup_pixels=128,
        joint_steps=0,
    )
    views = toy_object(0).training()
    trainer = JointTrainer([views], toy_autoencoder(), settings, seed=0)

    def latents_db() -> float:
        """PSNR of the rendered latents of all training views, without jitter."""
        shared, codes = trainer.shared_components(), trainer.codes()
        assert codes.micro is not None
        code = torch.from_numpy(codes.micro), torch.from_numpy(codes.coefficients)
        cameras = torch.from_numpy(views.cam2world), torch.from_numpy(views.intrinsics)
        geometry = replace(GEOMETRY, n_fine=n_fine)
        planes = fuse(*code, shared.base_planes)[0]
        drawn = render_views(
            shared.renderer, planes, *cameras, shared.size_px, 4, geometry, shared.background_latent
        )
        with torch.no_grad():
            return psnr(drawn, shared.autoencoder.encode(views.rgb(torch.device("cpu"))))

    before = latents_db()
    _run(trainer, 300)
    assert latents_db() > max(before + 8, 30), (before, latents_db())
