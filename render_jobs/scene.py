"""The mesh inside Blender: import, checks, normalisation, materials. Runs in the child process only.

Blender's OBJ importer succeeds silently on nearly everything, so each check that it leaves out stands here
and in `mesh_file` and raises `MeshError`. World frame: z-up, bounding box centred, diagonal 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

from render_jobs.mesh_file import MeshError, MeshInput, find_texture, material_libraries
from render_jobs.normalize import mesh_to_world, transform_points

FloatArray = npt.NDArray[np.float32]
Colour = tuple[float, float, float, float]

GREY: Colour = (0.6, 0.6, 0.6, 1.0)
# Linear radiance factors: a hemisphere light from GROUND to SKY by the normal's z, plus one sun. Their sum
# stays below 1 for every normal, so that no colour clips, and above 0.45, so that no face is black.
GROUND, SKY, SUN = 0.45, 0.70, 0.29
SUN_DIRECTION = (0.40, -0.56, 0.7255)
MAX_TEXTURE_PIXELS = 1 << 26


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


def load_mesh(mesh_input: MeshInput, shading: str) -> LoadedMesh:
    """Imports an OBJ file as the scene's only mesh, normalises it and replaces its materials.

    Args:
        mesh_input: The mesh; its materials and textures are found as the file says.
        shading: "default" or "diffuse".

    Raises:
        MeshError: kinds no_faces, non_finite, no_extent.
    """
    remove_meshes()
    path = mesh_input.path
    mesh = _import_obj(path)
    coordinates = np.empty(len(mesh.vertices) * 3, dtype=np.float32)
    mesh.vertices.foreach_get("co", coordinates)
    vertices = coordinates.reshape(-1, 3)
    used = vertices[_used_vertices(mesh)]
    matrix = _checked_mesh_to_world(used, mesh_input)
    mesh.vertices.foreach_set("co", transform_points(matrix, vertices).astype(np.float32).ravel())
    _make_flat(mesh)
    warnings = _missing_libraries(path)
    n_textures = _replace_materials(mesh, shading, path, warnings)
    return LoadedMesh(
        vertices_world=transform_points(matrix, used),
        mesh_to_world=matrix,
        n_faces=len(mesh.polygons),
        n_vertices=len(mesh.vertices),
        n_materials=len(mesh.materials),
        n_textures=n_textures,
        warnings=warnings,
    )


def remove_meshes() -> None:
    """Empties the scene of meshes, materials and images; camera, lights and world stay."""
    for thing in [o for o in bpy.data.objects if o.type not in {"CAMERA", "LIGHT"}]:
        bpy.data.objects.remove(thing)
    bpy.data.batch_remove([*bpy.data.meshes, *bpy.data.curves, *bpy.data.materials, *bpy.data.images])


def _import_obj(path: Path) -> bpy.types.Mesh:
    # Genuine ShapeNet files repeat every face with reversed winding; validate_meshes removes the copies.
    bpy.ops.wm.obj_import(
        filepath=str(path), use_split_objects=False, validate_meshes=True, forward_axis="Y", up_axis="Z"
    )
    meshes = [o.data for o in bpy.data.objects if o.type == "MESH"]
    if len(meshes) != 1 or len(meshes[0].polygons) == 0:
        raise MeshError("no_faces", f"{path.name} has no faces that Blender can read")
    return meshes[0]


def _used_vertices(mesh: bpy.types.Mesh) -> npt.NDArray[np.int32]:
    corners = np.empty(len(mesh.loops), dtype=np.int32)
    mesh.loops.foreach_get("vertex_index", corners)
    return np.unique(corners)


def _checked_mesh_to_world(used: npt.NDArray[np.float32], mesh_input: MeshInput) -> FloatArray:
    if not np.isfinite(used).all():
        raise MeshError("non_finite", "the mesh has coordinates that are not finite")
    try:
        return mesh_to_world(used, mesh_input.up, mesh_input.front)
    except ValueError as error:
        raise MeshError("no_extent", str(error)) from error


def _make_flat(mesh: bpy.types.Mesh) -> None:
    for name in ("custom_normal", "sharp_face", "sharp_edge"):
        if name in mesh.attributes:
            mesh.attributes.remove(mesh.attributes[name])
    mesh.shade_flat()
    mesh.update()


def _missing_libraries(path: Path) -> list[str]:
    names = material_libraries(path)
    return [f"material file {name} is missing" for name in names if not (path.parent / name).is_file()]


def _replace_materials(mesh: bpy.types.Mesh, shading: str, path: Path, warnings: list[str]) -> int:
    """Gives every material the stage's shading; returns how many of them have a texture."""
    if not mesh.materials:
        mesh.materials.append(None)
    n_textures = 0
    for index, material in enumerate(mesh.materials):
        if material is None:
            warnings.append("faces without a material are drawn grey")
            material = mesh.materials[index] = bpy.data.materials.new("grey")
            base = _Base(GREY, 1.0, None)
        else:
            base = _base_colour(material, path, warnings)
        _shade(material, base, shading)
        n_textures += base.image is not None
    return n_textures


