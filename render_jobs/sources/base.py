"""What a source of objects is: it lists objects, and brings one object's mesh to a local folder.

A source's list is a pure function of its specification, the classes asked for and the seed; `fetch` may be
called in another process on another machine. Which axes of its meshes point up and to the front is stated in
the source's module and travels with every mesh.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from render_jobs.mesh_file import MeshInput
from storage.errors import ConfigError


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


class SourceSpec(BaseModel):
    """How to make a source; stored in the plan.

    Attributes:
        kind: Which source.
        path: Folder or fsspec URL that holds the meshes; only for sources that read files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["procedural", "shapenet"]
    path: str | None = None

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
        return self


def make_source(spec: dict[str, Any]) -> Source:
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
    from render_jobs.sources.shapenet import ShapeNetSource

    assert checked.path is not None
    return ShapeNetSource(checked.path)


def _one_line(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    return f"source{'.' + place if place else ''}: {error['msg'].removeprefix('Value error, ')}"
