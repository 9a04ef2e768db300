"""The autoencoder: diffusers' ``AutoencoderKL`` between RGB views and the latents that the renderer renders.

Conventions: RGB is sRGB in [0, 1], composited over white, [B, 3, H, W]. Latents are normalised, in (0, 1):
one affine map per channel and a tanh away from the mean of the VAE's posterior (never a sample):

    latent = (1 + tanh(latent_scale * (z - latent_shift))) / 2

Stable Diffusion's VAE is used as the paper does (scale 0.02, no shift); any other VAE gets scale and shift
from its own latents of training views (`Autoencoder.fit_normaliser`). Images may be pixel-unshuffled before
the VAE, which then works on a coarse grid with many channels: that is what makes the small sizes affordable
on CPUs.

diffusers is imported on construction only, so that this module imports without it; where models come from
is in `pipeline.model.vae_files`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.model.shapes import Float
from pipeline.model.vae_files import CONFIG_FILE, autoencoder_kl, load_vae
from storage.errors import ConfigError

NORMALISER_FILE = "fpipe_autoencoder.json"
"""Beside diffusers' config.json: what `Autoencoder` adds to the plain ``AutoencoderKL`` of that folder."""
FORMAT_VERSION = "1.0"

SD_LATENT_SCALE = 0.02
"""Scale of the paper's tanh for Stable Diffusion's VAE (METHOD section 3)."""
INVERSE_MARGIN = 1e-4
"""Latents in [-1, 1] are clamped by this before atanh (METHOD section 3)."""
NORMALISER_QUANTILE = 0.999
NORMALISER_REACH = 0.75
"""That share of the strongest channel's latents stays below this value of tanh: the inverse stays tame."""

