"""Configuration of the joint training; its values become `JointSettings`."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.model.config import GeometryConfig
from pipeline.train.schedule import Decay, Rates
from pipeline.train.settings import AutoencoderRecipe, JointSettings
from storage.content import ContentConfig


class AutoencoderConfig(ContentConfig):
    """The autoencoder: pretrained, or from scratch."""

    pretrained: str | None = Field(
        default=None, description="Folder or hub id of an AutoencoderKL; unset: scratch."
    )
    size: Literal["tiny", "small", "sd", "identity"] = Field(
        default="tiny",
        description="Architecture, from scratch; identity: none, RGB is rendered pixel by pixel (f = 1).",
    )
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

    @model_validator(mode="after")
    def _identity_has_no_settings(self) -> Self:
        if self.size == "identity":
            given = {"pretrained": self.pretrained, "steps": self.steps, "factor": self.factor}
            given["latent_channels"] = self.latent_channels
            for name, value in given.items():
                if value:
                    unset = "0" if name == "steps" else "null"
                    raise ValueError(f"size identity has nothing to train or choose: set {name} to {unset}")
            for name in ("batch_size", "crop_px", "learning_rate", "dtype"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"size identity is not trained: {name} means nothing, leave it away")
        elif self.steps == 0 and self.pretrained is None:
            raise ValueError("an autoencoder from scratch needs steps > 0")
        return self

    def recipe(self, seed: int) -> AutoencoderRecipe:
        """Values that AutoencoderTrainer takes."""
        return AutoencoderRecipe(
            self.steps, self.batch_size, self.learning_rate, seed, self.dtype, self.crop_px
        )


class WarmupConfig(ContentConfig):
    """Warm-up: latent loss alone, against latents that are encoded once."""

    steps: int = Field(default=4000, ge=0, description="Optimiser steps.")
    objects: int = Field(default=8, ge=1, description="Objects per step.")
    pixels: int = Field(default=512, ge=1, description="Latent pixels per object and step.")


class JointConfig(ContentConfig):
    """Joint training: all three losses, on whole views."""

    steps: int = Field(default=6000, ge=0, description="Optimiser steps.")
    objects: int = Field(default=8, ge=1, description="Objects per step.")
    views: int = Field(default=2, ge=1, description="Views per object and step.")
    crop_px: int = Field(default=0, ge=0, description="Side of windows around the object, pixels; 0: views.")
    ae_every: int = Field(default=1, ge=1, description="Every n-th window has the autoencoder's loss too.")
    lr_scale: float = Field(
        default=0.5,
        gt=0,
        description="Factor on the warm-up's learning rates of planes, codes and renderer, where rates.joint"
        " gives none.",
    )


class JointRatesConfig(ContentConfig):
    """Rates at the start of the joint phase that are not the warm-up's times joint.lr_scale."""

    micro: float | None = Field(default=None, gt=0, description="Micro planes.")
    coefficients: float | None = Field(default=None, gt=0, description="Coefficients.")
    base: float | None = Field(default=None, gt=0, description="Base planes.")
    renderer: float | None = Field(default=None, gt=0, description="Renderer's MLP.")


class RatesConfig(ContentConfig):
    """Adam's learning rates per group; they decay within the warm-up, and again within the joint phase."""

    later_fields: ClassVar[frozenset[str]] = frozenset({"joint", "decay", "milestones", "gamma"})

    micro: float = Field(default=1e-2, gt=0, description="Micro planes.")
    coefficients: float = Field(default=1e-2, gt=0, description="Coefficients.")
    base: float = Field(default=1e-2, gt=0, description="Base planes.")
    renderer: float = Field(default=1e-2, gt=0, description="Renderer's MLP.")
    autoencoder: float = Field(default=5e-4, gt=0, description="Encoder and decoder in the joint phase.")
    final: float = Field(
        default=0.1, gt=0, le=1, description="Exponential: rate at a phase's end, as a share of its start."
    )
    joint: JointRatesConfig = Field(
        default_factory=JointRatesConfig, description="Rates of the joint phase, where they differ."
    )
    decay: Literal["exponential", "multistep"] = Field(
        default="exponential", description="How rates fall within a phase."
    )
    milestones: tuple[float, ...] = Field(
        default=(0.4, 0.8), description="Multistep: where rates fall, as parts of the phase."
    )
    gamma: float = Field(default=0.3, gt=0, le=1, description="Multistep: factor at each milestone.")

    @field_validator("milestones")
    @classmethod
    def _inside_and_ascending(cls, milestones: tuple[float, ...]) -> tuple[float, ...]:
        if list(milestones) != sorted(set(milestones)) or not all(0 < part < 1 for part in milestones):
            raise ValueError("milestones are parts of a phase: ascending, between 0 and 1")
        return milestones

    @model_validator(mode="after")
    def _one_kind_of_decay(self) -> Self:
        unused = ("final",) if self.decay == "multistep" else ("milestones", "gamma")
        for name in unused:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} means nothing when decay is {self.decay}")
        return self

    def warmup_rates(self) -> Rates:
        """Rates at the start of the warm-up, in which the autoencoder is frozen."""
        return Rates(self.micro, self.coefficients, self.base, self.renderer)

    def joint_rates(self, lr_scale: float) -> Rates:
        """Rates at the start of the joint phase."""
        own = self.joint
        return Rates(
            micro=own.micro or self.micro * lr_scale,
            coefficients=own.coefficients or self.coefficients * lr_scale,
            base=own.base or self.base * lr_scale,
            renderer=own.renderer or self.renderer * lr_scale,
            autoencoder=self.autoencoder,
        )


