"""Configuration of the planes' geometry and of rendering; its values become `Geometry`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.model.geometry import Geometry


class GeometryConfig(BaseModel):
    """Where the planes are, and how a stored fit is rendered. Stored with the shared components."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    box_half: float = Field(default=0.55, gt=0, description="Planes span ±box_half, world units.")
    near: float = Field(default=0.75, ge=0, description="First distance along a ray, world units.")
    far: float = Field(default=1.85, gt=0, description="Last distance along a ray, world units.")
    clip_radius: float | None = Field(
        default=0.52, gt=0, description="Rays are clipped to this sphere, world units; null: box."
    )
    axes: Literal["xyz", "eg3d"] = Field(
        default="xyz", description="Plane axes; eg3d repeats the released code's (z, x)."
    )
    n_coarse: int = Field(default=48, ge=2, description="Stratified samples per rendered ray.")
    n_fine: int = Field(default=48, ge=0, description="Importance samples per rendered ray.")
    supersample: int = Field(default=1, ge=1, description="Rays per latent pixel along a side.")
    sigma_scale: float = Field(default=1.0, gt=0, description="Factor on the density; the paper has 1.")

    @model_validator(mode="after")
    def _near_before_far(self) -> Self:
        if self.near >= self.far:
            raise ValueError(f"near {self.near} must be less than far {self.far}")
        return self

    def values(self) -> Geometry:
        """Values that renderer and trainers take."""
        return Geometry(**self.model_dump())
