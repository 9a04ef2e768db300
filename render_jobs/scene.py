"""The mesh inside Blender: checks, normalisation, materials. Runs in the child process only.

Importers succeed silently on nearly everything: what they do not check, `prepare` and this module do, and
raise `MeshError`. World frame: z-up, bounding box centred, diagonal 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np
import numpy.typing as npt

from render_jobs.formats.geometry import Geometry
from render_jobs.importers import base_of_import, base_of_material, build_mesh, import_obj, vertex_colours
from render_jobs.mesh_file import MeshError, MeshInput
from render_jobs.normalize import mesh_to_world, transform_points
from render_jobs.prepare import PreparedMesh, shortened
from render_jobs.shading import Base, shade

FloatArray = npt.NDArray[np.float32]

# Beyond it 32-bit coordinates, some 7 digits, no longer hold the shape.
_MAX_OFFSET = 1e6
_EXTENTS = (1e-15, 1e15)
# Nearly all vertices lie within this part of the bounding box: the rest are strays, and the shape is a dot.
_MIN_SPREAD = 1e-4


@dataclass(frozen=True)
class LoadedMesh:
    """What `load_mesh` put into the scene.

    Attributes:
        vertices_world: Vertices that faces use, [n, 3], world units.
        mesh_to_world: From the file's coordinates to the world, f32 [4, 4].
        n_faces: Faces after removal of duplicates.
        n_vertices: Vertices.
        n_materials: Materials in use.
        n_textures: Materials that have a readable texture.
        warnings: What had to be replaced.
    """

    vertices_world: npt.NDArray[np.float64]
    mesh_to_world: FloatArray
    n_faces: int
    n_vertices: int
    n_materials: int
    n_textures: int
    warnings: list[str]


def load_mesh(prepared: PreparedMesh, shading: str) -> LoadedMesh:
    """Makes a mesh the scene's only one, normalises it and replaces its materials.

    Args:
        prepared: The mesh; its private folder must stay until it has been drawn.
        shading: "default" or "diffuse".

    Raises:
        MeshError: kinds no_faces, bad_index, non_finite, no_extent, absurd_extent.
    """
    remove_meshes()
    mesh_input, content = prepared.mesh_input, prepared.content
    if isinstance(content, Geometry):
        mesh = build_mesh(content)
    else:
        mesh = import_obj(content, mesh_input.path.name)
    coordinates = np.empty(len(mesh.vertices) * 3, dtype=np.float32)
    mesh.vertices.foreach_get("co", coordinates)
    vertices = coordinates.reshape(-1, 3)
    used = vertices[_used_vertices(mesh)]
    matrix = _checked_mesh_to_world(used, mesh_input)
    mesh.vertices.foreach_set("co", transform_points(matrix, vertices).astype(np.float32).ravel())
    _make_flat(mesh)
    warnings = list(prepared.warnings)
    n_textures = _replace_materials(mesh, shading, prepared, warnings)
    return LoadedMesh(
        vertices_world=transform_points(matrix, used),
        mesh_to_world=matrix,
        n_faces=len(mesh.polygons),
        n_vertices=len(mesh.vertices),
        n_materials=len(mesh.materials),
        n_textures=n_textures,
        warnings=shortened(warnings),
    )


def remove_meshes() -> None:
    """Empties the scene of meshes, materials and images; camera, lights and world stay."""
    for thing in [o for o in bpy.data.objects if o.type not in {"CAMERA", "LIGHT"}]:
        bpy.data.objects.remove(thing)
    bpy.data.batch_remove([*bpy.data.meshes, *bpy.data.curves, *bpy.data.materials, *bpy.data.images])


def _used_vertices(mesh: bpy.types.Mesh) -> npt.NDArray[np.int32]:
    corners = np.empty(len(mesh.loops), dtype=np.int32)
    mesh.loops.foreach_get("vertex_index", corners)
    return np.unique(corners)


def _checked_mesh_to_world(used: FloatArray, mesh_input: MeshInput) -> FloatArray:
    if not np.isfinite(used).all():
        raise MeshError("non_finite", "the mesh has coordinates that are not finite")
    try:
        matrix = mesh_to_world(used, mesh_input.up, mesh_input.front)
    except ValueError as error:
        raise MeshError("no_extent", str(error)) from error
    problem = _absurdity(used.astype(np.float64))
    if problem:
        raise MeshError("absurd_extent", problem)
    return matrix


def _absurdity(used: npt.NDArray[np.float64]) -> str:
    """Says why a finite bounding box is nonsense, empty when it is not."""
    low, high = used.min(axis=0), used.max(axis=0)
    diagonal = float(np.linalg.norm(high - low))
    if not _EXTENTS[0] <= diagonal <= _EXTENTS[1]:
        return f"the mesh's bounding box has a diagonal of {diagonal:g}"
    offset = float(np.abs(used).max())
    if offset > _MAX_OFFSET * diagonal:
        return f"the mesh, {diagonal:g} in size, lies {offset:g} from its origin: move it there"
    inner_low, inner_high = np.percentile(used, (1, 99), axis=0)
    if float(np.linalg.norm(inner_high - inner_low)) < _MIN_SPREAD * diagonal:
        return f"nearly all vertices lie at one place, and few make a bounding box of {diagonal:g}"
    return ""


def _make_flat(mesh: bpy.types.Mesh) -> None:
    for name in ("custom_normal", "sharp_face", "sharp_edge"):
        if name in mesh.attributes:
            mesh.attributes.remove(mesh.attributes[name])
    mesh.shade_flat()
    mesh.update()


def _replace_materials(
    mesh: bpy.types.Mesh, shading: str, prepared: PreparedMesh, warnings: list[str]
) -> int:
    """Gives every material the stage's shading; returns how many of them have a texture."""
    if not mesh.materials:
        mesh.materials.append(None)
    bases = _bases(mesh, prepared, warnings)
    for index, (material, base) in enumerate(zip(list(mesh.materials), bases, strict=True)):
        if material is None:
            material = mesh.materials[index] = bpy.data.materials.new("grey")
        shade(material, base, shading)
    return sum(base.image is not None for base in bases)


def _bases(mesh: bpy.types.Mesh, prepared: PreparedMesh, warnings: list[str]) -> list[Base]:
    content = prepared.content
    colours = vertex_colours(mesh)
    # Materials that no library defines are as good as none where the vertices have colours.
    defined = isinstance(content, Geometry) or content.has_materials or not colours
    bases = []
    for index, material in enumerate(mesh.materials):
        if material is None or not defined:
            bases.append(Base(attribute=colours))
            if not colours:
                warnings.append("faces without a material are drawn grey")
        elif isinstance(content, Geometry):
            bases.append(base_of_material(content.materials[index], warnings))
        else:
            bases.append(base_of_import(material, prepared.texture_names, warnings))
    return bases
