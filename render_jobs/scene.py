"""The mesh inside Blender: import, checks, normalisation, materials. Runs in the child process only.

Blender's OBJ importer succeeds silently on nearly everything, so each check that it leaves out stands here and
raises `MeshError`. World frame: z-up, bounding box centred, diagonal 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import bpy
import numpy as np
import numpy.typing as npt

from render_jobs.normalize import mesh_to_world, transform_points

FloatArray = npt.NDArray[np.float32]

MISSING_MATERIAL_COLOUR = (0.6, 0.6, 0.6, 1.0)
# Linear radiance factor: hemisphere from ground to sky by the normal's z, plus one sun. Their sum stays below 1
# for every normal, so that no colour clips.
GROUND, SKY, SUN = 0.45, 0.70, 0.29
SUN_DIRECTION = (0.40, -0.56, 0.7255)
MAX_TEXTURE_PIXELS = 1 << 26


class MeshError(ValueError):
    """A mesh that cannot be rendered; `kind` is the class under which the failure is recorded."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass
class LoadedMesh:
    """What `load_mesh` put into the scene."""

    vertices_world: npt.NDArray[np.float64]
    mesh_to_world: FloatArray
    n_faces: int
    n_vertices: int
    n_materials: int
    n_textures: int
    warnings: list[str] = field(default_factory=list)


def load_mesh(path: Path, shading: str, texture_names: dict[str, list[str]] | None = None) -> LoadedMesh:
    """Imports an OBJ file as the scene's only mesh, normalises it and replaces its materials.

    Args:
        path: The .obj file; its .mtl and textures are found as the file says.
        shading: "default" or "diffuse", see `shade`.

    Raises:
        MeshError: When nothing renderable came in.
    """
    remove_objects()
    mesh = _import_obj(path)
    vertices, n_faces = _checked_vertices(mesh)
    matrix = mesh_to_world(vertices)
    warnings: list[str] = []
    coordinates = np.empty(len(mesh.vertices) * 3, dtype=np.float32)
    mesh.vertices.foreach_get("co", coordinates)
    world = transform_points(matrix, coordinates.reshape(-1, 3))
    mesh.vertices.foreach_set("co", np.nan_to_num(world).astype(np.float32).ravel())
    for name in ("custom_normal", "sharp_face", "sharp_edge"):
        if name in mesh.attributes:
            mesh.attributes.remove(mesh.attributes[name])
    mesh.shade_flat()
    mesh.update()
    n_textures = 0
    if not mesh.materials:
        mesh.materials.append(bpy.data.materials.new("missing"))
        warnings.append("no material: drawn in light grey")
    for index, material in enumerate(mesh.materials):
        if material is None:
            material = bpy.data.materials.new("missing")
            mesh.materials[index] = material
        n_textures += shade(material, shading, warnings)
    return LoadedMesh(
        vertices_world=transform_points(matrix, vertices),
        mesh_to_world=matrix,
        n_faces=n_faces,
        n_vertices=len(mesh.vertices),
        n_materials=len(mesh.materials),
        n_textures=n_textures,
        warnings=warnings,
    )


def remove_objects() -> None:
    """Empties the scene of meshes, materials and images; camera, lights and world stay."""
    for thing in [o for o in bpy.data.objects if o.type not in {"CAMERA", "LIGHT"}]:
        bpy.data.objects.remove(thing)
    for collection in (bpy.data.meshes, bpy.data.materials, bpy.data.images):
        for block in list(collection):
            collection.remove(block)


def _import_obj(path: Path) -> bpy.types.Mesh:
    before = set(bpy.data.objects)
    bpy.ops.wm.obj_import(
        filepath=str(path), use_split_objects=False, validate_meshes=True, forward_axis="Y", up_axis="Z"
    )
    meshes = [o.data for o in bpy.data.objects if o not in before and o.type == "MESH"]
    if len(meshes) != 1:
        raise MeshError("no_faces", f"{path.name}: the importer found no faces")
    return meshes[0]


def _checked_vertices(mesh: bpy.types.Mesh) -> tuple[npt.NDArray[np.float64], int]:
    n_faces = len(mesh.polygons)
    if n_faces == 0:
        raise MeshError("no_faces", "the mesh has no faces")
    coordinates = np.empty(len(mesh.vertices) * 3, dtype=np.float32)
    mesh.vertices.foreach_get("co", coordinates)
    corners = np.empty(len(mesh.loops), dtype=np.int32)
    mesh.loops.foreach_get("vertex_index", corners)
    vertices = coordinates.reshape(-1, 3)[np.unique(corners)].astype(np.float64)
    if not np.isfinite(vertices).all():
        raise MeshError("non_finite", "the mesh has coordinates that are not finite")
    return vertices, n_faces


