"""Configuration of the render stage: what is drawn (content) apart from how long it may take (limits)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from storage.content import ContentConfig
from storage.redaction import check_url

Device = Literal["cpu", "cuda", "optix"]
PassName = Literal["depth", "normals"]

RENDERED_ONLY = (
    "poses",
    "front_azimuth_deg",
    "front_elevation_deg",
    "shared_rig",
    "cameras",
    "radius_world",
    "focal",
    "shading",
    "samples",
    "clipping",
    "passes",
)
"""Fields that mean nothing for views that exist already."""


class RenderConfig(ContentConfig):
    """What the images look like. Every field changes content and is part of the stage's hash."""

    later_fields: ClassVar[frozenset[str]] = frozenset(
        {"front_azimuth_deg", "front_elevation_deg", "shared_rig", "cameras", "clipping", "passes"}
    )

    views: int = Field(default=160, ge=2, le=100_000, description="Views per object.")
    width: int = Field(default=128, ge=8, le=8192, description="Image width in pixels.")
    height: int = Field(default=128, ge=8, le=8192, description="Image height in pixels.")
    poses: Literal["hemisphere", "sphere", "front", "file"] = Field(
        default="hemisphere",
        description="Where the cameras stand: uniform over the upper hemisphere, the sphere, or a patch"
        " before the front (+y), seeded per object; or as a file says.",
    )
    front_azimuth_deg: float = Field(
        default=45.0, gt=0.0, le=180.0, description="Poses front: largest angle to the left and right of +y."
    )
    front_elevation_deg: float = Field(
        default=30.0, ge=0.0, le=90.0, description="Poses front: largest angle above and below the horizon."
    )
    shared_rig: bool = Field(
        default=False, description="All objects have the same cameras and the same held-out views."
    )
    cameras: str | None = Field(
        default=None,
        description="Poses file: path or URL of a transforms.json; in a plan sha256:… of the stored copy.",
    )
    radius_world: float = Field(
        default=1.3, gt=0.5, description="Distance of the cameras in bounding-box diagonals."
    )
    focal: float = Field(default=1.02, gt=0.0, description="Focal length in image widths.")
    heldout_fraction: float = Field(
        default=0.1,
        ge=0.0,
        lt=1.0,
        description="Part of the views that serves final metrics only; at least one view.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the cameras and of the choice of held-out views.")
    shading: Literal["default", "diffuse"] = Field(
        default="default",
        description="default: base colour times fixed light by the normal, no noise; diffuse: path-traced.",
    )
    samples: int | None = Field(
        default=None,
        ge=1,
        le=65_536,
        description="Rays per pixel; unset: 8 for default, 16 for diffuse shading.",
    )
    clipping: Literal["fail", "allow"] = Field(
        default="fail",
        description="What an object that reaches the edge of an image means: a failure, or a warning.",
    )

    passes: tuple[PassName, ...] = Field(
        default=(),
        description="Further images per view: depth (distance along the ray), normals (world frame).",
    )

    @field_validator("passes")
    @classmethod
    def _one_order(cls, passes: tuple[PassName, ...]) -> tuple[PassName, ...]:
        """The order of the names and their repetition mean nothing, so they don't change the hash."""
        return tuple(sorted(set(passes)))

    @field_validator("cameras")
    @classmethod
    def _no_credentials(cls, cameras: str | None) -> str | None:
        return None if cameras is None else check_url(cameras)

    @model_validator(mode="before")
    @classmethod
    def _cameras_mean_file(cls, values: Any) -> Any:
        """A file of cameras says by itself what the poses are."""
        if isinstance(values, dict) and values.get("cameras") is not None:
            return {"poses": "file", **values}
        return values

    @model_validator(mode="after")
    def _one_kind_of_poses(self) -> Self:
        if self.poses == "file" and self.cameras is None:
            raise ValueError("poses file needs render.cameras: the path or URL of a transforms.json")
        if self.poses != "file" and self.cameras is not None:
            raise ValueError(f"render.cameras is given, so render.poses cannot be {self.poses}")
        return self

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
    """What one object may cost, and where. Part of no hash: content is what `RenderConfig` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    deadline_s: float = Field(
        default=300.0, gt=0.0, description="Seconds that one object may take, mesh to last view."
    )
    startup_s: float = Field(
        default=180.0, gt=0.0, description="Seconds that a Blender process may take to start."
    )
    memory_bytes: int = Field(
        default=8 * 2**30, gt=0, description="Resident memory at which a Blender process is ended."
    )
    device: Device = Field(
        default="cpu", description="Where Cycles renders; a GPU is used by one process at a time."
    )
    mesh_bytes: int = Field(
        default=2**30,
        gt=0,
        description="Largest mesh, material or texture file, and largest sum of a glTF's buffers, in bytes.",
    )
    texture_pixels: int = Field(
        default=2**26,
        gt=0,
        description="Largest texture in pixels; the material's colour stands in for a larger one.",
    )
    objects_per_process: int = Field(
        default=1000,
        ge=1,
        description="Objects after which a Blender process is replaced, against slow leaks.",
    )
