"""Presets against the numbers of METHOD sections 2 and 4 (the paper's tables 22 and 23)."""

from __future__ import annotations

import pytest

from pipeline.config import PipelineConfig, load_config, preset_names, read_preset
from pipeline.train.schedule import Rates
from storage.errors import ConfigError

VIEWS, HELD_OUT = 160, 16  # 10%
OBJECTS = 500
LATENT_PIXELS = (128 // 8) ** 2  # of one view: 16 × 16
VIEWS_PER_EPOCH = OBJECTS * (VIEWS - HELD_OUT)  # 72,000


def _preset(name: str) -> PipelineConfig:
    return load_config(read_preset(name))


@pytest.mark.parametrize("name", ["paper", "paper-code"])
def test_sizes(name: str) -> None:
    config = _preset(name)
    train = config.train
    assert (train.resolution, train.f_mic, train.f_mac, train.n_base, train.width) == (64, 10, 22, 50, 64)
    assert (train.geometry.n_coarse, train.geometry.n_fine, train.geometry.sigma_scale) == (48, 48, 1.0)
    assert (config.render.views, config.render.width, config.render.heldout_fraction) == (VIEWS, 128, 0.1)
    assert (config.render.radius_world, config.render.focal) == (1.3, 1.02)
    assert (train.objects, sum(count or 0 for count in config.source.classes.values())) == (OBJECTS, 2000)
    losses = train.losses
    assert (losses.latent, losses.rgb, losses.ae) == (1.0, 1.0, 0.1)
    # No loss of our own; and no hull, without which nothing would clear what is outside of it.
    assert losses.free == config.fit.lambda_free == 0
    assert train.dilate == config.fit.dilate == 128 // 8


@pytest.mark.parametrize(
    ("name", "warmup_batch", "joint_batch"), [("paper", 512, 32), ("paper-code", 128, 8)]
)
def test_regime_one_is_fifty_epochs_twice(name: str, warmup_batch: int, joint_batch: int) -> None:
    train = _preset(name).train
    warmup, joint = train.warmup, train.joint
    assert warmup.objects * warmup.pixels == warmup_batch * LATENT_PIXELS
    assert joint.objects * joint.views == joint_batch
    # 50 · 72,000 / 512 = 7031.25 and / 128 = 28,125; 50 · 72,000 / 32 = 112,500 and / 8 = 450,000
    assert warmup.steps == 50 * VIEWS_PER_EPOCH // warmup_batch
    assert joint.steps == 50 * VIEWS_PER_EPOCH // joint_batch


@pytest.mark.parametrize("name", ["paper", "paper-code"])
def test_rates_of_regime_one(name: str) -> None:
    settings = _preset(name).train.settings()
    assert settings.warmup_rates == Rates(1e-2, 1e-2, 1e-2, 1e-2, 0.0)
    assert settings.joint_rates == Rates(
        micro=1e-4, coefficients=1e-2, base=1e-2, renderer=1e-4, autoencoder=1e-4
    )
    for epoch, factor in {0: 1, 19: 1, 20: 0.3, 39: 0.3, 40: 0.09, 49: 0.09}.items():
        assert settings.decay.at(epoch / 50) == pytest.approx(factor)


@pytest.mark.parametrize("name", ["paper", "paper-code"])
def test_a_fit_is_thirty_epochs_of_latents_and_fifty_of_rgb(name: str) -> None:
    fit = _preset(name).fit
    views = VIEWS - HELD_OUT
    assert fit.latent_steps * fit.latent_pixels == 30 * views * LATENT_PIXELS  # 4,320 views of 256 pixels
    assert fit.rgb_steps * fit.rgb_views == 50 * views  # 7,200 views
    assert (fit.lambda_latent, fit.lambda_rgb) == (0.0, 1.0)
    settings = fit.settings()
    assert (settings.latent_rates.micro, settings.latent_rates.coefficients) == (1e-2, 1e-2)
    assert (settings.rgb_rates.micro, settings.rgb_rates.coefficients) == (1e-3, 1e-2)
    for epoch in (0, 1, 29):
        assert settings.latent_decay.at(epoch / 30) == pytest.approx(0.941**epoch, rel=1e-3)
    for epoch in (0, 1, 49):
        assert settings.rgb_decay.at(epoch / 50) == pytest.approx(0.941**epoch, rel=1e-3)


def test_what_the_released_code_has_otherwise() -> None:
    ours, theirs = _preset("paper").train, _preset("paper-code").train
    geometry = theirs.geometry
    assert (geometry.box_half, geometry.near, geometry.far, geometry.axes) == (1.0, 0.5, 2.1, "eg3d")
    assert geometry.clip_radius is None
    assert (theirs.init_scale, theirs.init_coefficients) == (1.0, 1.0)
    assert (theirs.losses.tv_warmup, theirs.losses.tv_joint) == (1e-4, 1e-4)
    assert (ours.geometry.axes, ours.losses.tv_warmup, ours.losses.tv_joint) == ("xyz", 0.0, 0.0)


def test_representations_have_the_same_channels_and_steps() -> None:
    configs = {name: _preset(name) for name in preset_names() if name.startswith("ablation/")}
    assert len(configs) == 6
    whole = configs["ablation/fused-planes"]
    for name, config in configs.items():
        train, fit = config.train, config.fit
        assert train.f_mic + train.f_mac == whole.train.f_mic + whole.train.f_mac, name
        assert (train.warmup.steps, train.joint.steps) == (whole.train.warmup.steps, whole.train.joint.steps)
        assert (fit.latent_steps, fit.rgb_steps, fit.rgb_views) == (
            *(whole.fit.latent_steps, whole.fit.rgb_steps),
            whole.fit.rgb_views,
        )
        # The same number of image pixels per step: a rendered pixel stands for factor × factor of them.
        factor = 1 if train.autoencoder.size == "identity" else train.autoencoder.factor
        assert factor is not None
        assert train.warmup.pixels * factor**2 == whole.train.warmup.pixels * 4
        assert fit.latent_pixels * factor**2 == whole.fit.latent_pixels * 4
        assert (config.source, config.render) == (whole.source, whole.render)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.autoencoder.learning_rate=0.01", "learning_rate means nothing"),
        ("train.autoencoder.batch_size=4", "batch_size means nothing"),
        ("train.autoencoder.crop_px=32", "crop_px means nothing"),
        ("train.autoencoder.dtype=bfloat16", "dtype means nothing"),
        ("train.dtype=bfloat16", "dtype is the autoencoder's"),
        ("train.losses.latent=1", r"RGB loss alone: set losses\.latent to 0"),
        ("train.losses.ae=0.1", r"RGB loss alone: set losses\.ae to 0"),
        ("fit.lambda_latent=1", r"RGB loss alone: set fit\.lambda_latent to 0"),
    ],
)
def test_what_means_nothing_without_an_autoencoder_is_refused(setting: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(read_preset("ablation/rgb"), settings=[setting])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["train.n_base=0"], "micro only"),
        (["train.f_mac=0"], "micro only"),
        (["train.n_base=0", "train.f_mac=0", "train.f_mic=0"], "no planes"),
        (["train.autoencoder.size=identity"], "set steps to 0"),
        (["train.autoencoder.size=identity", "train.autoencoder.steps=0"], "set factor to null"),
        (["train.rates.decay=multistep", "train.rates.final=0.5"], "final means nothing"),
        (["train.rates.gamma=0.5"], "gamma means nothing"),
        (["train.rates.decay=multistep", "train.rates.milestones=[0.8,0.4]"], "ascending"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(read_preset("demo"), settings=settings)


def test_unset_later_fields_leave_no_trace() -> None:
    train = _preset("demo").content("train")
    assert "init_coefficients" not in train
    assert train["rates"].keys() == {"micro", "coefficients", "base", "renderer", "autoencoder", "final"}
    assert not {"tv_warmup", "tv_joint"} & train["losses"].keys()
    changed = load_config(read_preset("demo"), settings=["train.losses.tv_joint=0.1"]).content("train")
    assert changed["losses"]["tv_joint"] == 0.1
    assert load_config({"train": changed}).content("train") == changed


def test_presets_extend_one_another(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: ablation/rgb\ntrain: {n_base: 3}\n")
    train = load_config(read_preset(str(path))).train
    assert (train.n_base, train.autoencoder.size, train.f_mac) == (3, "identity", 8)
    path.write_text(f"extends: {path}\n")
    with pytest.raises(ConfigError, match="extend each other"):
        read_preset(str(path))


def test_training_rays_have_the_papers_samples() -> None:
    settings = load_config(read_preset("paper")).train.settings()
    assert (settings.n_samples, settings.n_fine) == (48, 48)
    assert load_config(read_preset("demo")).train.settings().n_fine == 0
