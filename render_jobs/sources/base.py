"""What a source of objects is: it lists objects, and brings one object's mesh to a local folder.

A source's list is a pure function of its specification, the classes asked for and the seed; `fetch` may be
called in another process on another machine. Which axes of its meshes point up and to the front is stated in
the source's module and travels with every mesh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from render_jobs.config import RenderConfig
from render_jobs.mesh_file import MeshInput
from render_jobs.normalize import Axis
from storage.errors import ConfigError
from storage.records import ObjectViews
from storage.redaction import check_url

if TYPE_CHECKING:
    from render_jobs.sources.mesh_cache import MeshCache


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

    @property
    def fingerprint(self) -> str:
        """Hash of the input's content."""


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
            EnvironmentProblem: The whole source is not there (any more).
            TransientError: A fault of the disk or the connection that may go away.
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
            EnvironmentProblem: The whole source is not there (any more).
            TransientError: A fault of the disk or the connection that may go away.
        """


SourceKind = Literal["procedural", "shapenet", "folder", "morphable", "fused-planes", "nerf"]
KINDS: tuple[str, ...] = get_args(SourceKind)
VIEWS_KINDS = frozenset({"fused-planes", "nerf"})
"""Sources of views; all others are sources of meshes."""
# Which settings a kind understands besides its own name, and whether it cannot do without a path.
_SETTINGS: dict[str, set[str]] = {
    "procedural": set(),
    "shapenet": {"path", "up", "front"},
    "folder": {"path", "up", "front", "class_name"},
    "morphable": {"path", "up", "front", "components", "coefficient_sigma", "expression"},
    "fused-planes": {"path", "normalize"},
    "nerf": {"path", "normalize"},
}
NEEDS_PATH: dict[str, str] = {
    "shapenet": "the folder that holds <synset>/<id>/…",
    "folder": "a folder of meshes, one mesh, or a glob such as '/data/**/*.glb'",
    "fused-planes": "the folder that holds dataset_map.json",
    "nerf": "a folder with transforms.json, or a folder of such folders",
}
_RESTRICTIVE_TERMS: dict[str, str] = {
    "shapenet": "ShapeNet's terms of use are for non-commercial research and teaching and restrict passing"
    " its models on, and pictures of them may be covered",
    "morphable": "face models mostly come with a licence for non-commercial research that restricts passing"
    " on what is made with them",
}


def restrictive_terms(source: dict[str, Any]) -> str | None:
    """Returns how terms may restrict passing on what shows a source's objects, None where none are known.

    Generated and built-in meshes (no path) have none; those of a user's own folder are the user's to know.

    Args:
        source: Values of `SourceSpec`, as the plan holds them.
    """
    return _RESTRICTIVE_TERMS.get(source.get("kind", "")) if source.get("path") else None


class SourceSpec(BaseModel):
    """How to make a source; stored in the plan. A field that is None takes the source's own default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: SourceKind
    path: str | None = Field(
        default=None,
        description="Folder or fsspec URL of the meshes or views, a glob (folder), or the file of the model "
        "(morphable; unset: a built-in synthetic head).",
    )
    up: Axis | None = Field(
        default=None, description="Axis of the files that points up: x, -x, y, -y, z, -z."
    )
    front: Axis | None = Field(default=None, description="Axis of the files that points to the front.")
    class_name: str | None = Field(
        default=None,
        min_length=1,
        description="folder: one class for all meshes; unset: the first sub-folder.",
    )
    components: int | None = Field(
        default=None, ge=1, description="morphable: components of each linear model; unset: all."
    )
    coefficient_sigma: float | None = Field(
        default=None,
        ge=0.0,
        le=10.0,
        description="morphable: scale of the coefficients, in standard deviations; unset: 1.",
    )
    expression: bool | None = Field(
        default=None, description="morphable: draw an expression, too, where the model has any; unset: no."
    )
    normalize: Literal["cameras", "none"] | None = Field(
        default=None,
        description="Views that exist: cameras moves and scales their world so that what the cameras look at "
        "fits ours, none keeps it; unset: none for fused-planes, and for nerf cameras unless fpipe exported "
        "the views.",
    )

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        """Local paths become absolute: a task may run in another folder. No URL carries credentials."""
        if path is None or "://" in path:
            return None if path is None else check_url(path)
        return str(Path(path).expanduser().absolute())

    @model_validator(mode="after")
    def _settings_of_the_kind(self) -> SourceSpec:
        if self.kind in NEEDS_PATH and not self.path:
            raise ValueError(f"source {self.kind} needs a path: {NEEDS_PATH[self.kind]}")
        for name in sorted(set().union(*_SETTINGS.values()) - _SETTINGS[self.kind]):
            if getattr(self, name) is not None:
                raise ValueError(f"source {self.kind} takes no {name}")
        return self


def make_source(spec: dict[str, Any], cache: MeshCache | None = None) -> Source | ViewsSource:
    """Makes the source that a specification describes.

    Args:
        spec: Values of `SourceSpec`.
        cache: Keeps what is fetched from afar.

    Raises:
        ConfigError: Unknown kind or key, a path where none belongs, or contradicting axes.
    """
    try:
        checked = SourceSpec.model_validate(spec)
    except ValidationError as error:
        raise ConfigError("; ".join(_one_line(e) for e in error.errors())) from error
    path, up, front = checked.path or "", checked.up, checked.front
    if checked.kind == "procedural":
        from render_jobs.sources.procedural import ProceduralSource

        return ProceduralSource()
    if checked.kind in VIEWS_KINDS:
        from render_jobs.sources.views import make_views_source

        return make_views_source(checked.kind, path, checked.normalize)
    if checked.kind == "shapenet":
        from render_jobs.sources.shapenet import ShapeNetSource

        return ShapeNetSource(path, up, front, cache)
    if checked.kind == "folder":
        from render_jobs.sources.folder import FolderSource

        return FolderSource(path, up, front, checked.class_name, cache)
    from render_jobs.sources.morphable import MorphableSource

    sigma = 1.0 if checked.coefficient_sigma is None else checked.coefficient_sigma
    return MorphableSource(checked.path, up, front, checked.components, sigma, bool(checked.expression))


def _one_line(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    return f"source{'.' + place if place else ''}: {error['msg'].removeprefix('Value error, ')}"
