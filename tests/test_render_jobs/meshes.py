"""Small OBJ files for tests, and renders of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from render_jobs.cameras import intrinsics, look_at_origin
from render_jobs.config import RenderConfig
from render_jobs.mesh_file import MeshInput
from render_jobs.worker import BlenderWorker, Rendered

CUBE_CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
CUBE_FACES = [(1, 2, 4, 3), (5, 7, 8, 6), (1, 5, 6, 2), (3, 4, 8, 7), (1, 3, 7, 5), (2, 6, 8, 4)]
CUBE = "".join(f"v {x} {y} {z}\n" for x, y, z in CUBE_CORNERS) + "".join(
    "f " + " ".join(map(str, face)) + "\n" for face in CUBE_FACES
)
COLOURED_CUBE = CUBE.replace("f ", "usemtl paint\nf ", 1)


def write_mesh(folder: Path, obj: str | bytes, mtl: str | None = None) -> Path:
    """Writes mesh.obj, and mesh.mtl with a reference to it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mesh.obj"
    if mtl is not None:
        (folder / "mesh.mtl").write_text(mtl)
        assert isinstance(obj, str)
        obj = "mtllib mesh.mtl\n" + obj
    path.write_bytes(obj.encode() if isinstance(obj, str) else obj)
    return path


def cubes(centres: Sequence[Sequence[float]], size: float, material: Sequence[str] = ()) -> str:
    """Several small cubes in one OBJ file."""
    text = ""
    for i, centre in enumerate(centres):
        text += "".join(
            "v {} {} {}\n".format(*(np.asarray(centre) + size * corner)) for corner in CUBE_CORNERS
        )
        text += f"usemtl {material[i]}\n" if material else ""
        text += "".join("f " + " ".join(str(8 * i + v) for v in face) + "\n" for face in CUBE_FACES)
    return text


def cameras_at(azimuth_deg: Sequence[float], height: Sequence[float]) -> np.ndarray:
    return look_at_origin(np.radians(azimuth_deg), np.asarray(height, dtype=float), 1.3)


def as_input(mesh: Path | MeshInput) -> MeshInput:
    """A mesh in a folder of its own, y up and front −z."""
    return MeshInput(mesh, mesh.parent) if isinstance(mesh, Path) else mesh


def render(
    worker: BlenderWorker, mesh: Path | MeshInput, cam2world: np.ndarray, size: int = 64, **settings: object
) -> Rendered:
    """Renders at size × size with the default focal length."""
    config = RenderConfig(width=size, height=size, **settings)  # type: ignore[arg-type]
    matrices = np.repeat(intrinsics(1.02, size, size)[None], len(cam2world), axis=0)
    return worker.render(as_input(mesh), cam2world, matrices, config)


def srgb_u8(linear: Sequence[float]) -> np.ndarray:
    """The sRGB transfer function of IEC 61966-2-1, to 8 bits."""
    value = np.asarray(linear, dtype=float)
    curve = np.where(value <= 0.0031308, 12.92 * value, 1.055 * value ** (1 / 2.4) - 0.055)
    return curve * 255.0
