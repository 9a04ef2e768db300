from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipeline.model.autoencoder import SD_LATENT_SCALE, Autoencoder, new_autoencoder
from pipeline.model.vae_files import autoencoder_kl
from pipeline.train.autoencoder import (
    AutoencoderRecipe,
    AutoencoderTrainer,
    batch_rows,
    crop_around_object,
    schedule,
    train_autoencoder,
)
from pipeline.train.training_views import over_white
from storage.errors import ConfigError


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors here are tiny: on a busy machine, threads that wait for each other cost more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def striped_views(n: int, side_px: int = 64, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Discs with coloured stripes of random direction, transparent outside: [n, side, side, 4]."""
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[:side_px, :side_px].astype(np.float32)
    views = np.zeros((n, side_px, side_px, 4), np.uint8)
    for view in views:
        angle, period_px = rng.uniform(0, np.pi), rng.uniform(6, 14)
        wave = 0.5 + 0.5 * np.sin((np.cos(angle) * xs + np.sin(angle) * ys) * 2 * np.pi / period_px)
        colours = rng.uniform(0, 255, (2, 3))
        view[..., :3] = colours[0] * wave[..., None] + colours[1] * (1 - wave[..., None])
        centre = rng.uniform(0.4, 0.6, 2) * side_px
        view[..., 3] = 255 * ((ys - centre[0]) ** 2 + (xs - centre[1]) ** 2 < (side_px / 4) ** 2)
    return views


def tiny_recipe(**changes: object) -> AutoencoderRecipe:
    values = {"steps": 20, "batch_size": 4, "crop_px": 32, "seed": 7, **changes}
    return AutoencoderRecipe(**values)  # type: ignore[arg-type]


def psnr_db(autoencoder: Autoencoder, views: npt.NDArray[np.uint8]) -> float:
    rgb = over_white(torch.from_numpy(views).to(autoencoder.latent_scale.device))
    with torch.no_grad():
        error = (autoencoder.decode(autoencoder.encode(rgb)).clamp(0, 1) - rgb).square().mean((1, 2, 3))
    return float((-10 * torch.log10(error)).mean())


def test_training_improves_on_the_linear_start_for_unseen_views() -> None:
    views, unseen = striped_views(24), striped_views(8, seed=99)
    autoencoder = new_autoencoder("tiny")
    trainer = AutoencoderTrainer(autoencoder, views, tiny_recipe(steps=60, batch_size=8))
    trainer.fit_normaliser()
    start_db = psnr_db(autoencoder, unseen)
    trainer.run()
    assert psnr_db(autoencoder, unseen) > start_db + 0.5
    assert trainer.step == len(trainer.losses) == 60


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_resumed_training_is_bit_equal(noise: float) -> None:
    views, recipe = striped_views(12), tiny_recipe(latent_noise=noise)
    whole = new_autoencoder("tiny", seed=1)
    losses = train_autoencoder(whole, views, recipe)

    first = AutoencoderTrainer(new_autoencoder("tiny", seed=1), views, recipe)
    first.run(until=10)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    torch.manual_seed(123)  # no global randomness may matter
    second = new_autoencoder("tiny", seed=2)
    resumed_losses = train_autoencoder(second, views, recipe, state=state)

    assert resumed_losses == losses
    expected, actual = whole.state_dict(), second.state_dict()
    assert all(torch.equal(expected[key], actual[key]) for key in expected)


def test_pretrained_parameters_are_not_started_anew() -> None:
    autoencoder = new_autoencoder("tiny")
    autoencoder.is_new = False
    before = {k: v.clone() for k, v in autoencoder.state_dict().items()}
    AutoencoderTrainer(autoencoder, striped_views(4), tiny_recipe())
    assert all(torch.equal(before[k], v) for k, v in autoencoder.state_dict().items())


def pretrained(seed: int = 0) -> Autoencoder:
    """As if loaded from elsewhere: two levels, random values, no normaliser of its own."""
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = autoencoder_kl()(block_out_channels=(8, 8), norm_num_groups=2, latent_channels=3, **levels)
    return Autoencoder(vae)


def test_pretrained_without_steps_gets_its_normaliser_from_the_training_views() -> None:
    views, autoencoder = striped_views(6), pretrained()
    before = {name: value.clone() for name, value in autoencoder.vae.state_dict().items()}
    trainer = AutoencoderTrainer(autoencoder, views, tiny_recipe(steps=0))
    assert autoencoder.is_normalised
    assert all(torch.equal(before[name], value) for name, value in autoencoder.vae.state_dict().items())
    with torch.no_grad():
        latents = autoencoder.encode(over_white(torch.from_numpy(views)))
    low, high = latents.amin((0, 2, 3)), latents.amax((0, 2, 3))
    # The centre of every channel's range is 1/2; the strongest channel reaches 3/4 of tanh and little beyond.
    assert torch.allclose((low + high) / 2, torch.full((3,), 0.5), atol=0.1)
    assert 0.85 < float(high.max()) < 0.97
    trainer.run()
    assert trainer.losses == []


def test_known_normaliser_stays() -> None:
    autoencoder = pretrained()
    autoencoder.is_normalised = True  # Stable Diffusion's VAE, or one that was saved with its own
    AutoencoderTrainer(autoencoder, striped_views(6), tiny_recipe(steps=0))
    assert autoencoder.latent_scale.tolist() == pytest.approx([SD_LATENT_SCALE] * 3)
    assert autoencoder.latent_shift.tolist() == [0, 0, 0]


def test_views_that_do_not_fit_the_factor_are_refused_before_the_first_step() -> None:
    with pytest.raises(ConfigError, match=r"views of 60x60 px .* multiples of 8 px"):
        AutoencoderTrainer(new_autoencoder("tiny", factor=8), striped_views(2, 60), tiny_recipe())


def test_crops_that_do_not_fit_the_factor_name_the_next_size() -> None:
    with pytest.raises(ConfigError, match=r"crop_px 34 is not a multiple of 4, .*: choose 32"):
        AutoencoderTrainer(new_autoencoder("tiny"), striped_views(2), tiny_recipe(crop_px=34))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_bfloat16_reconstructs_like_float32(device: str) -> None:
    """Trained a little: the residual blocks and norms then take part, which a linear start bypasses."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    views, unseen = striped_views(24), striped_views(8, seed=99)
    found = {}
    for dtype in ("float32", "bfloat16"):
        autoencoder = new_autoencoder("tiny").to(device)
        train_autoencoder(autoencoder, views, tiny_recipe(steps=60, batch_size=8, dtype=dtype))
        found[dtype] = psnr_db(autoencoder, unseen)
    with torch.autocast(device, dtype=torch.bfloat16):
        found["bfloat16 throughout"] = psnr_db(autoencoder, unseen)
    assert found["bfloat16"] == pytest.approx(found["float32"], abs=0.3)
    assert found["bfloat16 throughout"] == pytest.approx(found["bfloat16"], abs=0.3)


def test_whole_views_when_crops_are_off_or_larger() -> None:
    for crop_px in (0, 64, 128):
        trainer = AutoencoderTrainer(
            new_autoencoder("tiny"), striped_views(4), tiny_recipe(crop_px=crop_px, steps=1)
        )
        assert trainer._batch(0).shape == (4, 3, 64, 64)


def test_loss_that_is_not_finite_names_the_step() -> None:
    trainer = AutoencoderTrainer(new_autoencoder("tiny"), striped_views(4), tiny_recipe())
    trainer.run(until=2)
    with torch.no_grad():
        next(trainer.autoencoder.decoder_params()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="nan in step 2"):
        trainer.run()


@pytest.mark.parametrize(("n_views", "batch_size"), [(10, 4), (3, 8), (16, 16)])
def test_every_epoch_sees_every_view_once(n_views: int, batch_size: int) -> None:
    rows = np.concatenate([batch_rows(n_views, batch_size, 5, step) for step in range(3 * n_views)])
    for epoch in rows.reshape(-1, n_views):
        assert sorted(epoch) == list(range(n_views))


def test_crop_covers_a_small_object_and_lies_in_a_large_one() -> None:
    rng = np.random.default_rng(0)
    small, large = np.zeros((2, 64, 64, 4), np.uint8)
    small[50:58, 3:9, 3] = 255
    large[10:60, 5:62, 3] = 255
    for _ in range(50):
        assert (crop_around_object(small, 32, rng)[..., 3] > 0).sum() == 8 * 6
        crop = crop_around_object(large, 32, rng)
        assert crop.shape == (32, 32, 4)
        assert (crop[..., 3] > 0).sum() >= (32 - 4) ** 2  # at most the margin on two sides is background


def test_crop_of_an_empty_view_is_anywhere() -> None:
    assert crop_around_object(np.zeros((64, 64, 4), np.uint8), 16, np.random.default_rng(0)).shape == (
        16,
        16,
        4,
    )


def test_composite_over_white_by_hand() -> None:
    # Half-transparent black: 0 * 128/255 + (1 - 128/255) = 127/255. Opaque keeps its colour, clear is white.
    rgba = torch.tensor([[[[0, 0, 0, 128], [255, 51, 0, 255], [9, 9, 9, 0]]]], dtype=torch.uint8)
    expected = torch.tensor([[127 / 255] * 3, [1.0, 0.2, 0.0], [1.0] * 3]).T[None, :, None]
    assert torch.allclose(over_white(rgba), expected)


def test_schedule_warms_up_then_falls_to_zero() -> None:
    rates = [schedule(step / 200) for step in range(200)]
    assert 0 < rates[0] < 0.05 and max(rates) == pytest.approx(1, abs=1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 1e-3
