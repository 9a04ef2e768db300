"""``AutoencoderKL`` in torch alone: the same parameters under the same names, for machines without diffusers.

Only what `pipeline.model.autoencoder` uses: encoder and decoder as functions. tests/test_benchmarks compares
it with diffusers' class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CONFIG_NAMES = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "latent_channels",
    "norm_num_groups",
    "mid_block_add_attention",
    "use_quant_conv",
    "use_post_quant_conv",
)
STABLE_DIFFUSION: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "mid_block_add_attention": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
}
_EPSILON = 1e-6


class PlainVae(nn.Module):
    """Encoder and decoder of an ``AutoencoderKL`` with the given values of its config (`CONFIG_NAMES`)."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = SimpleNamespace(**{name: config[name] for name in CONFIG_NAMES})
        c = self.config
        shape = (
            tuple(c.block_out_channels),
            c.layers_per_block,
            c.norm_num_groups,
            c.mid_block_add_attention,
        )
        moments = 2 * c.latent_channels
        self.encoder = Encoder(c.in_channels, moments, *shape)
        self.decoder = Decoder(c.latent_channels, c.out_channels, *shape)
        self.quant_conv = nn.Conv2d(moments, moments, 1) if c.use_quant_conv else None
        self.post_quant_conv = (
            nn.Conv2d(c.latent_channels, c.latent_channels, 1) if c.use_post_quant_conv else None
        )


class Encoder(nn.Module):
    """Halves the image after every level but the last."""

    def __init__(
        self, n_in: int, n_out: int, widths: Sequence[int], layers: int, groups: int, attention: bool
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(n_in, widths[0], 3, padding=1)
        before = (widths[0], *widths)
        self.down_blocks = nn.ModuleList(
            Level(before[i], width, layers, groups, down=i < len(widths) - 1)
            for i, width in enumerate(widths)
        )
        self.mid_block = Middle(widths[-1], groups, attention)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], _EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], n_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x)
        return self.conv_out(functional.silu(self.conv_norm_out(x)))


class Decoder(nn.Module):
    """Doubles the image after every level but the last; has one more layer per level than the encoder."""

    def __init__(
        self, n_in: int, n_out: int, widths: Sequence[int], layers: int, groups: int, attention: bool
    ) -> None:
        super().__init__()
        widths = tuple(reversed(widths))
        self.conv_in = nn.Conv2d(n_in, widths[0], 3, padding=1)
        self.mid_block = Middle(widths[0], groups, attention)
        before = (widths[0], *widths)
        self.up_blocks = nn.ModuleList(
            Level(before[i], width, layers + 1, groups, up=i < len(widths) - 1)
            for i, width in enumerate(widths)
        )
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], _EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], n_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(functional.silu(self.conv_norm_out(x)))


class Level(nn.Module):
    """Residual blocks of one resolution, and what changes it."""

    def __init__(
        self, n_in: int, n_out: int, layers: int, groups: int, *, down: bool = False, up: bool = False
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(n_out if i else n_in, n_out, groups) for i in range(layers))
        if down:
            self.downsamplers = nn.ModuleList([_Resampler(n_out, stride=2)])
        if up:
            self.upsamplers = nn.ModuleList([_Resampler(n_out, stride=1)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        if hasattr(self, "downsamplers"):  # one pixel of padding, at the right and bottom only
            x = self.downsamplers[0].conv(functional.pad(x, (0, 1, 0, 1)))
        if hasattr(self, "upsamplers"):
            x = self.upsamplers[0].conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class _Resampler(nn.Module):
    """Holds a convolution under diffusers' name."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=stride, padding=2 - stride)


class Middle(nn.Module):
    """Two residual blocks, and one head of attention over all pixels between them where there is one."""

    def __init__(self, width: int, groups: int, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(width, width, groups) for _ in range(2))
        self.attentions = nn.ModuleList([Attention(width, groups)] if attention else [])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class Resnet(nn.Module):
    """Norm, SiLU, convolution, twice; a 1×1 shortcut where the number of channels changes."""

    def __init__(self, n_in: int, n_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, n_in, _EPSILON)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, n_out, _EPSILON)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(functional.silu(self.norm1(x)))
        return self.conv_shortcut(x) + self.conv2(functional.silu(self.norm2(inner)))


class Attention(nn.Module):
    """Self-attention over pixels with a residual connection."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, width, _EPSILON)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.group_norm(x).flatten(2).transpose(1, 2)
        found = functional.scaled_dot_product_attention(
            *(part(pixels)[:, None] for part in (self.to_q, self.to_k, self.to_v))
        )
        return x + self.to_out[0](found[:, 0]).transpose(1, 2).view_as(x)


def plain_copy(vae: Any) -> PlainVae:
    """The same function as diffusers' model, in torch alone."""
    copy = PlainVae({name: getattr(vae.config, name) for name in CONFIG_NAMES})
    copy.load_state_dict(vae.state_dict())
    return copy


def random_vae(config: Mapping[str, Any], seed: int) -> PlainVae:
    """Random parameters; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PlainVae(config)
