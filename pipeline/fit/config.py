"""Configuration of a fit; its values become `FitSettings`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.fit.pace import Stopping
from pipeline.fit.settings import FitSettings
from pipeline.train.schedule import Decay, Rates
from storage.content import ContentConfig


class FitConfig(ContentConfig):
    """How objects are fitted to frozen shared components. Every field changes content."""

    later_fields: ClassVar[frozenset[str]] = frozenset(
        {
            "lr_rgb_micro",
            "lr_rgb_coefficients",
            "lr_rgb_final",
            "fine_samples",
            "levels",
            "beta1",
            "beta2",
            "lambda_tv",
            "stop_gain",
            "stop_factor",
            "stop_lowered",
        }
    )

    seed: int = Field(default=0, ge=0, description="Of random choices, together with each object's id.")
    dtype: Literal["float16", "float32"] = Field(
        default="float16", description="Stored type of the micro planes."
    )
    batch: int = Field(
        default=8,
        ge=0,
        description="Objects in one tensor step, which do not influence each other; 0 plans it from the"
        " device's memory.",
    )
    latent_steps: int = Field(default=1000, ge=0, description="Steps against latents that are encoded once.")
    latent_pixels: int = Field(default=512, ge=1, description="Latent pixels per object and step.")
    rgb_steps: int = Field(default=200, ge=0, description="Steps through the decoder, against whole views.")
    rgb_views: int = Field(default=2, ge=1, description="Views per object and RGB step.")
    crop_px: int = Field(default=0, ge=0, description="Side of windows in RGB steps, pixels; 0: whole views.")
    samples: int = Field(
        default=16, ge=2, description="Samples per ray, between entry to and exit from the visual hull."
    )
    fine_samples: int = Field(
        default=0, ge=0, description="Importance samples per ray besides, placed where the first ones weigh."
    )
    dilate: int = Field(
        default=1, ge=0, description="Growth of silhouettes before the hull is carved, latent pixels."
    )
    levels: int = Field(
        default=1, ge=1, le=4, description="Resolutions whose sum the micro planes are optimised as."
    )
    beta1: float = Field(default=0.9, ge=0, lt=1, description="Adam's decay of the gradient's mean.")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="Adam's decay of the gradient's square.")
    lr_micro: float = Field(default=1e-2, gt=0, description="Learning rate of micro planes.")
    lr_coefficients: float = Field(default=1e-2, gt=0, description="Learning rate of coefficients.")
    lr_rgb_scale: float = Field(
        default=0.3, gt=0, description="Factor on the rates in RGB steps, where lr_rgb_… gives none."
    )
    lr_final: float = Field(
        default=0.1, gt=0, le=1, description="Rate at the end of a phase, as a share of its start."
    )
    lr_rgb_micro: float | None = Field(default=None, gt=0, description="Rate of micro planes, RGB steps.")
    lr_rgb_coefficients: float | None = Field(
        default=None, gt=0, description="Rate of coefficients, RGB steps."
    )
    lr_rgb_final: float | None = Field(
        default=None, gt=0, le=1, description="lr_final of the RGB steps; unset: the same."
    )
    lambda_latent: float = Field(default=1.0, ge=0, description="Weight of the latent loss in RGB steps.")
    lambda_rgb: float = Field(default=1.0, ge=0, description="Weight of the RGB loss in RGB steps.")
    lambda_free: float = Field(default=0.1, ge=0, description="Weight of opacity outside the visual hull.")
    lambda_tv: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the micro planes' total variation: against fitting the training views at the"
        " cost of others.",
    )
    free_points: int = Field(
        default=256, ge=1, description="Random points outside the hull per object and step."
    )

    stop_gain: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share by which an object's loss has to fall from 20 steps to 20 steps; "
        "with less its rates are lowered, and in the end its phase ends. 0 takes all steps.",
    )
    stop_factor: float = Field(default=0.3, gt=0, lt=1, description="On an object's rates, to lower them.")
    stop_lowered: int = Field(default=2, ge=0, description="How often rates are lowered before a phase ends.")

    def settings(self) -> FitSettings:
        """Values that fit_objects takes."""
        names = set(FitSettings.__dataclass_fields__)
        values = {name: value for name, value in self.model_dump().items() if name in names}
        rgb_rates = Rates(
            self.lr_rgb_micro or self.lr_micro * self.lr_rgb_scale,
            self.lr_rgb_coefficients or self.lr_coefficients * self.lr_rgb_scale,
        )
        return FitSettings(
            n_samples=self.samples,
            n_fine=self.fine_samples,
            betas=(self.beta1, self.beta2),
            stopping=Stopping(self.stop_gain, self.stop_factor, self.stop_lowered),
            latent_rates=Rates(self.lr_micro, self.lr_coefficients),
            rgb_rates=rgb_rates,
            latent_decay=Decay(final=self.lr_final),
            rgb_decay=Decay(final=self.lr_rgb_final or self.lr_final),
            **values,
        )
