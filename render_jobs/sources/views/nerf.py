"""NeRF's and nerfstudio's folders: `transforms.json`, or `transforms_train.json` with `_val` and `_test`.

The path is one object's folder, a folder of them (`<object>/transforms.json`, class "object"), or one with
classes (`<class>/<object>/transforms.json`). Cameras have OpenGL's axes; names of images may lack the
extension. Views of `_test` are held out, without it those of `_val`; `_val` beside `_test` is left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from render_jobs.sources.names import is_text
from render_jobs.sources.views.files import Listing, ObjectFolder, ViewsFolder
from render_jobs.sources.views.layout import MAX_TRANSFORMS_BYTES, FoundObject, ObjectFrames
from render_jobs.transforms import CameraFileError, Frame, read_frames, read_json
from storage.errors import UsageError

WHOLE = "transforms.json"
TRAIN, VAL, TEST = (f"transforms_{split}.json" for split in ("train", "val", "test"))
CLASS_NAME = "object"


class NerfLayout:
    """See the module."""

    normalize: Literal["cameras", "none"] = "cameras"

    def objects(self, folder: ViewsFolder) -> list[FoundObject]:
        """Returns the objects of a folder; see `ViewsLayout.objects`."""
        top = folder.list()
        if top is None:
            raise UsageError(f"source nerf: {folder.path} is not a folder")
        if _is_object(top):
            return [FoundObject(CLASS_NAME, ".")]
        found: list[FoundObject] = []
        for name in top.folders:
            below = folder.list(name)
            if below is None:
                continue
            if _is_object(below):
                found.append(FoundObject(CLASS_NAME, name))
                continue
            inner = {child: folder.list(f"{name}/{child}") for child in below.folders}
            found += [
                FoundObject(name, f"{name}/{child}")
                for child, listing in inner.items()
                if listing is not None and _is_object(listing)
            ]
        if not found:
            raise UsageError(f"source nerf: no {WHOLE} or {TRAIN} in {folder.path}, its folders or theirs")
        return found

    def frames(self, folder: ObjectFolder) -> ObjectFrames:
        """Reads the cameras of one object; see `ViewsLayout.frames`."""
        if folder.size(WHOLE) is not None:
            data = folder.read(WHOLE, MAX_TRANSFORMS_BYTES)
            values = read_json(data, WHOLE)
            object_id = values.get("object_id")
            return ObjectFrames(
                read_frames(values, WHOLE),
                data,
                _exported_world(values),
                object_id if isinstance(object_id, str) and object_id and is_text(object_id) else None,
            )
        if folder.size(TRAIN) is None:
            raise FileNotFoundError(f"neither {WHOLE} nor {TRAIN} is in {folder.location}")
        heldout_name = next((name for name in (TEST, VAL) if folder.size(name) is not None), None)
        frames, data = _split_frames(folder, TRAIN, None if heldout_name is None else False)
        if heldout_name is not None:
            heldout, more = _split_frames(folder, heldout_name, True)
            frames, data = frames + heldout, data + more
        return ObjectFrames(frames, data)


def _is_object(listing: Listing) -> bool:
    return WHOLE in listing.files or TRAIN in listing.files


def _split_frames(folder: ObjectFolder, name: str, heldout: bool | None) -> tuple[list[Frame], bytes]:
    data = folder.read(name, MAX_TRANSFORMS_BYTES)
    frames = read_frames(read_json(data, name), name)
    return [frame if heldout is None else replace(frame, heldout=heldout) for frame in frames], data


def _exported_world(values: dict[str, Any]) -> npt.NDArray[np.float32] | None:
    """Returns what `fpipe export` wrote down of the map from the mesh's file to our world."""
    written = values.get("mesh_to_world")
    if written is None:
        return None
    try:
        matrix = np.array(written, dtype=np.float32)
    except (TypeError, ValueError):
        matrix = np.empty(0, dtype=np.float32)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise CameraFileError(f"{WHOLE}: mesh_to_world is not 4×4 finite numbers")
    return matrix
