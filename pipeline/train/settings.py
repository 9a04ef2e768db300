"""Values of the joint training, as `pipeline.train.joint` takes them. No pydantic, as in all maths files."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.model.renderer import Geometry
from pipeline.train.autoencoder import AutoencoderRecipe


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
    lr_micro: float = 1e-2
    lr_coefficients: float = 1e-2
    lr_base: float = 1e-2
    lr_renderer: float = 1e-2
    lr_autoencoder: float = 5e-4
    lr_joint_scale: float = 0.5
    lr_final: float = 0.1
    lambda_latent: float = 1.0
    lambda_rgb: float = 1.0
    lambda_ae: float = 0.1
    lambda_free: float = 0.1
    free_points: int = 512
    dtype: str = "float32"