class LossConfig(ContentConfig):
    """Weights of the losses (METHOD section 3)."""

    later_fields: ClassVar[frozenset[str]] = frozenset({"tv_warmup", "tv_joint"})

    latent: float = Field(default=1.0, ge=0, description="Rendered against encoded latents.")
    rgb: float = Field(default=1.0, ge=0, description="Decoded rendering against the view.")
    ae: float = Field(default=0.1, ge=0, description="Autoencoder's reconstruction against the view.")
    free: float = Field(default=0.1, ge=0, description="Opacity at random points outside the visual hull.")
    free_points: int = Field(default=512, ge=1, description="Such points per object and step.")
    tv_warmup: float = Field(
        default=0.0, ge=0, description="Total variation of the fused planes, averaged over objects, warm-up."
    )
    tv_joint: float = Field(default=0.0, ge=0, description="The same in the joint phase.")


class TrainConfig(ContentConfig):
    """What the shared components are and how they are trained. Every field changes content."""

    later_fields: ClassVar[frozenset[str]] = frozenset({"init_coefficients", "fine_samples"})

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
    f_mac: int = Field(default=22, ge=0, description="Channels of the base planes (0: micro only).")
    n_base: int = Field(default=50, ge=0, description="Base planes (M); 0: micro only.")
    width: int = Field(default=64, ge=1, description="Hidden units of the renderer.")
    init_scale: float = Field(default=0.1, gt=0, description="Standard deviation of initial planes.")
    init_coefficients: float | None = Field(
        default=None, gt=0, description="Standard deviation of initial coefficients; unset: 1/sqrt(n_base)."
    )
    samples: int = Field(
        default=16, ge=2, description="Samples per training ray, between entry to and exit from the hull."
    )
    fine_samples: int = Field(
        default=0, ge=0, description="Further samples per training ray, where the first ones found something."
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
    def _has_planes(self) -> Self:
        if (self.n_base == 0) != (self.f_mac == 0):
            raise ValueError(
                f"n_base {self.n_base} and f_mac {self.f_mac}: without base planes (micro only) both are 0"
            )
        if self.f_mic + self.f_mac == 0:
            raise ValueError("f_mic and f_mac are both 0: no planes would be left")
        return self

    @model_validator(mode="after")
    def _identity_has_one_loss(self) -> Self:
        """Without an autoencoder the latent loss is the RGB loss again, and there is nothing to rebuild."""
        if self.autoencoder.size == "identity":
            for name in ("latent", "ae"):
                if getattr(self.losses, name):
                    raise ValueError(
                        f"autoencoder.size identity has the RGB loss alone: set losses.{name} to 0"
                        " (losses.rgb is its weight)"
                    )
            if self.dtype != "float32":
                raise ValueError("dtype is the autoencoder's, and size identity has none: leave it away")
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
            init_coefficients=self.init_coefficients,
            n_samples=self.samples,
            n_fine=self.fine_samples,
            dilate=self.dilate,
            warmup_steps=self.warmup.steps,
            warmup_objects=self.warmup.objects,
            warmup_pixels=self.warmup.pixels,
            joint_steps=self.joint.steps,
            joint_objects=self.joint.objects,
            joint_views=self.joint.views,
            crop_px=self.joint.crop_px,
            ae_every=self.joint.ae_every,
            warmup_rates=self.rates.warmup_rates(),
            joint_rates=self.rates.joint_rates(self.joint.lr_scale),
            decay=Decay(self.rates.decay, self.rates.final, self.rates.milestones, self.rates.gamma),
            lambda_latent=self.losses.latent,
            lambda_rgb=self.losses.rgb,
            lambda_ae=self.losses.ae,
            lambda_free=self.losses.free,
            free_points=self.losses.free_points,
            tv_warmup=self.losses.tv_warmup,
            tv_joint=self.losses.tv_joint,
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