def shade(material: bpy.types.Material, shading: str, warnings: list[str]) -> int:
    """Replaces a material's nodes by the shading; returns the number of textures used (0 or 1)."""
    material.use_nodes = True
    tree = material.node_tree
    colour, alpha, image = _base_colour(material, warnings)
    tree.nodes.clear()
    new, link = tree.nodes.new, tree.links.new
    if image is not None:
        texture = new("ShaderNodeTexImage")
        texture.image = image
        colour_socket = texture.outputs["Color"]
    else:
        rgb = new("ShaderNodeRGB")
        rgb.outputs[0].default_value = colour
        colour_socket = rgb.outputs[0]
    if shading == "default":
        surface = new("ShaderNodeEmission")
        link(_irradiance(tree), surface.inputs["Strength"])
    else:
        surface = new("ShaderNodeBsdfDiffuse")
    link(colour_socket, surface.inputs["Color"])
    result = surface.outputs[0]
    if alpha < 1.0:
        mix, clear = new("ShaderNodeMixShader"), new("ShaderNodeBsdfTransparent")
        mix.inputs[0].default_value = alpha
        link(clear.outputs[0], mix.inputs[1])
        link(result, mix.inputs[2])
        result = mix.outputs[0]
    link(result, new("ShaderNodeOutputMaterial").inputs["Surface"])
    return int(image is not None)


def _irradiance(tree: bpy.types.NodeTree) -> bpy.types.NodeSocket:
    """GROUND + (SKY − GROUND)·(n_z + 1)/2 + SUN·max(0, n·sun), with n turned towards the camera by Cycles."""
    new, link = tree.nodes.new, tree.links.new
    normal = new("ShaderNodeNewGeometry").outputs["Normal"]

    def dot(direction: tuple[float, float, float]) -> bpy.types.NodeSocket:
        node = new("ShaderNodeVectorMath")
        node.operation = "DOT_PRODUCT"
        node.inputs[1].default_value = direction
        link(normal, node.inputs[0])
        return node.outputs["Value"]

    def multiply_add(value: bpy.types.NodeSocket, factor: float, addend: float | bpy.types.NodeSocket) -> bpy.types.NodeSocket:
        node = new("ShaderNodeMath")
        node.operation = "MULTIPLY_ADD"
        link(value, node.inputs[0])
        node.inputs[1].default_value = factor
        if isinstance(addend, float):
            node.inputs[2].default_value = addend
        else:
            link(addend, node.inputs[2])
        return node.outputs[0]

    positive = new("ShaderNodeMath")
    positive.operation = "MAXIMUM"
    positive.inputs[1].default_value = 0.0
    link(dot(SUN_DIRECTION), positive.inputs[0])
    half = (SKY - GROUND) / 2
    hemisphere = multiply_add(dot((0.0, 0.0, 1.0)), half, GROUND + half)
    return multiply_add(positive.outputs[0], SUN, hemisphere)


def _base_colour(
    material: bpy.types.Material, warnings: list[str]
) -> tuple[tuple[float, float, float, float], float, bpy.types.Image | None]:
    principled = next((n for n in material.node_tree.nodes if n.type == "BSDF_PRINCIPLED"), None)
    if principled is None:
        return MISSING_MATERIAL_COLOUR, 1.0, None
    socket = principled.inputs["Base Color"]
    colour = tuple(socket.default_value)
    alpha = float(principled.inputs["Alpha"].default_value)
    if not socket.is_linked:
        return colour, alpha, None
    image = socket.links[0].from_node.image
    problem = _texture_problem(image)
    if problem:
        warnings.append(f"material {material.name}: {problem}; drawn in the material's colour")
        return colour, alpha, None
    return colour, alpha, image


def _texture_problem(image: bpy.types.Image | None) -> str | None:
    if image is None:
        return "no texture image"
    name = Path(image.filepath).name
    width, height = image.size
    if width * height == 0:
        return f"texture {name} is missing or cannot be decoded"
    if width * height > MAX_TEXTURE_PIXELS:
        return f"texture {name} is too large ({width}×{height})"
    return None
