"""What a source of objects is: it lists objects, and brings one object's mesh to a local folder.

A source's list is a pure function of its specification, the classes asked for and the seed; `fetch` may be
called in another process on another machine. Which axes of its meshes point up and to the front is stated in
the source's module and travels with every mesh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from render_jobs.config import RenderConfig
from render_jobs.mesh_file import MeshInput
from storage.errors import ConfigError
from storage.records import ObjectViews


@dataclass(frozen=True)
class ObjectEntry:
    """One object that a source offers.

    Attributes:
        object_id: Unique within the dataset.
        class_name: Class name, see `synsets`.
        location: Where the source finds the object, relative to the source.
        fingerprint: Hash of the input's content, as cheaply as the source can give it.
    """

    object_id: str
    class_name: str
    location: str
    fingerprint: str


class ObjectLocation(Protocol):
    """What `fetch` needs to know; `ObjectEntry` and the plan's rows both have it."""

    @property
    def object_id(self) -> str:
        """Unique name of the object."""

    @property
    def class_name(self) -> str:
        """Class name."""

    @property
    def location(self) -> str:
        """Where the source finds the object."""


class Source(Protocol):
    """A family of objects."""

    name: str

    def list(self, classes: dict[str, int | None], seed: int) -> list[ObjectEntry]:
        """Lists the objects of some classes.

        Args:
            classes: Class name or synset → how many, None for all. An empty dict asks for every class.
            seed: Chooses which ones, where there are more than asked for.

        Raises:
            UsageError: Unknown class, missing folder, or fewer objects than asked for.
        """

    def fetch(self, entry: ObjectLocation, folder: Path) -> MeshInput:
        """Makes the object's mesh available as a local file.

        Args:
            entry: The object.
            folder: An existing empty folder that may be used; a local source may return a path outside it.

        Raises:
            FileNotFoundError: The input is not there (any more).
            TransientError: A fault of the connection that may go away.
        """


class ViewsSize(NamedTuple):
    """What a source of views finds in its files: views per object, and their size in pixels."""

    n_views: int
    height: int
    width: int


@runtime_checkable
class ViewsSource(Protocol):
    """A family of objects whose views exist already, so that nothing is rendered."""

    name: str

    def list(self, classes: dict[str, int | None], seed: int) -> list[ObjectEntry]:
        """Lists the objects of some classes; see `Source.list`."""

    def measure(self, entries: Sequence[ObjectEntry]) -> ViewsSize:
        """Returns the most common number of views of listed objects, and the size of the first one's.

        Raises:
            UsageError: No object has readable views.
        """

    def load(self, entry: ObjectLocation, config: RenderConfig) -> tuple[ObjectViews, dict[str, Any]]:
        """Reads the views of one object.

        Args:
            entry: The object.
            config: Number and size of views, and how many are held out where the data does not say.

        Returns:
            The views; and what is worth recording, `warnings` among it.

        Raises:
            RenderFailure: The object has no usable views.
            TransientError: A fault of the connection that may go away.
        """


VIEWS_KINDS = frozenset({"fused-planes", "nerf"})
"""Sources of views; all others are sources of meshes."""


class SourceSpec(BaseModel):
    """How to make a source; stored in the plan.

    Attributes:
        kind: Which source.
        path: Folder or fsspec URL that holds the meshes or views; only for sources that read files.
        normalize: For views: "cameras" moves and scales the files' world so that what their cameras look at
            fits ours, "none" keeps it; unset: "none" for fused-planes, and for nerf "cameras" unless fpipe
            exported the views.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["procedural", "shapenet", "fused-planes", "nerf"]
    path: str | None = None
    normalize: Literal["cameras", "none"] | None = Field(
        default=None, description="How the world of views that exist is brought into ours."
    )

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        """Local paths become absolute, because a task may run in another folder."""
        if path is None or "://" in path:
            return path
        return str(Path(path).expanduser().absolute())

    @model_validator(mode="after")
    def _path_where_needed(self) -> SourceSpec:
        if self.kind == "shapenet" and not self.path:
            raise ValueError("source shapenet needs a path: the folder that holds <synset>/<id>/…")
        if self.kind == "procedural" and self.path:
            raise ValueError("source procedural takes no path")
        if self.kind in VIEWS_KINDS and not self.path:
            raise ValueError(f"source {self.kind} needs a path (--path): the folder of the views")
        if self.normalize and self.kind not in VIEWS_KINDS:
            raise ValueError(f"normalize is for views that exist; meshes of source {self.kind} always are")
        return self


def make_source(spec: dict[str, Any]) -> Source | ViewsSource:
    """Makes the source that a specification describes.

    Raises:
        ConfigError: Unknown kind or key, or a path where none belongs.
    """
    try:
        checked = SourceSpec.model_validate(spec)
    except ValidationError as error:
        raise ConfigError("; ".join(_one_line(e) for e in error.errors())) from error
    if checked.kind == "procedural":
        from render_jobs.sources.procedural import ProceduralSource

        return ProceduralSource()
    assert checked.path is not None
    if checked.kind in VIEWS_KINDS:
        from render_jobs.sources.views import make_views_source

        return make_views_source(checked.kind, checked.path, checked.normalize)
    from render_jobs.sources.shapenet import ShapeNetSource

    return ShapeNetSource(checked.path)


def _one_line(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    return f"source{'.' + place if place else ''}: {error['msg'].removeprefix('Value error, ')}"
