"""Materials as they are drawn: base colour times fixed light, or diffuse. Runs in the child process only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import bpy

from render_jobs.formats.geometry import GREY

Rgba = tuple[float, float, float, float]

# Linear radiance factors: a hemisphere light from GROUND to SKY by the normal's z, plus one sun. Their sum
# stays below 1 for every normal, so that no colour clips, and above 0.45, so that no face is black.
GROUND, SKY, SUN = 0.45, 0.70, 0.29
SUN_DIRECTION = (0.40, -0.56, 0.7255)
COLOUR_ATTRIBUTE = "vertex colours"


@dataclass(frozen=True)
class Base:
    """Base colour of a material.

    Attributes:
        colour: Linear.
        alpha: Opacity.
        image: Blender's image, or None.
        extension: What lies beyond the image's edges.
        interpolation: Between its pixels.
        tinted: Whether colour and image are multiplied; otherwise the image takes the colour's place.
        attribute: Name of the mesh's colours that are multiplied with the rest; empty for none.
        image_alpha: Whether opacity is multiplied with the image's alpha.
        alpha_cutoff: Opacity becomes 0 below it and 1 from it on.
    """

    colour: Rgba = (*GREY, 1.0)
    alpha: float = 1.0
    image: Any = None
    extension: str = "REPEAT"
    interpolation: str = "Linear"
    tinted: bool = False
    attribute: str = ""
    image_alpha: bool = False
    alpha_cutoff: float | None = None


def shade(material: bpy.types.Material, base: Base, shading: str) -> None:
    """Replaces a material's nodes.

    Args:
        material: Blender's material.
        base: Its base colour.
        shading: "default" or "diffuse".
    """
    tree = material.node_tree
    tree.nodes.clear()
    new, link = tree.nodes.new, tree.links.new
    colour, alpha = _colour_and_alpha(tree, base)
    if shading == "default":
        surface = new("ShaderNodeEmission")
        link(_light_factor(tree), surface.inputs["Strength"])
        material.cycles.emission_sampling = "NONE"  # nothing is lit by it, so no light tree is needed
    else:
        surface = new("ShaderNodeBsdfDiffuse")
    link(colour, surface.inputs["Color"])
    result = surface.outputs[0]
    if not isinstance(alpha, float) or alpha < 1.0:
        mix = new("ShaderNodeMixShader")
        _set(tree, mix.inputs[0], alpha)
        link(new("ShaderNodeBsdfTransparent").outputs[0], mix.inputs[1])
        link(result, mix.inputs[2])
        result = mix.outputs[0]
    link(result, new("ShaderNodeOutputMaterial").inputs["Surface"])


def _colour_and_alpha(
    tree: bpy.types.NodeTree, base: Base
) -> tuple[bpy.types.NodeSocket, bpy.types.NodeSocket | float]:
    factors: list[bpy.types.NodeSocket] = []
    alpha: bpy.types.NodeSocket | float = base.alpha
    if base.image is not None:
        texture = tree.nodes.new("ShaderNodeTexImage")
        texture.image, texture.extension = base.image, base.extension
        texture.interpolation = base.interpolation
        # Colours as they are in the file; otherwise Cycles darkens those that the file calls transparent.
        base.image.alpha_mode = "CHANNEL_PACKED"
        factors.append(texture.outputs["Color"])
        if base.image_alpha:
            alpha = _math(tree, "MULTIPLY", texture.outputs["Alpha"], base.alpha)
    if base.attribute:
        attribute = tree.nodes.new("ShaderNodeAttribute")
        attribute.attribute_name = base.attribute
        factors.append(attribute.outputs["Color"])
        if base.image_alpha:  # opacity counts in this material
            alpha = _math(tree, "MULTIPLY", attribute.outputs["Alpha"], alpha)
    if base.tinted or not factors:
        rgb = tree.nodes.new("ShaderNodeRGB")
        rgb.outputs[0].default_value = base.colour
        factors.append(rgb.outputs[0])
    if base.alpha_cutoff is not None:
        alpha = _math(tree, "SUBTRACT", 1.0, _math(tree, "LESS_THAN", alpha, base.alpha_cutoff))
    colour = factors[0]
    for factor in factors[1:]:
        node = tree.nodes.new("ShaderNodeVectorMath")
        node.operation = "MULTIPLY"
        tree.links.new(colour, node.inputs[0])
        tree.links.new(factor, node.inputs[1])
        colour = node.outputs["Vector"]
    return colour, alpha


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
        _set(tree, socket, operand)
    return node.outputs[0]


def _set(tree: bpy.types.NodeTree, socket: bpy.types.NodeSocket, value: bpy.types.NodeSocket | float) -> None:
    if isinstance(value, float):
        socket.default_value = value
    else:
        tree.links.new(value, socket)
