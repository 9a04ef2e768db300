"""From a mesh file to what Blender may load: checks and the private folder that stands in for the mesh's own.

Formats by extension, in any letter case: .obj, .ply, .stl, .gltf, .glb. Not .blend: Blender, opening one,
reads the files that it links to before anybody can look at their paths, and modifiers read more of them while
they are evaluated (caches, import nodes), so that nothing keeps such a file within its root.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from render_jobs.formats.geometry import Geometry
from render_jobs.formats.gltf import read_gltf
from render_jobs.formats.obj import ObjFile, prepare_obj
from render_jobs.formats.ply import read_ply, undrawn_textures
from render_jobs.formats.stl import read_stl
from render_jobs.mesh_file import FileLimits, MeshError, MeshInput, read_mesh_file
from render_jobs.references import MeshFolder
from render_jobs.textures import TextureShelf

EXTENSIONS = (".obj", ".ply", ".stl", ".gltf", ".glb")
_MAX_WARNINGS = 20


@dataclass(frozen=True)
class PreparedMesh:
    """A mesh that Blender may load; its textures lie in the private folder until it is drawn.

    Attributes:
        mesh_input: Where it comes from, and its frame.
        content: An OBJ file to import, or arrays.
        sha256: Of the mesh file, 64 hex digits.
        texture_names: Names in the private folder to names as written in the mesh.
        warnings: What had to be replaced.
    """

    mesh_input: MeshInput
    content: ObjFile | Geometry
    sha256: str
    texture_names: dict[str, str]
    warnings: list[str]


def prepare_mesh(mesh_input: MeshInput, folder: Path, limits: FileLimits | None = None) -> PreparedMesh:
    """Reads and checks a mesh file.

    Args:
        mesh_input: The mesh.
        folder: Private, empty folder for what Blender is to open.
        limits: How large files may be.

    Raises:
        MeshError: What is wrong with the file; see `mesh_file` and `formats` for the kinds.
    """
    limits = limits or FileLimits()
    path = mesh_input.path
    content = read_mesh_file(path, limits.mesh_bytes)
    around = MeshFolder(path, mesh_input.root)
    shelf = TextureShelf(folder, around, limits)
    warnings: list[str] = []
    loaded: ObjFile | Geometry
    extension = path.suffix.lower()
    if extension == ".obj":
        loaded, warnings = prepare_obj(content, path, around, shelf, folder, limits)
    elif extension == ".ply":
        loaded, warnings = read_ply(content, path.name), undrawn_textures(content)
    elif extension == ".stl":
        loaded = read_stl(content, path.name)
    elif extension in {".gltf", ".glb"}:
        loaded, warnings = read_gltf(content, path.name, around, shelf, limits)
    elif extension == ".blend":
        reason = f"{path.name}: .blend files are not read, as they may open any file; export it as glTF"
        raise MeshError("unsupported", reason)
    else:
        known = ", ".join(EXTENSIONS)
        raise MeshError("not_a_mesh", f"{path.name} has no extension that is known here: {known}")
    digest = hashlib.sha256(content).hexdigest()
    return PreparedMesh(mesh_input, loaded, digest, shelf.names, shortened(warnings))


def shortened(warnings: list[str]) -> list[str]:
    """Returns the first warnings and how many more there are: they are stored with the object."""
    more = len(warnings) - _MAX_WARNINGS
    return warnings if more <= 0 else [*warnings[:_MAX_WARNINGS], f"and {more} more warnings"]
