"""The procedural family as a source: names of objects, the list, and the writing of one object."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from render_jobs.mesh_file import MeshInput
from render_jobs.sources.base import ObjectEntry, ObjectLocation
from render_jobs.sources.procedural.cabinets import build_cabinet
from render_jobs.sources.procedural.cars import build_car
from render_jobs.sources.procedural.chairs import build_chair
from render_jobs.sources.procedural.draw import GENERATOR_VERSION
from render_jobs.sources.procedural.mesh import Mesh
from render_jobs.sources.procedural.obj import write_mesh
from render_jobs.sources.procedural.sofas import build_sofa
from render_jobs.sources.procedural.speakers import build_speaker
from render_jobs.sources.synsets import SYNSETS, class_of
from storage.errors import UsageError

_BUILDERS: dict[str, Callable[[int], Mesh]] = {
    "car": build_car,
    "sofa": build_sofa,
    "cabinet": build_cabinet,
    "speaker": build_speaker,
    "chair": build_chair,
}
CLASSES: dict[str, str] = {name: SYNSETS[name] for name in _BUILDERS}
"""Class name → synset of every class that the family has."""


def object_id(class_name: str, k: int) -> str:
    """The id of object k of a class, such as "car-000012"."""
    return f"{class_name}-{k:06d}"


def parse_object_id(text: str) -> tuple[str, int]:
    """Class name and number of an object id.

    Raises:
        UsageError: If no object has this id.
    """
    class_name, dash, number = text.rpartition("-")
    if (
        not dash
        or class_name not in CLASSES
        or not number.isdecimal()
        or object_id(class_name, int(number)) != text
    ):
        raise UsageError(f"{text!r} names no procedural object: expected e.g. {object_id('car', 12)!r}")
    return class_name, int(number)


def build(class_name: str, k: int) -> Mesh:
    """Object k of a class, in its own units; `write_object` normalises it.

    Raises:
        UsageError: If the class is unknown or k negative.
    """
    if class_name not in _BUILDERS:
        raise UsageError(f"source procedural has no class {class_name!r}, only {', '.join(_BUILDERS)}")
    if k < 0:
        raise UsageError(f"object numbers start at 0, got {k}")
    return _BUILDERS[class_name](k)


def write_object(class_name: str, k: int, folder: Path) -> Path:
    """Writes object k of a class as `<folder>/<synset>/<id>/models/model_normalized.{obj,mtl}`.

    Returns:
        The path of the .obj file.

    Raises:
        UsageError: If the class is unknown or k negative.
        OSError: If the folder cannot be written.
    """
    mesh = build(class_name, k)
    name = object_id(class_name, k)
    title = f"{name}, fpipe procedural source, version {GENERATOR_VERSION}: y up, front along -z"
    return write_mesh(mesh, folder / CLASSES[class_name] / name / "models", title)


class ProceduralSource:
    """The procedural family; see the package's first lines for its frame and guarantees."""

    name = "procedural"

    def list(self, classes: dict[str, int | None], seed: int) -> list[ObjectEntry]:
        """Lists the first n objects of each class asked for.

        The family has no end, so "all" has no meaning here, and which n objects there are does not depend on
        `seed`: a dataset that grows keeps those it has.

        Raises:
            UsageError: Unknown class, or no count given.
        """
        if not classes:
            raise UsageError(
                f"source procedural is unlimited: say how many of which class, e.g. car:64 ({_known()})"
            )
        entries = []
        for asked, count in classes.items():
            class_name = class_of(asked)
            if class_name not in CLASSES:
                raise UsageError(f"source procedural has no class {asked!r} ({_known()})")
            if count is None:
                raise UsageError(f"source procedural is unlimited: say how many, e.g. {asked}:64")
            if count < 0:
                raise UsageError(f"source procedural cannot give {count} objects of {asked!r}")
            entries += [self._entry(class_name, k) for k in range(count)]
        return entries

    def fetch(self, entry: ObjectLocation, folder: Path) -> MeshInput:
        """Writes the object under `folder`.

        Raises:
            UsageError: If the entry's location names no object of this family.
            OSError: If the folder cannot be written.
        """
        class_name, k = parse_object_id(entry.location)
        return MeshInput(write_object(class_name, k, folder), folder)

    @staticmethod
    def _entry(class_name: str, k: int) -> ObjectEntry:
        name = object_id(class_name, k)
        digest = hashlib.sha256(f"procedural/{GENERATOR_VERSION}/{name}".encode()).hexdigest()
        return ObjectEntry(object_id=name, class_name=class_name, location=name, fingerprint=digest)


def _known() -> str:
    return "classes: " + ", ".join(CLASSES)
