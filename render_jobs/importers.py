"""Puts a prepared mesh into Blender, with its materials still plain. Runs in the child process only."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np

from render_jobs.formats.geometry import Geometry, Material
from render_jobs.formats.obj import ObjFile
from render_jobs.mesh_file import MeshError
from render_jobs.shading import COLOUR_ATTRIBUTE, Base


def import_obj(obj: ObjFile, name: str) -> bpy.types.Mesh:
    """Imports an OBJ file in its own axes.

    Raises:
        MeshError: kinds no_faces, bad_index.
    """
    # Genuine ShapeNet files repeat every face with reversed winding; validate_meshes removes the copies.
    bpy.ops.wm.obj_import(
        filepath=str(obj.path), use_split_objects=False, validate_meshes=True, forward_axis="Y", up_axis="Z"
    )
    meshes = [o.data for o in bpy.data.objects if o.type == "MESH"]
    if len(meshes) == 1 and len(meshes[0].polygons) > 0:
        return meshes[0]
    if obj.has_face_lines:
        raise MeshError("bad_index", f"{name}: no face refers to three or more vertices that exist")
    raise MeshError("no_faces", f"{name} has no faces that Blender can read")


def build_mesh(geometry: Geometry) -> bpy.types.Mesh:
    """Makes a mesh of arrays and puts it into the scene; faces that repeat others are removed."""
    mesh = bpy.data.meshes.new("mesh")
    mesh.vertices.add(len(geometry.vertices))
    mesh.vertices.foreach_set("co", geometry.vertices.ravel())
    mesh.loops.add(len(geometry.corners))
    mesh.loops.foreach_set("vertex_index", geometry.corners)
    mesh.polygons.add(len(geometry.face_sizes))
    starts = np.cumsum(geometry.face_sizes) - geometry.face_sizes
    mesh.polygons.foreach_set("loop_start", starts.astype(np.int32))
    for material in geometry.materials:
        mesh.materials.append(bpy.data.materials.new(material.name[:60]))
    if geometry.face_materials is not None and geometry.materials:
        grey = geometry.face_materials < 0
        if grey.any():
            mesh.materials.append(None)
        numbers = np.where(grey, len(geometry.materials), geometry.face_materials)
        mesh.polygons.foreach_set("material_index", numbers.astype(np.int32))
    if geometry.uvs is not None:
        mesh.uv_layers.new(name="uv").uv.foreach_set("vector", geometry.uvs.ravel())
    if geometry.colours is not None:
        colours = mesh.color_attributes.new(COLOUR_ATTRIBUTE, "FLOAT_COLOR", "CORNER")
        colours.data.foreach_set("color", geometry.colours.ravel())
    mesh.update(calc_edges=True)
    mesh.validate()
    bpy.context.scene.collection.objects.link(bpy.data.objects.new("mesh", mesh))
    return mesh


def base_of_material(material: Material, warnings: list[str]) -> Base:
    """Returns the base colour of a material of a `Geometry`, its texture loaded."""
    finite = np.nan_to_num(material.colour, nan=0.0, posinf=1e6, neginf=0.0)
    red, green, blue = finite.clip(0.0, 1e6).tolist()
    alpha = float(np.clip(np.nan_to_num(material.alpha, nan=1.0), 0.0, 1.0))
    image = None
    if material.texture is not None:
        image = bpy.data.images.load(str(material.texture.path))
        if not decodes(image):
            warnings.append(f"a texture of material {material.name} cannot be decoded: material colour used")
            image = None
    return Base(
        colour=(red, green, blue, 1.0),
        alpha=alpha,
        image=image,
        extension=material.texture.extension if material.texture else "REPEAT",
        interpolation=material.texture.interpolation if material.texture else "Linear",
        tinted=(red, green, blue) != (1.0, 1.0, 1.0) or (image is None and not material.vertex_colours),
        attribute=COLOUR_ATTRIBUTE if material.vertex_colours else "",
        image_alpha=material.texture_alpha,
        alpha_cutoff=material.alpha_cutoff,
    )


def base_of_import(material: bpy.types.Material, texture_names: dict[str, str], warnings: list[str]) -> Base:
    """Returns the base colour of a material that the OBJ importer made."""
    principled = next((n for n in material.node_tree.nodes if n.type == "BSDF_PRINCIPLED"), None)
    if principled is None:
        return Base()
    socket = principled.inputs["Base Color"]
    red, green, blue, _ = socket.default_value
    image = socket.links[0].from_node.image if socket.is_linked else None
    if socket.is_linked and (image is None or not decodes(image)):
        name = texture_names.get(Path(image.filepath).name, "?") if image else "?"
        warnings.append(f"texture {name} of material {material.name} cannot be decoded: material colour used")
        image = None
    return Base((red, green, blue, 1.0), float(principled.inputs["Alpha"].default_value), image)


def vertex_colours(mesh: bpy.types.Mesh) -> str:
    """Returns the name of a mesh's colours, empty when it has none; what is no colour becomes black."""
    if not mesh.color_attributes:
        return ""
    data = mesh.color_attributes[0].data
    rgba = np.empty(len(data) * 4, dtype=np.float32)
    data.foreach_get("color", rgba)
    data.foreach_set("color", np.clip(np.nan_to_num(rgba, nan=0.0), 0.0, 1.0))
    return str(mesh.color_attributes[0].name)


def decodes(image: bpy.types.Image) -> bool:
    """Whether Blender can read a picture, whose header is known to be sane."""
    width, height = image.size  # asking for the size decodes the file
    return bool(width * height > 0)
