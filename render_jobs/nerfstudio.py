"""Writes the views of one object as nerfstudio reads them: `images/*.png` and `transforms.json`.

Cameras get OpenGL's axes; nothing else changes, so that an import gives the same views. Views without alpha
become images without alpha. `object_id` and `mesh_to_world` have keys of their own, which other programs
ignore.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from render_jobs.cameras import opencv_to_blender
from storage.records import ObjectViews


def write_nerfstudio(views: ObjectViews, object_id: str, folder: Path) -> None:
    """Writes one object.

    Args:
        views: Its views.
        object_id: Its id, which need not be the folder's name.
        folder: An existing empty folder.
    """
    (folder / "images").mkdir()
    names = [f"images/{i:05d}.png" for i in range(len(views.images))]
    for name, rgba in zip(names, views.images, strict=True):
        Image.fromarray(rgba if views.has_alpha else np.ascontiguousarray(rgba[..., :3])).save(folder / name)
    (folder / "transforms.json").write_text(json.dumps(transforms(views, object_id, names), indent=1))


def transforms(views: ObjectViews, object_id: str, names: list[str]) -> dict[str, Any]:
    """Returns the content of transforms.json; numbers are float32 values written out exactly.

    Held-out views stand under both val and test: nerfstudio's own commands evaluate on val.
    """
    height, width = views.images.shape[1:3]
    lenses = [_lens(matrix) for matrix in views.intrinsics.tolist()]
    shared = lenses[0] if all(lens == lenses[0] for lens in lenses) else {}
    matrices = opencv_to_blender(views.cam2world).tolist()
    frames = [
        {"file_path": name, "transform_matrix": matrix, **({} if shared else lens)}
        for name, matrix, lens in zip(names, matrices, lenses, strict=True)
    ]
    heldout = [name for name, out in zip(names, views.heldout, strict=True) if out]
    return {
        "camera_model": "PINHOLE",
        **shared,
        "w": width,
        "h": height,
        "object_id": object_id,
        "mesh_to_world": views.mesh_to_world.tolist(),
        "train_filenames": [name for name in names if name not in set(heldout)],
        "val_filenames": heldout,
        "test_filenames": heldout,
        "frames": frames,
    }


def _lens(matrix: list[list[float]]) -> dict[str, float]:
    return {"fl_x": matrix[0][0], "fl_y": matrix[1][1], "cx": matrix[0][2], "cy": matrix[1][2]}
