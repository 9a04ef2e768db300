"""Configuration of the joint training; its values become `JointSettings`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.model.config import GeometryConfig
from pipeline.train.autoencoder import AutoencoderRecipe
from pipeline.train.settings import JointSettings


class AutoencoderConfig(BaseModel):
    """The autoencoder: pretrained, or from scratch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pretrained: str | None = Field(
        default=None, description="Folder or hub id of an AutoencoderKL; unset: scratch."
    )
    size: Literal["tiny", "small", "sd"] = Field(default="tiny", description="Architecture, from scratch.")
    latent_channels: int | None = Field(
        default=None, ge=1, description="Overrides the size's latent channels."
    )
    steps: int = Field(default=4000, ge=0, description="Steps of training it alone, before the warm-up.")
    factor: int | None = Field(
        default=None, ge=1, description="Overrides the size's pixels per latent pixel (f)."
    )
    batch_size: int = Field(default=16, ge=1, description="Crops per step.")
    crop_px: int = Field(
        default=64, ge=0, description="Side of square crops around the object, pixels; 0: views."
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="Peak learning rate.")
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="bfloat16 is autocast.")

    @model_validator(mode="after")
    def _pretrained_has_its_own_shape(self) -> Self:
        for name in ("latent_channels", "factor"):
            if self.pretrained is not None and getattr(self, name) is not None:
                raise ValueError(f"{name} is for an autoencoder from scratch: {self.pretrained} has its own")
        return self

    def recipe(self, seed: int) -> AutoencoderRecipe:
        """Values that AutoencoderTrainer takes."""
        return AutoencoderRecipe(
            self.steps, self.batch_size, self.learning_rate, seed, self.dtype, self.crop_px
        )


class WarmupConfig(BaseModel):
    """Warm-up: latent loss alone, against latents that are encoded once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=4000, ge=0, description="Optimiser steps.")
    objects: int = Field(default=8, ge=1, description="Objects per step.")
    pixels: int = Field(default=512, ge=1, description="Latent pixels per object and step.")


class JointConfig(BaseModel):
    """Joint training: all three losses, on whole views."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=6000, ge=0, description="Optimiser steps.")
    objects: int = Field(default=8, ge=1, description="Objects per step.")
    views: int = Field(default=2, ge=1, description="Views per object and step.")
    crop_px: int = Field(default=0, ge=0, description="Side of windows around the object, pixels; 0: views.")
    ae_every: int = Field(default=1, ge=1, description="Every n-th window has the autoencoder's loss too.")
    lr_scale: float = Field(
        default=0.5, gt=0, description="Factor on the learning rates of planes, codes and renderer."
    )


class RatesConfig(BaseModel):
    """Adam's learning rates; within the warm-up and within the joint phase they decay exponentially."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    micro: float = Field(default=1e-2, gt=0, description="Micro planes.")
    coefficients: float = Field(default=1e-2, gt=0, description="Coefficients.")
    base: float = Field(default=1e-2, gt=0, description="Base planes.")
    renderer: float = Field(default=1e-2, gt=0, description="Renderer's MLP.")
    autoencoder: float = Field(default=5e-4, gt=0, description="Encoder and decoder in the joint phase.")
    final: float = Field(
        default=0.1, gt=0, le=1, description="Rate at a phase's end, as a share of its start."
    )


class LossConfig(BaseModel):
    """Weights of the losses (METHOD section 3)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latent: float = Field(default=1.0, ge=0, description="Rendered against encoded latents.")
    rgb: float = Field(default=1.0, ge=0, description="Decoded rendering against the view.")
    ae: float = Field(default=0.1, ge=0, description="Autoencoder's reconstruction against the view.")
    free: float = Field(default=0.1, ge=0, description="Opacity at random points outside the visual hull.")
    free_points: int = Field(default=512, ge=1, description="Such points per object and step.")


