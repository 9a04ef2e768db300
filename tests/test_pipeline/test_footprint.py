from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from pipeline.config import load_config, preset_names, read_preset
from pipeline.forecast_memory import worker_memory
from pipeline.model.autoencoder import new_autoencoder
from pipeline.model.identity import IdentityAutoencoder
from pipeline.train.footprint import (
    OVERHEAD_SHARE,
    RenderingCost,
    WorkerLoad,
    architecture,
    rendering_cost,
    training_footprint,
)
from pipeline.train.joint import JointTrainer
from pipeline.train.live_bytes import LiveBytes
from tests.test_pipeline.toy import GEOMETRY, toy_object, toy_settings


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_live_bytes_counts_what_is_alive(device: str) -> None:
    kept = torch.ones(10, device=device)  # made before: not counted
    with LiveBytes() as live:
        a = torch.zeros(1000, device=device)
        assert live.now == 4000
        view = a[10:]
        a.add_(1.0)
        assert live.now == 4000, "views and changes in place take nothing"
        b = a * 2
        del b
        assert live.now == 4000
        del a
        assert live.now == 4000, "the view holds it"
        del view
        kept.add_(1)
        assert (live.now, live.peak) == (0, 8000)


def test_live_bytes_tells_the_graph_from_the_backward() -> None:
    weight = torch.ones(100, 50, requires_grad=True)
    x = torch.ones(200, 100)
    with LiveBytes() as live:
        loss = torch.exp(x @ weight).sum()  # exp keeps its result: 200 × 50
        kept = live.now
        loss.backward()
    assert kept == 200 * 50 * 4 + 4
    assert live.at_backward - kept <= 8  # the gradient of the loss itself
    assert live.peak_backward >= kept + 100 * 50 * 4
    assert weight.grad is not None


def test_the_cost_of_rendering_is_linear() -> None:
    settings, like = toy_settings(), architecture("tiny", 4, 4)
    cost = rendering_cost(settings, like)
    trainer = JointTrainer(
        [toy_object(seed).training() for seed in range(4)],
        new_autoencoder("tiny", factor=4, latent_channels=4),
        replace(
            settings,
            autoencoder=replace(settings.autoencoder, steps=0),
            warmup_objects=4,
            warmup_pixels=3000,
        ),
        seed=0,
    )
    trainer.at_once = True
    trainer.step()
    with LiveBytes() as live:
        trainer.step()
    assert RenderingCost.evaluate(cost.kept, 4, 3000) == pytest.approx(live.at_backward, rel=0.02)
    assert RenderingCost.evaluate(cost.backward, 4, 3000) == pytest.approx(live.peak_backward, rel=0.05)


def test_what_is_kept_is_counted() -> None:
    settings = replace(
        toy_settings(), autoencoder=replace(toy_settings().autoencoder, steps=0), joint_steps=0
    )
    ae = architecture("tiny", 4, 4)
    load = WorkerLoad(objects=3, views=5, size_px=(32, 32), ray_share=0.5)
    found = training_footprint(settings, ae, load)
    assert found.views == 3 * 5 * 32 * 32 * 4
    assert found.latents == 3 * 5 * 8 * 8 * 4 * 4
    assert found.rays == 3 * 5 * 32 * 28 + 3 * 64**3
    # Codes with two moments, base planes with two; the autoencoder is frozen.
    codes, planes = 3 * (3 * 4 * 16 * 16 + 2), 2 * 3 * 4 * 16 * 16
    assert found.state == 4 * (3 * codes + 3 * planes + sum(p.numel() for p in ae.parameters()))
    assert found.files == 0
    small = training_footprint(settings, ae, replace(load, budget_bytes=found.views))
    assert small.files == found.rays + found.latents
    assert small.total == found.total - small.files - (found.overhead - small.overhead)
    # On the disk rays have room for all latent pixels: 28 bytes each.
    assert small.disk == small.files + 3 * 5 * 64 * 28 // 2
    assert found.overhead == int(OVERHEAD_SHARE * (found.rays + found.latents + found.state + found.step))


