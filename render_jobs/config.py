"""Configuration of the render stage: what is drawn (content) apart from how long it may take (limits)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class RenderConfig(BaseModel):
    """What the images look like. Every field changes content and is part of the stage's hash.

    Attributes:
        views: Views per object.
        width: Image width in pixels.
        height: Image height in pixels.
        poses: Where the cameras stand; "hemisphere" is uniform over the upper hemisphere, seeded per object.
        radius_world: Distance of the cameras from the object's centre, in bounding-box diagonals.
        focal: Focal length in image widths.
        heldout_fraction: Part of the views that serves final metrics only; at least one view.
        seed: Seed of cameras and split.
        shading: "default" is base colour times a fixed light by the normal, free of noise and of black faces;
            "diffuse" is path-traced with two bounces.
        samples: Camera rays per pixel; None takes 8 for "default" and 16 for "diffuse".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    views: int = Field(default=160, ge=2, le=100_000)
    width: int = Field(default=128, ge=8, le=8192)
    height: int = Field(default=128, ge=8, le=8192)
    poses: Literal["hemisphere"] = "hemisphere"
    radius_world: float = Field(default=1.3, gt=0.5)
    focal: float = Field(default=1.02, gt=0.0)
    heldout_fraction: float = Field(default=0.1, ge=0.0, lt=1.0)
    seed: int = Field(default=0, ge=0)
    shading: Literal["default", "diffuse"] = "default"
    samples: int | None = Field(default=None, ge=1, le=65_536)

    def cycles_settings(self) -> dict[str, Any]:
        """Returns what the child process needs to know: size, shading, samples and bounces."""
        diffuse = self.shading == "diffuse"
        return {
            "width": self.width,
            "height": self.height,
            "shading": self.shading,
            "samples": self.samples or (16 if diffuse else 8),
            "bounces": 2 if diffuse else 0,
        }


class ExecutionLimits(BaseModel):
    """What one object may cost. Changes no content and is no part of any hash.

    Attributes:
        deadline_s: Wall-clock seconds that one object may take, from mesh to last view.
        startup_s: Wall-clock seconds that a Blender process may take to start.
        memory_bytes: Resident memory at which a Blender process is ended.
        objects_per_process: A Blender process is replaced after so many objects, against slow leaks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    deadline_s: float = Field(default=300.0, gt=0.0)
    startup_s: float = Field(default=180.0, gt=0.0)
    memory_bytes: int = Field(default=8 * 2**30, gt=0)
    objects_per_process: int = Field(default=1000, ge=1)
