"""Where planes are and how rays are sampled: values alone, so that a configuration is read without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Axes = Literal["xyz", "eg3d"]


@dataclass(frozen=True)
class Geometry:
    """Where the planes are and how rays are sampled when nothing about the object is known.

    Attributes:
        box_half: Planes span [-box_half, box_half]³, world units.
        near: First distance along a ray, world units.
        far: Last distance along a ray, world units.
        clip_radius: Rays are clipped to this sphere around the origin, world units; None clips to the box
        only.
        axes: "xyz" or "eg3d", see `pipeline.model.planes`.
        n_coarse: Stratified samples per ray.
        n_fine: Importance samples per ray.
        supersample: s; s×s rays per latent pixel.
        sigma_scale: Factor on the density. The paper has 1; more makes thin opaque surfaces quicker to learn.
    """

    box_half: float = 0.55
    near: float = 0.75
    far: float = 1.85
    clip_radius: float | None = 0.52
    axes: Axes = "xyz"
    n_coarse: int = 48
    n_fine: int = 48
    supersample: int = 1
    sigma_scale: float = 1.0

    def to_dict(self) -> dict[str, object]:
        """Values as plain JSON types."""
        return asdict(self)
