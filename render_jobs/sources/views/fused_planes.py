"""The Fused-Planes authors' folders: `dataset_map.json` and `<subset>/<object>/transforms_opencv.json`.

`dataset_map.json` maps a category to a list of object folders; it lies beside the subsets, which usually
hold the same objects in several sizes. The path is that of one subset, or the folder above if it has one.
Cameras have OpenCV's axes; their world is ours already (z up, objects at the origin, cameras around them).
"""

from __future__ import annotations

from typing import Any, Literal

from render_jobs.sources.names import is_text
from render_jobs.sources.views.files import (
    ObjectFolder,
    UnsafeReferenceError,
    ViewsFolder,
    checked_reference,
)
from render_jobs.sources.views.layout import MAX_TRANSFORMS_BYTES, FoundObject, ObjectFrames
from render_jobs.transforms import CameraFileError, read_frames, read_json
from storage.errors import UsageError

MAP = "dataset_map.json"
TRANSFORMS = "transforms_opencv.json"


class FusedPlanesLayout:
    """See the module."""

    normalize: Literal["cameras", "none"] = "none"

    def objects(self, folder: ViewsFolder) -> list[FoundObject]:
        """Returns the objects of the map, category by category; see `ViewsLayout.objects`."""
        top = folder.list()
        if top is None:
            raise UsageError(f"source fused-planes: {folder.path} is not a folder")
        if MAP in top.files:
            categories = _read_map(folder)
            prefix = _only_subset(folder, top.folders, categories)
        else:
            parent = ViewsFolder(folder.path.rpartition("/")[0] or "/")
            beside = parent.list()
            if beside is None or MAP not in beside.files:
                raise UsageError(f"source fused-planes: {MAP} is neither in {folder.path} nor beside it")
            categories, prefix = _read_map(parent), ""
        return [
            FoundObject(category, prefix + name) for category, names in categories.items() for name in names
        ]

    def frames(self, folder: ObjectFolder) -> ObjectFrames:
        """Reads the cameras of one object; see `ViewsLayout.frames`."""
        data = folder.read(TRANSFORMS, MAX_TRANSFORMS_BYTES)
        return ObjectFrames(read_frames(read_json(data, TRANSFORMS), TRANSFORMS, "opencv"), data)


def _read_map(folder: ViewsFolder) -> dict[str, list[str]]:
    where = f"source fused-planes: {folder.path}/{MAP}"
    try:
        values = read_json(folder.object(".").read(MAP, MAX_TRANSFORMS_BYTES), where)
        for category, names in values.items():
            if not isinstance(names, list) or not all(_is_name(name) for name in (category, *names)):
                raise CameraFileError(f"{where}: {category} is no list of object folders")
            values[category] = [checked_reference(name) for name in names]
    except UnsafeReferenceError as error:
        raise UsageError(f"{where}: {error}") from error
    except CameraFileError as error:
        raise UsageError(str(error)) from error
    return values


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and is_text(name)


def _only_subset(folder: ViewsFolder, names: tuple[str, ...], categories: dict[str, list[str]]) -> str:
    """Returns "<subset>/", or "" where the objects lie beside the map."""
    objects = {name for listed in categories.values() for name in listed}
    if objects & set(names):
        return ""
    subsets = []
    for name in names:
        below = folder.list(name)
        if below is not None and objects & set(below.folders):
            subsets.append(name)
    if len(subsets) == 1:
        return subsets[0] + "/"
    if not subsets:
        raise UsageError(f"source fused-planes: no object of {MAP} is in a folder of {folder.path}")
    choices = ", ".join(f"--path {folder.path}/{name}" for name in subsets)
    raise UsageError(f"source fused-planes: {folder.path} has several subsets, choose one: {choices}")