class TrainConfig(BaseModel):
    """What the shared components are and how they are trained. Every field changes content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    objects: int = Field(
        default=500, ge=1, description="Objects of the joint training (N1); fewer if there are fewer."
    )
    seed: int = Field(default=0, ge=0, description="Of the choice of objects, initial values and batches.")
    autoencoder: AutoencoderConfig = Field(
        default_factory=AutoencoderConfig, description="Encoder and decoder."
    )
    geometry: GeometryConfig = Field(
        default_factory=GeometryConfig, description="Plane box and rendering samples."
    )
    resolution: int = Field(default=64, ge=2, description="Texels per side of a plane (K).")
    f_mic: int = Field(default=10, ge=0, description="Channels of the micro planes (0: ULW).")
    f_mac: int = Field(default=22, ge=1, description="Channels of the base planes.")
    n_base: int = Field(default=50, ge=1, description="Base planes (M).")
    width: int = Field(default=64, ge=1, description="Hidden units of the renderer.")
    init_scale: float = Field(default=0.1, gt=0, description="Standard deviation of initial planes.")
    samples: int = Field(
        default=16, ge=2, description="Samples per training ray, between entry to and exit from the hull."
    )
    dilate: int = Field(
        default=1, ge=0, description="Growth of silhouettes before the hull is carved, latent pixels."
    )
    warmup: WarmupConfig = Field(default_factory=WarmupConfig, description="First phase of the planes.")
    joint: JointConfig = Field(default_factory=JointConfig, description="Second phase of the planes.")
    rates: RatesConfig = Field(default_factory=RatesConfig, description="Learning rates.")
    losses: LossConfig = Field(default_factory=LossConfig, description="Loss weights.")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Arithmetic of the autoencoder, joint phase."
    )

    @model_validator(mode="after")
    def _trains_something(self) -> Self:
        if self.autoencoder.steps == 0 and self.autoencoder.pretrained is None:
            raise ValueError("an autoencoder from scratch needs autoencoder.steps > 0")
        return self

    def settings(self) -> JointSettings:
        """Values that JointTrainer takes."""
        return JointSettings(
            autoencoder=self.autoencoder.recipe(self.seed),
            geometry=self.geometry.values(),
            resolution=self.resolution,
            f_mic=self.f_mic,
            f_mac=self.f_mac,
            n_base=self.n_base,
            width=self.width,
            init_scale=self.init_scale,
            n_samples=self.samples,
            dilate=self.dilate,
            warmup_steps=self.warmup.steps,
            warmup_objects=self.warmup.objects,
            warmup_pixels=self.warmup.pixels,
            joint_steps=self.joint.steps,
            joint_objects=self.joint.objects,
            joint_views=self.joint.views,
            crop_px=self.joint.crop_px,
            ae_every=self.joint.ae_every,
            lr_micro=self.rates.micro,
            lr_coefficients=self.rates.coefficients,
            lr_base=self.rates.base,
            lr_renderer=self.rates.renderer,
            lr_autoencoder=self.rates.autoencoder,
            lr_joint_scale=self.joint.lr_scale,
            lr_final=self.rates.final,
            lambda_latent=self.losses.latent,
            lambda_rgb=self.losses.rgb,
            lambda_ae=self.losses.ae,
            lambda_free=self.losses.free,
            free_points=self.losses.free_points,
            dtype=self.dtype,
        )

    @property
    def total_steps(self) -> int:
        """Steps of all phases."""
        return self.autoencoder.steps + self.warmup.steps + self.joint.steps

    def shortened(self, steps: int) -> TrainConfig:
        """The same training with at most so many steps per phase, to measure a step's time."""
        return self.model_copy(
            update={
                "autoencoder": self.autoencoder.model_copy(
                    update={"steps": min(steps, self.autoencoder.steps)}
                ),
                "warmup": self.warmup.model_copy(update={"steps": min(steps, self.warmup.steps)}),
                "joint": self.joint.model_copy(update={"steps": min(steps, self.joint.steps)}),
            }
        )
