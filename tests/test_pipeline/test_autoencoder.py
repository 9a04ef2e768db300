from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.model.autoencoder import NORMALISER_FILE, Autoencoder, load_autoencoder, new_autoencoder
from pipeline.model.linear_start import start_linear, supports_linear_start
from pipeline.model.vae_files import autoencoder_kl
from storage.errors import ConfigError, EnvironmentProblem


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors here are tiny: on a busy machine, threads that wait for each other cost more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def some_views(n: int = 6, side_px: int = 32, seed: int = 0) -> torch.Tensor:
    """Smooth coloured squares on white, [n, 3, side, side]."""
    rng = np.random.default_rng(seed)
    rgb = np.ones((n, 3, side_px, side_px), np.float32)
    for view in rgb:
        top, left = rng.integers(4, side_px // 2, 2)
        height, width = rng.integers(8, side_px // 2, 2)
        ramp = np.linspace(0, 1, width, dtype=np.float32) * rng.random((3, 1, 1), dtype=np.float32)
        view[:, top : top + height, left : left + width] = 0.9 * rng.random((3, 1, 1)) * ramp
    return torch.from_numpy(rgb)


@pytest.fixture(scope="module")
def fitted() -> Autoencoder:
    autoencoder = new_autoencoder("tiny", seed=3)
    start_linear(autoencoder, [some_views()])
    with torch.no_grad():
        for param in autoencoder.parameters():
            param += 0.01 * torch.randn(param.shape, generator=torch.Generator().manual_seed(param.numel()))
        autoencoder.fit_normaliser(autoencoder.encode_raw(some_views()))
    return autoencoder


@pytest.mark.parametrize(("factor", "channels"), [(2, 4), (4, 4), (8, 8)])
def test_shapes_factor_and_range(factor: int, channels: int) -> None:
    autoencoder = new_autoencoder("tiny", factor=factor)
    with torch.no_grad():
        latents = autoencoder.encode(some_views(2))
        decoded = autoencoder.decode(latents)
    assert (autoencoder.factor, autoencoder.latent_channels) == (factor, channels)
    assert latents.shape == (2, channels, 32 // factor, 32 // factor)
    assert decoded.shape == (2, 3, 32, 32)
    assert float(latents.min()) > 0
    assert float(latents.max()) < 1


def test_sd_has_the_architecture_of_the_paper() -> None:
    with torch.device("meta"):
        autoencoder = new_autoencoder("sd")
    # 83,653,863 parameters is what diffusers counts for stabilityai/sd-vae-ft-mse.
    assert sum(p.numel() for p in autoencoder.parameters()) == 83_653_863
    assert (autoencoder.factor, autoencoder.latent_channels) == (8, 4)
    encoder, decoder = (
        sum(4 * p.numel() for p in params) / 2**20
        for params in (autoencoder.encoder_params(), autoencoder.decoder_params())
    )
    # The paper's files (METHOD section 5) have 130.38 MB and 178.86 MB; its decoder figure looks like a slip
    # of one digit, for no file of these parameters can be smaller than they are.
    assert encoder == pytest.approx(130.38, abs=0.1)
    assert decoder == pytest.approx(188.79, abs=0.1)


def test_images_and_parameters_are_channels_last(fitted: Autoencoder) -> None:
    filters = [p for p in fitted.parameters() if p.dim() == 4]
    assert filters and all(p.is_contiguous(memory_format=torch.channels_last) for p in filters)
    raw = fitted.encode_raw(some_views())
    assert raw.stride(1) == 1  # channels innermost, so nothing between was copied into another order


def test_same_seed_same_parameters_and_global_randomness_untouched() -> None:
    before = torch.get_rng_state()
    first, second, other = (new_autoencoder("tiny", seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_encoder_and_decoder_params_are_all_params(fitted: Autoencoder) -> None:
    parts = {id(p) for p in fitted.encoder_params()} | {id(p) for p in fitted.decoder_params()}
    assert parts == {id(p) for p in fitted.parameters()}


def test_normaliser_by_hand() -> None:
    autoencoder = new_autoencoder("tiny", latent_channels=2)
    # Channel 0 spans 0..8 (centre 4, reach 4), channel 1 spans -1..1 (centre 0, reach 1); the weaker
    # channel's reach becomes sqrt(1 * 4) = 2. atanh(0.75) = 0.9730.
    raw = torch.stack([torch.linspace(0, 8, 9), torch.linspace(-1, 1, 9)])[None, :, None]
    autoencoder.fit_normaliser(raw)
    assert autoencoder.latent_shift.tolist() == pytest.approx([4, 0], abs=1e-6)
    assert autoencoder.latent_scale.tolist() == pytest.approx([0.97296 / 4, 0.97296 / 2], rel=1e-4)
    # tanh(±0.9730) = ±0.75 → (1 ± 0.75) / 2; channel 1 ends at tanh(0.4865) = 0.4514 → 0.7257.
    assert autoencoder.normalise(raw)[0, 0, 0, [0, -1]].tolist() == pytest.approx([0.125, 0.875], rel=1e-5)
    assert float(autoencoder.normalise(raw)[0, 1, 0, -1]) == pytest.approx(0.7257, abs=1e-4)


def test_denormalise_inverts_and_clamps(fitted: Autoencoder) -> None:
    raw = fitted.encode_raw(some_views()).detach()
    assert torch.allclose(fitted.denormalise(fitted.normalise(raw)), raw, atol=1e-3)
    beyond = torch.full((1, fitted.latent_channels, 1, 1), 1.001)
    assert bool(torch.isfinite(fitted.denormalise(beyond)).all())


def test_constant_channel_is_refused() -> None:
    autoencoder = new_autoencoder("tiny")
    with pytest.raises(ValueError, match="without finite spread"):
        autoencoder.fit_normaliser(torch.zeros(2, 4, 3, 3))


def test_wrong_image_size_names_the_multiple(fitted: Autoencoder) -> None:
    with pytest.raises(ValueError, match=r"30x32 px .* multiples of 4 px"):
        fitted.encode(torch.ones(1, 3, 30, 32))


def test_save_and_load_are_exact(fitted: Autoencoder, tmp_path: Path) -> None:
    fitted.save(tmp_path / "vae")
    loaded = load_autoencoder(tmp_path / "vae")
    rgb = some_views(3, seed=9)
    with torch.no_grad():
        assert torch.equal(loaded.encode(rgb), fitted.encode(rgb))
        assert torch.equal(loaded.decode(fitted.encode(rgb)), fitted.decode(fitted.encode(rgb)))
        assert torch.equal(loaded.background_latent(32, 48), fitted.background_latent(32, 48))
    assert loaded.background_latent(32, 48).shape == (4, 8, 12)


def test_plain_diffusers_loads_the_same_folder(fitted: Autoencoder, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    plain = load_plain(tmp_path)
    blocks = torch.nn.functional.pixel_unshuffle(some_views() * 2 - 1, 4)
    with torch.no_grad():
        assert torch.allclose(
            plain.encode(blocks).latent_dist.mode(), fitted.encode_raw(some_views()), atol=1e-5
        )


def load_plain(folder: Path) -> torch.nn.Module:
    return autoencoder_kl().from_pretrained(folder, low_cpu_mem_usage=False)


def test_foreign_autoencoder_gets_the_papers_normaliser(tmp_path: Path) -> None:
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = autoencoder_kl()(
        block_out_channels=(8, 8), norm_num_groups=2, latent_channels=3, sample_size=32, **levels
    )
    vae.save_pretrained(tmp_path)
    loaded = load_autoencoder(str(tmp_path))
    rgb = some_views(2)
    with torch.no_grad():
        raw = vae.encode(rgb * 2 - 1).latent_dist.mode()
        assert torch.allclose(loaded.encode(rgb), 0.5 + 0.5 * torch.tanh(0.02 * raw), atol=1e-6)
        assert torch.allclose(loaded.decode_raw(raw), vae.decode(raw).sample / 2 + 0.5, atol=1e-5)
    assert (loaded.factor, loaded.latent_channels, loaded.is_new) == (2, 3, False)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size": "huge"}, "unknown autoencoder size 'huge'"),
        ({"size": "tiny", "factor": 3}, "not 3"),
        ({"size": "sd", "factor": 4}, "sd has factor 8"),
        ({"size": "tiny", "latent_channels": 24}, "at most 23 latent channels"),
    ],
)
def test_bad_sizes_are_config_errors(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        new_autoencoder(**kwargs)  # type: ignore[arg-type]


def test_missing_folder_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"no autoencoder at .*nowhere: give a folder"):
        load_autoencoder(tmp_path / "nowhere")


def test_folder_without_model_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"no config\.json.*AutoencoderKL\.save_pretrained"):
        load_autoencoder(tmp_path)


@pytest.mark.parametrize(
    "damage", [{"latent_scale": [1.0, 2.0]}, {"format_version": "2.0"}, {"unshuffle": "four"}]
)
def test_damaged_description_is_refused(
    fitted: Autoencoder, tmp_path: Path, damage: dict[str, object]
) -> None:
    fitted.save(tmp_path)
    path = tmp_path / NORMALISER_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(ConfigError, match=NORMALISER_FILE):
        load_autoencoder(tmp_path)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_linear_start_is_principal_components(factor: int) -> None:
    autoencoder = new_autoencoder("tiny", factor=factor)
    views, others = some_views(), some_views(3, seed=5)
    start_linear(autoencoder, views.split(2))
    with torch.no_grad():
        decoded = autoencoder.decode_raw(autoencoder.encode_raw(others)).numpy()

    def to_blocks(rgb: torch.Tensor) -> np.ndarray:
        grid = rgb.numpy().reshape(len(rgb), 3, 32 // factor, factor, 32 // factor, factor)
        return (grid.transpose(0, 2, 4, 1, 3, 5).reshape(-1, 3 * factor**2) - 1).astype(np.float64)

    blocks = to_blocks(views)
    _, _, right = np.linalg.svd(blocks, full_matrices=False)
    basis = right[: autoencoder.latent_channels]
    expected = to_blocks(others) @ basis.T @ basis
    actual = to_blocks(torch.from_numpy(decoded))
    # The norms divide by a nearly constant number, not a constant one: errors stay under one grey level.
    assert np.abs(actual - expected).max() < 1 / 255


def test_linear_start_encodes_white_alike_in_every_image() -> None:
    autoencoder = new_autoencoder("tiny")
    start_linear(autoencoder, [some_views()])
    view = torch.ones(1, 3, 64, 64)
    view[..., :16, :16] = some_views(1)[..., :16, :16] * 0.3
    with torch.no_grad():
        latents, white = autoencoder.encode_raw(view), autoencoder.encode_raw(torch.ones_like(view))
    assert float((latents - white)[..., 8:, 8:].abs().max()) < 1e-4 < float((latents - white).abs().max())


def test_linear_start_needs_the_right_architecture_and_content() -> None:
    with torch.device("meta"):
        assert not supports_linear_start(new_autoencoder("sd"))
    with pytest.raises(ValueError, match="all white"):
        start_linear(new_autoencoder("tiny"), [torch.ones(2, 3, 32, 32)])