FACTORS = (2, 4, 8)
"""Image pixels per latent pixel that the sizes ``tiny`` and ``small`` come in."""
# One level on a grid of f×f pixel blocks, one norm group: what `pipeline.model.linear_start` needs. The
# widths make the cost per view about the same for all f.
_WIDTHS = {"tiny": {2: 24, 4: 48, 8: 96}, "small": {2: 48, 4: 96, 8: 192}}
# A better autoencoder is not a better target: with f = 4, C = 8 reconstructs unseen objects 2.9 dB better
# than C = 4, but after the same short joint training of six cars their held-out renders were 0.7 dB worse.
_CHANNELS = {2: 4, 4: 4, 8: 8}
_SD: dict[str, Any] = {  # architecture of Stable Diffusion's VAE
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
_SD_SCALING_FACTOR = 0.18215
SIZES = ("tiny", "small", "sd")


class Autoencoder(nn.Module):
    """A diffusers ``AutoencoderKL`` with pixel-unshuffling around it and normalised latents.

    Attributes:
        vae: The ``AutoencoderKL``; ``vae.encoder`` and ``vae.decoder`` hold all trainable parameters.
        unshuffle: Side in px of the pixel blocks that become channels.
        latent_scale: [C] slope of the normaliser.
        latent_shift: [C] centre of the normaliser.
        is_new: Whether the parameters are random, so that a trainer may start them as it likes.
        is_normalised: Whether the normaliser is that of this VAE's latents; if not, a trainer fits it.
    """

    latent_scale: Tensor
    latent_shift: Tensor

    def __init__(self, vae: Any, unshuffle: int = 1, latent_scale: float = SD_LATENT_SCALE) -> None:
        super().__init__()
        self.vae: Any = vae
        self.vae.to(memory_format=torch.channels_last)  # a tenth faster on CPUs
        self.unshuffle = unshuffle
        self.is_new = False
        self.is_normalised = False
        self.register_buffer("latent_scale", torch.full((self.latent_channels,), latent_scale))
        self.register_buffer("latent_shift", torch.zeros(self.latent_channels))

    @property
    def latent_channels(self) -> int:
        """Channels C of a latent."""
        return int(self.vae.config.latent_channels)

    @property
    def factor(self) -> int:
        """Image pixels per latent pixel along one side (f of the paper)."""
        return int(self.unshuffle * 2 ** (len(self.vae.config.block_out_channels) - 1))

    def encoder_params(self) -> Iterator[nn.Parameter]:
        """Trainable parameters of E."""
        yield from self.vae.encoder.parameters()
        if self.vae.quant_conv is not None:
            yield from self.vae.quant_conv.parameters()

    def decoder_params(self) -> Iterator[nn.Parameter]:
        """Trainable parameters of D."""
        yield from self.vae.decoder.parameters()
        if self.vae.post_quant_conv is not None:
            yield from self.vae.post_quant_conv.parameters()

    def encode(self, rgb: Float[Tensor, "b 3 hh ww"]) -> Float[Tensor, "b c h w"]:
        """Normalised latents in (0, 1) of views.

        Args:
            rgb: [B, 3, H, W] in [0, 1] over white; H and W multiples of `factor`.

        Returns:
            [B, C, H/f, W/f].

        Raises:
            ValueError: If H or W is not a multiple of `factor`.
        """
        return self.normalise(self.encode_raw(rgb))

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 hh ww"]:
        """RGB in [0, 1] (not clamped) of normalised latents.

        Args:
            latents: [B, C, h, w]; values outside (0, 1) are clamped to it.

        Returns:
            [B, 3, h * f, w * f].
        """
        return self.decode_raw(self.denormalise(latents))

    def encode_raw(self, rgb: Float[Tensor, "b 3 hh ww"]) -> Float[Tensor, "b c h w"]:
        """Posterior means of the VAE, before the normaliser. Shapes as in `encode`."""
        if rgb.shape[-2] % self.factor or rgb.shape[-1] % self.factor:
            raise ValueError(
                f"views of {rgb.shape[-2]}x{rgb.shape[-1]} px cannot be encoded: "
                f"the autoencoder needs multiples of {self.factor} px"
            )
        moments: Tensor = self.vae.encoder(self.to_blocks(rgb).contiguous(memory_format=torch.channels_last))
        if self.vae.quant_conv is not None:
            moments = self.vae.quant_conv(moments)
        return moments[:, : self.latent_channels]

    def to_blocks(self, rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d bh bw"]:
        """Views in [0, 1] as what the VAE sees: values in [-1, 1], d = 3 * unshuffle² channels."""
        return functional.pixel_unshuffle(rgb * 2 - 1, self.unshuffle)

    def decode_raw(self, raw: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 hh ww"]:
        """RGB of latents before the normaliser. Shapes as in `decode`."""
        if self.vae.post_quant_conv is not None:
            raw = self.vae.post_quant_conv(raw)
        blocks = self.vae.decoder(raw.contiguous(memory_format=torch.channels_last))
        return functional.pixel_shuffle(blocks, self.unshuffle) / 2 + 0.5

    def normalise(self, raw: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
        """Map posterior means [..., C, h, w] into (0, 1)."""
        return 0.5 + 0.5 * torch.tanh(
            _per_channel(self.latent_scale) * (raw - _per_channel(self.latent_shift))
        )

    def denormalise(self, latents: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
        """Inverse of `normalise`, after clamping into its range (no gradient outside)."""
        signed = (2 * latents - 1).clamp(-1 + INVERSE_MARGIN, 1 - INVERSE_MARGIN)
        return torch.atanh(signed) / _per_channel(self.latent_scale) + _per_channel(self.latent_shift)

    @torch.no_grad()
    def fit_normaliser(self, raw: Float[Tensor, "n c h w"]) -> None:
        """Set scale and shift from posterior means of *training* views.

        Args:
            raw: [n, C, h, w] from `encode_raw`.

        Raises:
            ValueError: If a channel is constant or not finite: the VAE carries nothing in it.
        """
        channels = raw.detach().float().transpose(0, 1).flatten(1).sort(dim=1).values
        margin = round((1 - NORMALISER_QUANTILE) * (channels.shape[1] - 1))
        low, high = channels[:, margin], channels[:, -1 - margin]
        reach = (high - low) / 2
        if not bool(torch.isfinite(reach).all()) or bool((reach <= 0).any()):
            raise ValueError(
                f"latent channels without finite spread: {reach.tolist()}; train the autoencoder longer"
            )
        # Full range for every channel would weigh weak and strong channels alike, one scale for all would
        # weigh them by their effect on RGB and leave weak ones little range. Halfway between: 0.4 dB over one
        # scale.
        reach = (reach * reach.max()).sqrt()
        self.latent_shift.copy_((low + high) / 2)
        self.latent_scale.copy_(math.atanh(NORMALISER_REACH) / reach)
        self.is_normalised = True

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass: same gradients, less memory, a forward pass more."""
        self.vae.enable_gradient_checkpointing()

    @torch.no_grad()
    def background_latent(self, height: int, width: int) -> Float[Tensor, "c h w"]:
        """Latent of an all-white view [C, height/f, width/f]; it depends on the position."""
        white = torch.ones(1, 3, height, width, device=self.latent_scale.device)
        return self.encode(white)[0]

    def save(self, folder: str | Path) -> None:
        """Write a folder that `load_autoencoder` and plain ``AutoencoderKL.from_pretrained`` both load."""
        folder = Path(folder)
        self.vae.save_pretrained(folder)
        _forget_origin(folder / CONFIG_FILE)
        extra = {
            "format_version": FORMAT_VERSION,
            "unshuffle": self.unshuffle,
            "latent_scale": self.latent_scale.double().tolist(),
            "latent_shift": self.latent_shift.double().tolist(),
        }
        (folder / NORMALISER_FILE).write_text(json.dumps(extra, indent=1) + "\n")


def new_autoencoder(
    size: str, *, seed: int = 0, latent_channels: int | None = None, factor: int | None = None
) -> Autoencoder:
    """Build a randomly initialised autoencoder.

    Args:
        size: One of `SIZES`. ``tiny`` trains in half a minute on two CPU cores; ``sd`` is Stable Diffusion's.
        seed: Of the initial parameters; the global random state is left alone.
        latent_channels: C; default 4, or 8 for the coarsest latents of the small sizes.
        factor: f, one of `FACTORS`, default 4; ``sd`` has 8 only.

    Raises:
        ConfigError: If the size is unknown or does not come in this factor or with so many channels.
        EnvironmentProblem: If diffusers cannot be imported.
    """
    if size not in SIZES:
        raise ConfigError(f"unknown autoencoder size {size!r}: choose one of {', '.join(SIZES)}")
    settings, unshuffle = _settings(size, factor, latent_channels)
    levels = len(settings["block_out_channels"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = autoencoder_kl()(
            in_channels=3 * unshuffle**2,
            out_channels=3 * unshuffle**2,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            **settings,
        )
    autoencoder = Autoencoder(vae, unshuffle)
    autoencoder.is_new = True
    return autoencoder


def _settings(size: str, factor: int | None, latent_channels: int | None) -> tuple[dict[str, Any], int]:
    """Architecture in diffusers' words, and the unshuffling before it."""
    if size == "sd":
        if factor not in (None, 8):
            raise ConfigError(
                f"autoencoder size sd has factor 8, not {factor}: choose another size or leave it out"
            )
        return {**_SD, "latent_channels": latent_channels or _SD["latent_channels"]}, 1
    factor = factor or 4
    if factor not in FACTORS:
        raise ConfigError(f"autoencoder size {size} comes in factors {FACTORS}, not {factor}")
    width = _WIDTHS[size][factor]
    channels = latent_channels or _CHANNELS[factor]
    most = min(3 * factor**2, (width - 2) // 2)
    if channels > most:
        raise ConfigError(
            f"autoencoder size {size} with factor {factor} holds at most {most} latent channels, "
            f"not {channels}"
        )
    return {
        "block_out_channels": (width,),
        "layers_per_block": 1,
        "latent_channels": channels,
        "norm_num_groups": 1,
        "mid_block_add_attention": False,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 1.0,
    }, factor


def load_autoencoder(source: str | Path) -> Autoencoder:
    """Load an autoencoder from a local folder or a hub id.

    A folder written by `Autoencoder.save` comes back exactly. Stable Diffusion's VAE gets the paper's
    normaliser. Any other ``AutoencoderKL`` has none yet (`Autoencoder.is_normalised`): fit it to latents of
    training views.

    Args:
        source: A folder of ``AutoencoderKL.save_pretrained``, one of a whole pipeline with such a folder
            ``vae/`` in it, or the hub id of either.

    Raises:
        EnvironmentProblem: If diffusers is missing, or nothing can be loaded from `source`.
        ConfigError: If `source` holds another kind of model, one that does not take and give RGB, or a
            damaged description.
    """
    vae, folder = load_vae(source)
    extra = folder / NORMALISER_FILE
    if extra.is_file():
        autoencoder = _with_normaliser(vae, extra)
    else:
        autoencoder = Autoencoder(vae)
        autoencoder.is_normalised = _is_stable_diffusions(vae.config)
    channels = 3 * autoencoder.unshuffle**2
    if (vae.config.in_channels, vae.config.out_channels) != (channels, channels):
        raise ConfigError(
            f"{source} takes {vae.config.in_channels} channels and gives {vae.config.out_channels}, "
            f"not the {channels} of RGB views"
        )
    return autoencoder


def _is_stable_diffusions(config: Any) -> bool:
    """Whether a VAE shares the latents of Stable Diffusion 1 and 2, whose spread the paper's scale is for.

    Stable Diffusion XL's has the same architecture, but another scaling factor.
    """
    return (
        tuple(config.block_out_channels) == _SD["block_out_channels"]
        and config.latent_channels == _SD["latent_channels"]
        and math.isclose(config.scaling_factor, _SD_SCALING_FACTOR)
    )


def _with_normaliser(vae: Any, extra: Path) -> Autoencoder:
    try:
        values = json.loads(extra.read_text())
        major = str(values["format_version"]).split(".")[0]
        if major != FORMAT_VERSION.split(".")[0]:
            raise ConfigError(
                f"{extra} has format {values['format_version']}; this version reads {FORMAT_VERSION}"
            )
        autoencoder = Autoencoder(vae, int(values["unshuffle"]))
        scale, shift = torch.tensor(values["latent_scale"]), torch.tensor(values["latent_shift"])
        autoencoder.latent_scale.copy_(scale)
        autoencoder.latent_shift.copy_(shift)
        autoencoder.is_normalised = True
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # a JSONDecodeError is a ValueError
        raise ConfigError(f"{extra} does not describe the autoencoder beside it: {error}") from error
    return autoencoder


def _forget_origin(path: Path) -> None:
    """Drop the folder that diffusers says a model was loaded from: equal content shall be equal bytes."""
    config = json.loads(path.read_text())
    if config.pop("_name_or_path", None) is not None:
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _per_channel(values: Tensor) -> Tensor:
    return values[:, None, None]
