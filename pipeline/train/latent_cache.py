"""Targets of the warm-up: latents of all training views, encoded once, and that of white."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.model.autoencoder import Autoencoder
from pipeline.train.scratch_arrays import ScratchArrays
from pipeline.train.training_views import TrainingViews, over_white

ENCODE_BATCH = 32
"""Views that the encoder sees at a time."""


@dataclass(frozen=True)
class LatentCache:
    """Normalised latents while the autoencoder is frozen.

    Attributes:
        latents: [views of all objects, h·w, C], on the device or in a scratch file.
        background: [C, h, w] latent of white.
    """

    latents: Tensor
    background: Tensor


@torch.no_grad()
def encode_views(
    objects: Sequence[TrainingViews], autoencoder: Autoencoder, device: torch.device, arrays: ScratchArrays
) -> LatentCache:
    """Encode the training views of objects, in their order.

    Args:
        objects: Training views per object, all of one size.
        autoencoder: Lies on `device`.
        device: Where the latents are computed, and kept unless they are too large.
        arrays: Where they are kept.

    Raises:
        EnvironmentProblem: There is no room for a scratch file.
    """
    background = autoencoder.background_latent(*objects[0].rgba.shape[1:3])
    n_views = sum(len(views.rgba) for views in objects)
    shape = (n_views, background[0].numel(), len(background))
    table, in_file = arrays.empty("latents of the views", shape, np.float32)
    end = 0
    for views in objects:
        for start in range(0, len(views.rgba), ENCODE_BATCH):
            rgb = over_white(torch.from_numpy(views.rgba[start : start + ENCODE_BATCH]).to(device))
            latents = autoencoder.encode(rgb).flatten(2).transpose(1, 2)
            table[end : end + len(latents)] = latents.cpu().numpy()
            end += len(latents)
    stored = torch.from_numpy(table)
    return LatentCache(stored if in_file else stored.to(device), background)