@pytest.mark.parametrize("supersample", [1, 3])
def test_rays_and_steps_grow_with_supersampling(supersample: int) -> None:
    settings = replace(  # all views of all objects in a step, so that it renders all that the bank holds
        toy_settings(),
        geometry=replace(GEOMETRY, supersample=supersample),
        autoencoder=replace(toy_settings().autoencoder, steps=0),
        warmup_steps=0,
        joint_objects=3,
        joint_views=5,
    )
    ae = new_autoencoder("tiny", factor=4, latent_channels=4)
    ae.is_new, ae.is_normalised = False, True
    trainer = JointTrainer([toy_object(seed).training() for seed in range(3)], ae, settings, seed=0)
    trainer.step()  # makes what stays
    with LiveBytes() as live:
        trainer.step()
    bank = trainer._ray_bank()
    load = WorkerLoad(3, 5, (32, 32), ray_share=len(bank.near) / (3 * 5 * 64))
    found = training_footprint(settings, architecture("tiny", 4, 4), load)
    arrays = (bank.directions, bank.near, bank.far, bank.pixel, bank.view, bank.occupancy)
    assert found.rays == sum(array.nbytes for array in arrays)
    assert found.step == pytest.approx(live.peak, rel=0.1)


def test_gradient_checkpointing_takes_less_memory_for_the_same_gradients() -> None:
    rgb = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    gradients, kept = [], []
    for on in (False, True):
        model = new_autoencoder("tiny", factor=4)
        if on:
            model.enable_gradient_checkpointing()
        with LiveBytes() as live:
            loss = (model.decode(model.encode(rgb)) - rgb).square().mean()
            kept.append(live.now)
            loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert kept[1] < 0.6 * kept[0]
    for plain, again in zip(*gradients, strict=True):
        assert plain is not None
        assert torch.equal(plain, again)


def test_more_ranks_and_checkpointing_take_less_per_worker() -> None:
    base = load_config(read_preset("demo"), settings=["train.joint.crop_px=0"])
    found = []
    for compute in ({}, {"train_workers": 2}, {"gradient_checkpointing": True}, {"train_memory_bytes": 0}):
        config = base.model_copy(update={"compute": base.compute.model_copy(update=compute)})
        memory = worker_memory(config, 40)
        assert memory is not None
        found.append(memory["train"])
    one, two, again, files = found
    assert two["views"] == one["views"] / 2
    assert two["step"] < 0.7 * one["step"]
    assert again["step"] < 0.7 * one["step"]
    assert files["files"] == one["views"] + one["rays"] + one["latents"]


SLOW_PRESETS = ("paper-code",)  # of the shapes of "paper"


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW_PRESETS else name for name in preset_names()],
)
def test_every_preset_has_a_forecast(name: str) -> None:
    memory = worker_memory(load_config(read_preset(name)), 40)
    assert memory is not None
    for worker in memory.values():
        assert all(part > 0 for what, part in worker.items() if what not in ("files", "disk")), worker


def test_without_a_hull_every_latent_pixel_has_a_ray() -> None:
    found = []
    for dilate in (1, 32):  # views of 64 × 64 latent pixels, then of 32 × 32
        factor = 2 if dilate == 1 else 4
        settings = [f"train.dilate={dilate}", f"fit.dilate={dilate}", f"train.autoencoder.factor={factor}"]
        memory = worker_memory(load_config(read_preset("demo"), settings=settings), 40)
        assert memory is not None
        found.append((memory["train"]["rays"] - 20 * 64**3) / (20 * 36 * (128 // factor) ** 2 * 28))
    assert found == pytest.approx([0.3, 1.0], rel=1e-3)


def test_rgb_is_predicted_without_an_autoencoder() -> None:
    settings = replace(  # all views of all objects in a step, so that it renders all that the bank holds
        toy_settings(),
        autoencoder=replace(toy_settings().autoencoder, steps=0),
        warmup_steps=0,
        joint_objects=3,
        joint_views=5,
    )
    trainer = JointTrainer(
        [toy_object(seed).training() for seed in range(3)], IdentityAutoencoder(), settings, seed=0
    )
    trainer.step()  # makes what stays
    with LiveBytes() as live:
        trainer.step()
    share = len(trainer._ray_bank().near) / (3 * 5 * 32 * 32)
    load = WorkerLoad(objects=3, views=5, size_px=(32, 32), ray_share=share)
    found = training_footprint(settings, IdentityAutoencoder(), load)
    assert found.latents == 3 * 5 * 32 * 32 * 3 * 4
    assert found.step == pytest.approx(live.peak, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["demo", "demo-files"])
def test_the_prediction_is_within_a_fifth_of_what_is_measured(case: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench_train_memory", case],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert abs(found["growth_error"]) < 0.2, found
    assert abs(found["total_error"]) < 0.2, found  # what fpipe plan prints
