from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline.model.identity import IDENTITY_FILE, IdentityAutoencoder, load_identity
from storage.errors import ConfigError
from tests.test_pipeline.toy import toy_autoencoder


def test_views_are_their_own_latents_bit_by_bit() -> None:
    rgb = torch.rand(2, 3, 7, 5, requires_grad=True)  # no multiple of anything
    autoencoder = IdentityAutoencoder()
    assert torch.equal(autoencoder.decode(autoencoder.encode(rgb)), rgb)
    assert (autoencoder.factor, autoencoder.latent_channels) == (1, 3)
    assert torch.equal(autoencoder.background_latent(4, 6), torch.ones(3, 4, 6))
    assert list(autoencoder.parameters()) == []
    (gradient,) = torch.autograd.grad(autoencoder.decode(1.5 * rgb).sum(), rgb)
    assert torch.equal(gradient, torch.full_like(rgb, 1.5))  # colours above 1 are pulled back, too


def test_there_are_no_activations_to_compute_twice() -> None:
    autoencoder = IdentityAutoencoder()
    autoencoder.enable_gradient_checkpointing()
    rgb = torch.rand(1, 3, 4, 4)
    assert torch.equal(autoencoder.decode(autoencoder.encode(rgb)), rgb)


def test_it_is_loaded_where_it_was_saved(tmp_path: Path) -> None:
    IdentityAutoencoder().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [IDENTITY_FILE]
    assert isinstance(load_identity(tmp_path), IdentityAutoencoder)
    (tmp_path / IDENTITY_FILE).write_text(json.dumps({"format_version": "2.0"}))
    with pytest.raises(ConfigError, match=r"format 2\.0"):
        load_identity(tmp_path)


def test_other_autoencoders_are_left_to_their_loader(tmp_path: Path) -> None:
    toy_autoencoder().save(tmp_path)
    assert load_identity(tmp_path) is None
