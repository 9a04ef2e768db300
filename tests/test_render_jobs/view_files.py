"""Folders of views as other programs write them, for tests: small images, each unlike the others."""

from __future__ import annotations

import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from render_jobs.cameras import opencv_to_blender, sphere_cameras

SIZE_PX = 16
ANGLE_RAD = 0.8


def picture(i: int, size: tuple[int, int] = (SIZE_PX, SIZE_PX)) -> np.ndarray:
    """RGBA u8 [h, w, 4] with straight alpha, the i-th of an object."""
    rgba = np.random.default_rng(i).integers(1, 255, (size[1], size[0], 4), dtype=np.uint8)
    rgba[..., 3] = np.where(rgba[..., 3] < 100, 0, 255)
    rgba[rgba[..., 3] == 0] = 0
    return rgba


def cameras(n: int, seed: int = 0, radius: float = 1.3) -> np.ndarray:
    """cam2world f32 [n, 4, 4], OpenCV axes."""
    return sphere_cameras(n, radius, seed)


def save(path: Path, rgba: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgba).save(path)


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG file by hand."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def png_bomb(side: int) -> bytes:
    """A few bytes whose header promises side × side pixels."""
    return png(side, side, 8, 6, bytes(1000))


def write_fused_planes(
    root: Path, categories: dict[str, list[str]], n: int = 5, subset: str = "small"
) -> None:
    """The Fused-Planes authors' layout; an object has `cameras(n, seed)`, its position as seed."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_map.json").write_text(json.dumps(categories))
    for seed, name in enumerate(name for names in categories.values() for name in names):
        frames = []
        for i, matrix in enumerate(cameras(n, seed).tolist()):
            save(root / subset / name / "rgb" / f"{i:06d}.png", picture(i)[..., :3])
            lens = {"fl_x": 17.0, "fl_y": 17.0, "cx": 8.0, "cy": 8.5, "w": SIZE_PX, "h": SIZE_PX}
            frames.append({"file_path": f"rgb/{i:06d}.png", "transform_matrix": matrix, **lens})
        write_json(root / subset / name / "transforms_opencv.json", {"frames": frames})


def write_nerf_synthetic(
    folder: Path, counts: dict[str, int], radius: float = 4.0, shift: float = 0.0
) -> None:
    """The original NeRF data's layout: transforms_<split>.json, names without extension, an angle of view."""
    for seed, (split, n) in enumerate(counts.items()):
        matrices = opencv_to_blender(cameras(n, seed, radius))
        matrices[:, 0, 3] += shift
        frames = []
        for i, matrix in enumerate(matrices.tolist()):
            save(folder / split / f"r_{i}.png", picture(100 * seed + i))
            frames.append({"file_path": f"./{split}/r_{i}", "rotation": 0.01, "transform_matrix": matrix})
        write_json(folder / f"transforms_{split}.json", {"camera_angle_x": ANGLE_RAD, "frames": frames})


def write_nerfstudio(folder: Path, n: int = 5, extension: str = "png", **values: Any) -> dict[str, Any]:
    """transforms.json with one lens for all; returns what it holds."""
    matrices = opencv_to_blender(cameras(n)).tolist()
    for i in range(n):
        save(folder / f"images/{i}.{extension}", picture(i))
    frames = [{"file_path": f"images/{i}.{extension}", "transform_matrix": m} for i, m in enumerate(matrices)]
    f_px = 0.5 * SIZE_PX / math.tan(ANGLE_RAD / 2)
    lens = {"fl_x": f_px, "fl_y": f_px, "cx": 8.0, "cy": 8.0, "w": SIZE_PX, "h": SIZE_PX}
    return write_json(folder / "transforms.json", {**lens, "frames": frames, **values})


def write_json(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return values