@dataclass(frozen=True)
class _Base:
    """Base colour of a material: linear colour, opacity, and the texture that takes the colour's place."""

    colour: Colour
    alpha: float
    image: Any


def _base_colour(material: bpy.types.Material, path: Path, warnings: list[str]) -> _Base:
    principled = next((n for n in material.node_tree.nodes if n.type == "BSDF_PRINCIPLED"), None)
    if principled is None:
        return _Base(GREY, 1.0, None)
    socket = principled.inputs["Base Color"]
    red, green, blue, _ = socket.default_value
    colour = (red, green, blue, 1.0)
    alpha = float(principled.inputs["Alpha"].default_value)
    if not socket.is_linked:
        return _Base(colour, alpha, None)
    image = _readable(socket.links[0].from_node.image, path)
    if image is None:
        written = socket.links[0].from_node.image
        name = Path(written.filepath.replace("\\", "/")).name if written else "?"
        warnings.append(
            f"texture {name} of material {material.name} is missing or unreadable: material colour used"
        )
    return _Base(colour, alpha, image)


def _readable(image: bpy.types.Image | None, path: Path) -> bpy.types.Image | None:
    """Returns the image when Blender can decode it, else one of the same name found elsewhere, else None."""
    if image is None:
        return None
    if not _decodes(image):
        found = find_texture(image.filepath, path)
        if found is None:
            return None
        image = bpy.data.images.load(str(found))
    return image if _decodes(image) else None


def _decodes(image: bpy.types.Image) -> bool:
    width, height = image.size  # asking for the size decodes the file
    return bool(0 < width * height <= MAX_TEXTURE_PIXELS)


def _shade(material: bpy.types.Material, base: _Base, shading: str) -> None:
    tree = material.node_tree
    tree.nodes.clear()
    new, link = tree.nodes.new, tree.links.new
    if base.image is not None:
        texture = new("ShaderNodeTexImage")
        texture.image = base.image
        colour = texture.outputs["Color"]
    else:
        rgb = new("ShaderNodeRGB")
        colour = rgb.outputs[0]
        colour.default_value = base.colour
    if shading == "default":
        surface = new("ShaderNodeEmission")
        link(_light_factor(tree), surface.inputs["Strength"])
        material.cycles.emission_sampling = "NONE"  # nothing is lit by it, so no light tree is needed
    else:
        surface = new("ShaderNodeBsdfDiffuse")
    link(colour, surface.inputs["Color"])
    result = surface.outputs[0]
    if base.alpha < 1.0:
        mix = new("ShaderNodeMixShader")
        mix.inputs[0].default_value = base.alpha
        link(new("ShaderNodeBsdfTransparent").outputs[0], mix.inputs[1])
        link(result, mix.inputs[2])
        result = mix.outputs[0]
    link(result, new("ShaderNodeOutputMaterial").inputs["Surface"])


def _light_factor(tree: bpy.types.NodeTree) -> bpy.types.NodeSocket:
    """GROUND + (SKY − GROUND)·(n_z + 1)/2 + SUN·max(0, n·sun); Cycles turns n towards the camera."""
    normal = tree.nodes.new("ShaderNodeNewGeometry").outputs["True Normal"]
    half = (SKY - GROUND) / 2
    sun = _math(tree, "MAXIMUM", _dot(tree, normal, SUN_DIRECTION), 0.0)
    sun = _math(tree, "MULTIPLY", sun, SUN)
    sky = _math(tree, "MULTIPLY_ADD", _dot(tree, normal, (0.0, 0.0, 1.0)), half, GROUND + half)
    return _math(tree, "ADD", sun, sky)


def _dot(
    tree: bpy.types.NodeTree, vector: bpy.types.NodeSocket, direction: tuple[float, float, float]
) -> bpy.types.NodeSocket:
    node = tree.nodes.new("ShaderNodeVectorMath")
    node.operation = "DOT_PRODUCT"
    tree.links.new(vector, node.inputs[0])
    node.inputs[1].default_value = direction
    return node.outputs["Value"]


def _math(
    tree: bpy.types.NodeTree, operation: str, *operands: bpy.types.NodeSocket | float
) -> bpy.types.NodeSocket:
    node = tree.nodes.new("ShaderNodeMath")
    node.operation = operation
    for socket, operand in zip(node.inputs, operands, strict=False):
        if isinstance(operand, float):
            socket.default_value = operand
        else:
            tree.links.new(operand, socket)
    return node.outputs[0]
