"""Writes a mesh in ShapeNetCore v2 layout: normalised OBJ and MTL, the same bytes on every run.

`<synset>/<id>/models/model_normalized.{obj,mtl}`: bounding box centred on the origin with diagonal 1, y up,
front along -z, triangles, LF line ends. Kd holds *linear* colour, which is how Blender reads it; no textures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from render_jobs.sources.procedural.mesh import Floats, Ints, Mesh, Rgb

_STEPS = 1_000_000
"""Vertices lie on a grid of a millionth of the bounding-box diagonal: six decimals, exactly."""


def write_mesh(mesh: Mesh, folder: Path, title: str) -> Path:
    """Writes both files into `folder` (created if missing) and returns the path of the .obj.

    Args:
        mesh: What to write.
        folder: The `models` folder.
        title: First comment line of the .obj.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    used = sorted({str(name) for _, part in mesh.parts for name in part.materials})
    missing = [name for name in used if name not in mesh.colours]
    assert not missing, f"materials without a colour: {missing}"
    (folder / "model_normalized.mtl").write_bytes(
        _mtl_text({name: mesh.colours[name] for name in used}).encode()
    )
    path = folder / "model_normalized.obj"
    path.write_bytes(_obj_text(mesh, title).encode())
    return path


def linear_from_srgb(colour: Rgb) -> Rgb:
    """The sRGB transfer function, per channel."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else float(((c + 0.055) / 1.055) ** 2.4) for c in colour)
    return red, green, blue


def triangles_of(vertices: Ints, faces: Ints) -> tuple[Ints, Ints]:
    """Quads [Q, 4] cut along their shorter diagonal.

    Returns:
        Triangles [T, 3], those without area left out, and the quad [T] that each came from.

    `vertices` are integers, so that the choice does not depend on rounding; on a tie the first diagonal wins.
    """
    a, b, c, d = (vertices[faces[:, corner]] for corner in range(4))
    first = ((a - c) ** 2).sum(axis=1) <= ((b - d) ** 2).sum(axis=1)
    halves = (
        np.where(first[:, None], faces[:, [0, 1, 2]], faces[:, [0, 1, 3]]),
        np.where(first[:, None], faces[:, [0, 2, 3]], faces[:, [1, 2, 3]]),
    )
    triangles = np.stack(halves, axis=1).reshape(-1, 3)
    origin = np.repeat(np.arange(len(faces)), 2)
    p, q, r = (vertices[triangles[:, corner]] for corner in range(3))
    keep = (np.cross(q - p, r - p) != 0).any(axis=1)
    return triangles[keep], origin[keep]


def normalised(vertices: Floats) -> Ints:
    """Vertices in millionths of the bounding-box diagonal, the box centred on the origin."""
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    unit = (vertices - (low + high) / 2) / float(np.linalg.norm(high - low))
    return np.asarray(np.rint(unit * _STEPS), dtype=np.int64)


def _mtl_text(colours: dict[str, Rgb]) -> str:
    blocks = []
    for name, colour in colours.items():
        red, green, blue = linear_from_srgb(colour)
        kd = f"Kd {red:.4f} {green:.4f} {blue:.4f}\n"
        blocks.append(f"newmtl {name}\nKa 0 0 0\n{kd}Ks 0 0 0\nNs 10\nd 1\nillum 1\n")
    return "\n".join(blocks)


def _obj_text(mesh: Mesh, title: str) -> str:
    vertices = normalised(mesh.vertices)
    chunks = [f"# {title}\nmtllib model_normalized.mtl\n"]
    chunks.append(("v %.6f %.6f %.6f\n" * len(vertices)) % tuple((vertices / _STEPS).ravel().tolist()))
    start, group = 1, ""
    for name, part in mesh.parts:
        if name != group:
            chunks.append(f"g {name}\n")
            group = name
        stop = start + len(part.vertices)
        triangles, origin = triangles_of(vertices[start - 1 : stop - 1], part.faces)
        owner = part.materials[origin]
        for material in sorted(set(owner.tolist())):
            chosen = triangles[owner == material] + start
            chunks.append(f"usemtl {material}\n")
            chunks.append(("f %d %d %d\n" * len(chosen)) % tuple(chosen.ravel().tolist()))
        start = stop
    return "".join(chunks)
