"""glTF 2.0 and GLB: the default scene's triangles, with node transforms and skins at rest applied.

Coordinates are the file's own (y up). Base colours are factor × texture × COLOR_0, whether lit or unlit;
KHR_texture_transform, pbrSpecularGlossiness and quantised attributes are known. Cameras, lights, animations,
morph targets, points and lines are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt

from render_jobs.formats.geometry import Geometry, Material, Texture, checked_corners, checked_vertices
from render_jobs.formats.gltf_buffers import Accessors, Document, data_uri, entry, parse_container
from render_jobs.mesh_file import FileLimits, MeshError
from render_jobs.references import MeshFolder
from render_jobs.textures import INSTEAD, FoundTexture, TextureShelf, display_name

_COMPRESSED = {"KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression"}
_INSTANCES = "EXT_mesh_gpu_instancing"
# What a file may require: it is read, or changes neither shape nor base colour.
_KNOWN = {
    "EXT_texture_webp",
    "KHR_lights_punctual",
    "KHR_materials_pbrSpecularGlossiness",
    "KHR_mesh_quantization",
    "KHR_texture_transform",
    "KHR_xmp_json_ld",
    *(
        f"KHR_materials_{effect}"
        for effect in (
            *("anisotropy", "clearcoat", "dispersion", "emissive_strength", "ior", "iridescence", "sheen"),
            *("specular", "transmission", "unlit", "variants", "volume"),
        )
    ),
}
_REPEAT = 10497
_EXTENSIONS: dict[int, Literal["REPEAT", "EXTEND", "MIRROR"]] = {33071: "EXTEND", 33648: "MIRROR"}
_NEAREST = 9728
_MAX_CORNERS = 1 << 28

Matrix = npt.NDArray[np.float64]


def read_gltf(
    content: bytes, name: str, around: MeshFolder, shelf: TextureShelf, limits: FileLimits
) -> tuple[Geometry, list[str]]:
    """Reads a .gltf or .glb file.

    Returns:
        The geometry and warnings.

    Raises:
        MeshError: kinds not_a_mesh, truncated, too_large, bad_structure, bad_index, bad_vertex, no_faces,
            missing_file, unsafe_reference, unsupported.
    """
    document, binary = parse_container(content, name)
    try:
        _check_extensions(document, name)
        accessors = Accessors(document, binary, around, limits)
        materials = _Materials(document, accessors, shelf)
        return _Reader(document, accessors, materials, name).geometry(), materials.warnings
    except MeshError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        # JSON can have anything anywhere: what is not as the specification says ends up here.
        reason = f"{name} is not as glTF should be: {type(error).__name__}: {error}"
        raise MeshError("bad_structure", reason) from error


def _check_extensions(document: Document, name: str) -> None:
    required = document.get("extensionsRequired", [])
    if not isinstance(required, list) or not all(isinstance(extension, str) for extension in required):
        raise MeshError("bad_structure", f"{name}: extensionsRequired is no list of names")
    needed = set(required) - _KNOWN
    # Whoever draws one copy where a file has a thousand draws another object, required or not.
    if any(_INSTANCES in node.get("extensions", {}) for node in document.get("nodes", [])):
        needed.add(_INSTANCES)
    shown = ", ".join(sorted(needed))[:200]
    if needed & _COMPRESSED:
        reason = f"{name} is compressed ({shown}): decompress it, say with gltf-transform"
        raise MeshError("unsupported", reason)
    if needed:
        raise MeshError("unsupported", f"{name} needs {shown}, which is not read: export it without")


@dataclass(frozen=True)
class _Piece:
    """One primitive in scene coordinates."""

    vertices: npt.NDArray[np.float32]
    corners: npt.NDArray[np.int32]
    uvs: npt.NDArray[np.float64] | None
    colours: npt.NDArray[np.float64] | None
    material: int


class _Reader:
    def __init__(self, document: Document, accessors: Accessors, materials: _Materials, name: str) -> None:
        self._document, self._accessors, self._materials = document, accessors, materials
        self._name = name
        self._n_corners = 0

    def geometry(self) -> Geometry:
        world = dict(_world_matrices(self._document, self._all_roots()))
        pieces = []
        for node_index, _ in _world_matrices(self._document, self._scene_roots()):
            node = entry(self._document, "nodes", node_index)
            if "mesh" in node:
                mesh = entry(self._document, "meshes", node["mesh"])
                joints = self._joints(node, world)
                for primitive in mesh["primitives"]:
                    piece = self._piece(primitive, world[node_index], joints)
                    pieces += [piece] if piece is not None else []
        if not pieces:
            raise MeshError("no_faces", f"{self._name} has no triangles in its scene")
        return _joined(pieces, self._materials.all())

    def _all_roots(self) -> list[int]:
        children = {c for node in self._document.get("nodes", []) for c in node.get("children", [])}
        roots = [i for i in range(len(self._document.get("nodes", []))) if i not in children]
        return list(dict.fromkeys([*self._scene_roots(), *roots]))

    def _scene_roots(self) -> list[int]:
        if not self._document.get("scenes"):
            children = {c for node in self._document.get("nodes", []) for c in node.get("children", [])}
            return [i for i in range(len(self._document.get("nodes", []))) if i not in children]
        scene = entry(self._document, "scenes", self._document.get("scene", 0))
        return list(scene.get("nodes", []))

    def _joints(self, node: Document, world: dict[int, Matrix]) -> Matrix | None:
        """Returns what takes vertices of a skinned mesh to the scene, [joints, 4, 4]."""
        if "skin" not in node:
            return None
        skin = entry(self._document, "skins", node["skin"])
        matrices = np.stack([world[joint] for joint in skin["joints"]])
        if "inverseBindMatrices" in skin:
            inverse = self._accessors.floats(skin["inverseBindMatrices"]).reshape(-1, 4, 4)
            matrices = matrices @ inverse[: len(matrices)].transpose(0, 2, 1)
        return matrices

    def _piece(self, primitive: Document, world: Matrix, joints: Matrix | None) -> _Piece | None:
        attributes = primitive["attributes"]
        if "POSITION" not in attributes:
            return None
        points = self._accessors.floats(attributes["POSITION"])
        corners = self._corners(primitive, len(points))
        if len(corners) == 0:
            return None
        self._n_corners += len(corners)
        if self._n_corners > _MAX_CORNERS:
            raise MeshError(
                "too_large", f"{self._name} repeats its meshes to more than {_MAX_CORNERS} corners"
            )
        placed = self._placed(points, attributes, world, joints)
        material = int(primitive.get("material", -1))
        colours = self._per_vertex(attributes, "COLOR_0", len(points))
        uv_set, transform = self._materials.texture_coordinates(material)
        uvs = self._per_vertex(attributes, f"TEXCOORD_{uv_set}", len(points))
        return _Piece(
            vertices=checked_vertices(placed, self._name),
            corners=checked_corners(corners, len(points), self._name),
            uvs=None if uvs is None else (_homogeneous(uvs[:, :2]) @ transform.T)[corners, :2],
            colours=None if colours is None else colours[corners],
            material=self._materials.number(material, colours is not None),
        )

    def _corners(self, primitive: Document, n_points: int) -> npt.NDArray[np.int64]:
        """Returns the corners of triangles, whatever the primitive's mode; none for points and lines."""
        if "indices" in primitive:
            indices = self._accessors.read(primitive["indices"])[:, 0].astype(np.int64)
        else:
            indices = np.arange(n_points)
        mode, n = primitive.get("mode", 4), max(len(indices) - 2, 0)
        if mode == 4:
            triangles = indices[: len(indices) - len(indices) % 3]
        elif mode == 5:
            triangles = np.stack([indices[:n], indices[1 : n + 1], indices[2:]], axis=1)
        elif mode == 6:
            triangles = np.stack([indices[:1].repeat(n), indices[1 : n + 1], indices[2:]], axis=1)
        else:
            triangles = indices[:0]
        return triangles.reshape(-1)

    def _placed(self, points: Matrix, attributes: Document, world: Matrix, joints: Matrix | None) -> Matrix:
        with np.errstate(over="ignore", invalid="ignore"):  # checked_vertices says so
            if joints is None or "JOINTS_0" not in attributes:
                return _homogeneous(points) @ world[:3].T
            which = self._accessors.read(attributes["JOINTS_0"]).astype(np.int64)
            weights = self._per_vertex(attributes, "WEIGHTS_0", len(points))
            if weights is None or len(which) != len(points) or which.max() >= len(joints):
                raise MeshError("bad_index", f"{self._name} has a vertex that follows no joint")
            blended = np.einsum("vj,vjrc->vrc", weights, joints[which])
            moved: Matrix = np.einsum("vrc,vc->vr", blended[:, :3], _homogeneous(points))
            return moved

    def _per_vertex(self, attributes: Document, key: str, n: int) -> Matrix | None:
        if key not in attributes:
            return None
        values = self._accessors.floats(attributes[key])
        if len(values) != n:
            raise MeshError("bad_structure", f"{self._name} has {n} positions and {len(values)} of {key}")
        return values


