"""The autoencoder of the representations that render RGB: none. A view is its own latent.

It has factor 1 and three channels, nothing to train, and no loss: everything else works on it as on any
other, so that RGB is a configuration and no second code path.
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor, nn

from pipeline.model.autoencoder import Autoencoder
from storage.errors import ConfigError

IDENTITY_FILE = "identity.json"
FORMAT_VERSION = "1.0"
RGB_CHANNELS = 3


class IdentityAutoencoder(Autoencoder):
    """E(x) = x, D(z) = z, both in [0, 1]; `background_latent` is white."""

    def __init__(self) -> None:
        super().__init__(_NoVae())

    @property
    def latent_channels(self) -> int:
        """Three: red, green, blue."""
        return RGB_CHANNELS

    @property
    def factor(self) -> int:
        """One: every pixel is rendered."""
        return 1

    def encode_raw(self, rgb: Tensor) -> Tensor:
        """The views themselves."""
        return rgb

    def decode_raw(self, raw: Tensor) -> Tensor:
        """The views themselves, not clamped."""
        return raw

    def normalise(self, raw: Tensor) -> Tensor:
        """Nothing to do: RGB is in [0, 1]."""
        return raw

    def denormalise(self, latents: Tensor) -> Tensor:
        """Nothing to do."""
        return latents

    def fit_normaliser(self, raw: Tensor) -> None:
        """Nothing to set."""

    def enable_gradient_checkpointing(self) -> None:
        """Nothing to do: there are no activations."""

    def save(self, folder: str | Path) -> None:
        """Write what `load_identity` recognises."""
        values = {"format_version": FORMAT_VERSION, "autoencoder": "identity"}
        (Path(folder) / IDENTITY_FILE).write_text(json.dumps(values) + "\n")


class _NoVae(nn.Module):
    """Stands where other autoencoders have their VAE; has no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Identity(), nn.Identity()
        self.quant_conv = self.post_quant_conv = None


def load_identity(folder: str | Path) -> IdentityAutoencoder | None:
    """The identity, where `folder` holds it; None where it holds another autoencoder.

    Raises:
        ConfigError: Written in a format that this version does not know.
    """
    path = Path(folder) / IDENTITY_FILE
    if not path.is_file():
        return None
    version = str(json.loads(path.read_text()).get("format_version"))
    if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise ConfigError(f"{path} has format {version}; this version reads {FORMAT_VERSION}")
    return IdentityAutoencoder()
