"""Values of the joint training, as `pipeline.train.joint` takes them. No pydantic, as in all maths files."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.model.geometry import Geometry
from pipeline.train.schedule import Decay, Rates


@dataclass(frozen=True)
class AutoencoderRecipe:
    """How an autoencoder is trained.

    Attributes:
        steps: Optimiser steps in all.
        batch_size: Crops per step.
        learning_rate: Peak of the schedule.
        seed: Of the batches.
        dtype: ``float32`` or ``bfloat16``: autocast, 20 times slower on processors that only emulate it.
        crop_px: Side of the square crops; 0 for whole views.
        latent_noise: Standard deviation of noise on raw latents in training; the decoder learns to bear it.
    """

    steps: int = 600
    batch_size: int = 16
    learning_rate: float = 1e-3
    seed: int = 0
    dtype: str = "float32"
    crop_px: int = 64
    latent_noise: float = 0.0


@dataclass(frozen=True)
class JointSettings:
    """Values of the joint training; their meaning and units stand in `pipeline.train.config`."""

    autoencoder: AutoencoderRecipe
    geometry: Geometry = field(default_factory=Geometry)
    resolution: int = 32
    f_mic: int = 8
    f_mac: int = 24
    n_base: int = 8
    width: int = 64
    init_scale: float = 0.1
    init_coefficients: float | None = None
    n_samples: int = 16
    n_fine: int = 0
    dilate: int = 1
    warmup_steps: int = 400
    warmup_objects: int = 8
    warmup_pixels: int = 512
    joint_steps: int = 300
    joint_objects: int = 8
    joint_views: int = 2
    crop_px: int = 0
    ae_every: int = 1
    warmup_rates: Rates = field(default_factory=Rates)
    joint_rates: Rates = field(default_factory=lambda: Rates(5e-3, 5e-3, 5e-3, 5e-3, 5e-4))
    decay: Decay = field(default_factory=Decay)
    lambda_latent: float = 1.0
    lambda_rgb: float = 1.0
    lambda_ae: float = 0.1
    lambda_free: float = 0.1
    free_points: int = 512
    tv_warmup: float = 0.0
    tv_joint: float = 0.0
    dtype: str = "float32"
