"""The baseline of bench_warmup: a warm-up step as most code writes it.

Whole views, every ray through the whole box; `grid_sample`, torch's own layers, coarse and importance samples
decoded once each and sorted together, one graph for the batch, and one dense torch Adam.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

PLANES = ((0, 1), (0, 2), (1, 2))


class PlainWarmup(nn.Module):
    """Planes, coefficients and decoder of n objects."""

    def __init__(self, n: int, resolution: int, f_mic: int, f_mac: int, n_base: int, width: int) -> None:
        super().__init__()
        shape = (resolution, resolution)
        self.micro = nn.Parameter(0.1 * torch.randn(n, 3, f_mic, *shape))
        self.base = nn.Parameter(0.1 * torch.randn(n_base, 3, f_mac, *shape))
        self.coefficients = nn.Parameter(torch.randn(n, n_base) / n_base**0.5)
        self.decoder = nn.Sequential(nn.Linear(f_mic + f_mac, width), nn.Softplus(), nn.Linear(width, 5))

    def decode(self, planes: Tensor, points: Tensor, box_half: float) -> tuple[Tensor, Tensor]:
        """Raw density [B, R, S] and colour [B, R, S, 4] at points [B, R, S, 3]."""
        B, R, S = points.shape[:3]
        flat = points.view(B, R * S, 3) / box_half
        grid = torch.stack([flat[..., list(pair)] for pair in PLANES], dim=1).view(B * 3, 1, R * S, 2)
        read = functional.grid_sample(planes.flatten(0, 1), grid, align_corners=False)
        features = read.view(B, 3, -1, R * S).sum(1).transpose(1, 2)
        out = self.decoder(features).view(B, R, S, 5)
        return out[..., 0], torch.sigmoid(out[..., 1:]) * 1.002 - 0.001

    def forward(
        self, rows: Tensor, origins: Tensor, directions: Tensor, span: tuple[float, float], n: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Premultiplied latents [B, R, 4] and opacities [B, R] of views of objects ``rows``."""
        macro = torch.einsum("bm,mpfkl->bpfkl", self.coefficients[rows], self.base)
        planes = torch.cat([self.micro[rows], macro], dim=2)
        near, far = span
        parts = (torch.arange(n[0]) + torch.rand(*directions.shape[:2], n[0])) / n[0]
        depths = near + (far - near) * parts
        raw, colour = self.decode(planes, _points(origins, directions, depths), 1.0)
        fine = _importance(_weights(raw, depths).detach(), depths, n[1])
        fine_raw, fine_colour = self.decode(planes, _points(origins, directions, fine), 1.0)
        depths, order = torch.sort(torch.cat([depths, fine], dim=-1), dim=-1)
        raw = torch.cat([raw, fine_raw], dim=-1).gather(-1, order)
        colour = torch.cat([colour, fine_colour], dim=-2)
        colour = colour.gather(-2, order[..., None].expand_as(colour))
        weights = _weights(raw, depths)
        value = (weights[..., None] * (colour[..., 1:, :] + colour[..., :-1, :]) / 2).sum(-2)
        return value, weights.sum(-1)


def _points(origins: Tensor, directions: Tensor, depths: Tensor) -> Tensor:
    return origins[:, None, None] + directions[:, :, None] * depths[..., None]


def _weights(raw: Tensor, depths: Tensor) -> Tensor:
    sigma = functional.softplus((raw[..., 1:] + raw[..., :-1]) / 2 - 1)
    alpha = 1 - torch.exp(-sigma * (depths[..., 1:] - depths[..., :-1]))
    trans = torch.cumprod(torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha + 1e-10], -1), -1)
    return alpha * trans[..., :-1]


def _importance(weights: Tensor, depths: Tensor, n: int) -> Tensor:
    mass = weights + 1e-5
    cdf = functional.pad(torch.cumsum(mass / mass.sum(-1, keepdim=True), -1), (1, 0))
    u = (torch.arange(n) + torch.rand(*depths.shape[:-1], n)) / n
    upper = torch.searchsorted(cdf, u, right=True).clamp(1, cdf.shape[-1] - 1)
    low, high = cdf.gather(-1, upper - 1), cdf.gather(-1, upper)
    start, end = depths.gather(-1, upper - 1), depths.gather(-1, upper)
    return start + (u - low) / (high - low) * (end - start)
