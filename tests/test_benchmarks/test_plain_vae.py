from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.model.autoencoder import Autoencoder, new_autoencoder
from pipeline.model.vae_files import autoencoder_kl
from tests.benchmarks.plain_vae import CONFIG_NAMES, STABLE_DIFFUSION, PlainVae, plain_copy, random_vae


def like_stable_diffusions() -> Autoencoder:
    """Several levels, shortcuts, attention and both 1×1 convolutions, but narrow."""
    return Autoencoder(
        autoencoder_kl()(
            block_out_channels=(8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=2,
            norm_num_groups=4,
        )
    )


@pytest.mark.parametrize("made", [like_stable_diffusions, lambda: new_autoencoder("tiny", factor=8)])
def test_it_computes_what_diffusers_computes(made: type[Autoencoder]) -> None:
    theirs = made()
    ours = Autoencoder(plain_copy(theirs.vae), theirs.unshuffle)
    rgb = torch.rand(2, 3, 32, 32)
    latents = torch.rand(2, ours.latent_channels, 32 // ours.factor, 32 // ours.factor)
    with torch.no_grad():
        torch.testing.assert_close(ours.encode_raw(rgb), theirs.encode_raw(rgb), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.decode(latents), theirs.decode(latents), rtol=1e-4, atol=1e-5)


def test_stable_diffusions_has_as_many_parameters_as_the_papers() -> None:
    with torch.device("meta"):
        vae = PlainVae(STABLE_DIFFUSION)
    count = sum(param.numel() for param in vae.parameters())
    assert count == 83_653_863  # AutoencoderKL of Stable Diffusion 1.5
    assert set(STABLE_DIFFUSION) == set(CONFIG_NAMES)


def test_random_parameters_depend_on_the_seed_alone(tmp_path: Path) -> None:
    config = {**STABLE_DIFFUSION, "block_out_channels": (8, 8), "norm_num_groups": 4}
    before = torch.random.get_rng_state()
    first, same, other = (random_vae(config, seed).decoder.conv_in.weight for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())