def _homogeneous(points: Matrix) -> Matrix:
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)


def _world_matrices(document: Document, roots: list[int]) -> Iterator[tuple[int, Matrix]]:
    """Yields every node below the roots with its transform.

    Raises:
        MeshError: kind bad_structure: a node has two parents, as in a cycle.
    """
    waiting = [(root, np.eye(4)) for root in reversed(roots)]
    seen: set[int] = set()
    while waiting:
        index, parent = waiting.pop()
        node = entry(document, "nodes", index)
        if index in seen:
            raise MeshError("bad_structure", f"node {index} of the glTF has two parents or is in a cycle")
        seen.add(index)
        matrix = parent @ _local_matrix(node)
        yield index, matrix
        waiting += [(child, matrix) for child in reversed(node.get("children", []))]


def _local_matrix(node: Document) -> Matrix:
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    matrix = np.eye(4)
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), dtype=np.float64)
    matrix[:3, :3] = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    ) * np.array(node.get("scale", (1, 1, 1)), dtype=np.float64)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix


def _joined(pieces: list[_Piece], materials: tuple[Material, ...]) -> Geometry:
    starts = np.cumsum([0] + [len(piece.vertices) for piece in pieces[:-1]])
    sizes = [len(piece.corners) for piece in pieces]
    uvs = colours = None
    if any(piece.uvs is not None for piece in pieces):
        parts = [np.zeros((n, 2)) if p.uvs is None else p.uvs for p, n in zip(pieces, sizes, strict=True)]
        uvs = np.concatenate(parts).astype(np.float32)
        uvs[:, 1] = 1.0 - uvs[:, 1]  # glTF counts from the upper edge
    if any(piece.colours is not None for piece in pieces):
        colours = np.ones((sum(sizes), 4), dtype=np.float32)
        for piece, end, n in zip(pieces, np.cumsum(sizes), sizes, strict=True):
            if piece.colours is not None:
                colours[end - n : end, : piece.colours.shape[1]] = np.clip(np.nan_to_num(piece.colours), 0, 1)
    return Geometry(
        vertices=np.concatenate([piece.vertices for piece in pieces]),
        corners=np.concatenate([p.corners + s for p, s in zip(pieces, starts, strict=True)]).astype(np.int32),
        face_sizes=np.full(sum(sizes) // 3, 3, dtype=np.int32),
        uvs=uvs,
        colours=colours,
        face_materials=np.repeat([piece.material for piece in pieces], np.array(sizes) // 3).astype(np.int32),
        materials=materials,
    )


class _Materials:
    """Materials in the order in which primitives ask for them; one with and one without vertex colours."""

    def __init__(self, document: Document, accessors: Accessors, shelf: TextureShelf) -> None:
        self._document, self._accessors, self._shelf = document, accessors, shelf
        self._made: dict[tuple[int, bool], tuple[int, Material]] = {}
        self._images: dict[int, FoundTexture] = {}
        self.warnings: list[str] = []

    def all(self) -> tuple[Material, ...]:
        return tuple(material for _, material in self._made.values())

    def number(self, index: int, coloured: bool) -> int:
        """Returns the place of a material in `all`, -1 for faces without material and colours."""
        if index == -1 and not coloured:
            return -1
        if (index, coloured) not in self._made:
            made = Material("vertex colours") if index == -1 else self._material(index)
            made = Material(**{**made.__dict__, "vertex_colours": coloured})
            self._made[index, coloured] = len(self._made), made
        return self._made[index, coloured][0]

    def texture_coordinates(self, index: int) -> tuple[int, Matrix]:
        """Returns the set of texture coordinates that a material uses, and their transform [3, 3]."""
        info = self._surface(index)[1] if index >= 0 else None
        if info is None:
            return 0, np.eye(3)
        extension = info.get("extensions", {}).get("KHR_texture_transform", {})
        uv_set = int(extension.get("texCoord", info.get("texCoord", 0)))
        angle = float(extension.get("rotation", 0.0))
        sx, sy = map(float, extension.get("scale", (1, 1)))
        tx, ty = map(float, extension.get("offset", (0, 0)))
        cos, sin = np.cos(angle), np.sin(angle)
        return uv_set, np.array([[cos * sx, sin * sy, tx], [-sin * sx, cos * sy, ty], [0, 0, 1]])

    def _surface(self, index: int) -> tuple[list[float], Document | None]:
        """Returns base colour factor and texture info."""
        material = entry(self._document, "materials", index)
        glossy = material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
        if glossy is not None:
            return glossy.get("diffuseFactor", [1, 1, 1, 1]), glossy.get("diffuseTexture")
        rough = material.get("pbrMetallicRoughness", {})
        return rough.get("baseColorFactor", [1, 1, 1, 1]), rough.get("baseColorTexture")

    def _material(self, index: int) -> Material:
        document = entry(self._document, "materials", index)
        factor, info = self._surface(index)
        red, green, blue, alpha = (float(value) for value in factor)
        name = str(document.get("name", index))[:120]
        texture = self._texture(info, name) if info is not None else None
        mode = document.get("alphaMode", "OPAQUE")
        return Material(
            name=name,
            colour=(red, green, blue),
            alpha=1.0 if mode == "OPAQUE" else alpha,
            texture=texture,
            texture_alpha=mode != "OPAQUE",
            alpha_cutoff=float(document.get("alphaCutoff", 0.5)) if mode == "MASK" else None,
        )

    def _texture(self, info: Document, material: str) -> Texture | None:
        texture = entry(self._document, "textures", info["index"])
        source = texture.get(
            "source", texture.get("extensions", {}).get("EXT_texture_webp", {}).get("source")
        )
        if source is None:
            self.warnings.append(f"a texture of material {material} has no picture that can be read")
            return None
        image = entry(self._document, "images", source)
        if source not in self._images:
            self._images[source] = self._found(image)
        found = self._images[source]
        if found.path is None:
            uri = image.get("uri")
            shown = display_name(unquote_to_bytes(uri)) if isinstance(uri, str) else "in the file"
            name = str(image.get("name") or shown)[:120]
            self.warnings.append(f"texture {name} of material {material} {found.problem}{INSTEAD}")
            return None
        sampler = entry(self._document, "samplers", texture["sampler"]) if "sampler" in texture else {}
        beyond = [_EXTENSIONS.get(sampler.get(key, _REPEAT), "REPEAT") for key in ("wrapS", "wrapT")]
        if beyond[0] != beyond[1]:  # Blender has one setting for both
            self.warnings.append(
                f"a texture of material {material} goes on beyond its edges as {beyond[0].lower()} in u and "
                f"{beyond[1].lower()} in v: the first is drawn for both"
            )
        return Texture(
            found.path,
            beyond[0],
            "Closest" if sampler.get("magFilter") == _NEAREST else "Linear",
        )

    def _found(self, image: Document) -> FoundTexture:
        uri = image.get("uri")
        if not isinstance(uri, str) and "bufferView" not in image:
            return FoundTexture(None, "has neither data nor a file's name")
        try:
            inline = (
                self._accessors.view(image["bufferView"]) if "bufferView" in image else data_uri(str(uri))
            )
        except MeshError as error:
            return FoundTexture(None, f"is unreadable ({error})")
        if inline is None:
            return self._shelf.find(unquote_to_bytes(str(uri)))
        return self._shelf.add(inline, str(image.get("name", "in the file"))[:120])
