from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from render_jobs.formats.geometry import Geometry
from render_jobs.mesh_file import FileLimits, MeshError, MeshInput
from render_jobs.prepare import PreparedMesh, prepare_mesh
from tests.test_render_jobs.mesh_writers import Gltf, square_gltf

CORNERS = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype="<f4")
TWO = np.array([0, 1, 2, 0, 2, 3])


def prepared(tmp_path: Path, content: bytes, name: str = "mesh.gltf", limit: int = 1 << 20) -> PreparedMesh:
    root = tmp_path / "root"
    (root / "models").mkdir(parents=True, exist_ok=True)
    (root / "models" / name).write_bytes(content)
    private = tmp_path / "private"
    private.mkdir()
    return prepare_mesh(MeshInput(root / "models" / name, root), private, FileLimits(limit, 10_000))


def geometry(mesh: PreparedMesh) -> Geometry:
    assert isinstance(mesh.content, Geometry)
    return mesh.content


def kind_of(tmp_path: Path, content: bytes, name: str = "mesh.gltf", limit: int = 1 << 20) -> str:
    with pytest.raises(MeshError) as caught:
        prepared(tmp_path, content, name, limit)
    (tmp_path / "private").rmdir()
    return caught.value.kind


def simple() -> Gltf:
    built = Gltf()
    built.node(mesh=built.mesh(CORNERS, TWO))
    return built


@pytest.mark.parametrize("name", ["mesh.glb", "mesh.GLB", "mesh.gltf", "outside.gltf"])
def test_buffers_inside_and_outside(tmp_path: Path, name: str) -> None:
    built = simple()
    content = built.glb() if name.lower().endswith("glb") else built.gltf()
    if name == "outside.gltf":
        (tmp_path / "root").mkdir()
        (tmp_path / "root/my data.bin").write_bytes(built.binary)
        content = built.gltf("../my%20data.bin")
    mesh = geometry(prepared(tmp_path, content, name))
    np.testing.assert_array_equal(mesh.vertices, CORNERS)
    assert mesh.corners.tolist() == TWO.tolist()
    assert mesh.face_sizes.tolist() == [3, 3]
    assert mesh.materials == ()


def test_nodes_transform_and_repeat_meshes(tmp_path: Path) -> None:
    # Child: quarter turn about z, (x, y, z) → (−y, x, z), scaled by 2; parent: moved by (10, 0, 0).
    built = Gltf()
    mesh, half = built.mesh(CORNERS, TWO), 0.5**0.5
    child = built.node(root=False, mesh=mesh, rotation=[0, 0, half, half], scale=[2, 2, 2])
    built.node(children=[child], matrix=[1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 10, 0, 0, 1])
    built.node(mesh=mesh, translation=[0, 0, 5])
    built.node(root=False, mesh=mesh, translation=[99, 99, 99])  # in no scene
    vertices = geometry(prepared(tmp_path, built.glb(), "mesh.glb")).vertices
    np.testing.assert_allclose(vertices[:4], [[10, 0, 0], [10, 2, 0], [8, 2, 0], [8, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(vertices[4:], CORNERS + np.array([0, 0, 5]), atol=1e-6)


def test_strips_fans_unindexed_and_what_is_no_face(tmp_path: Path) -> None:
    built = Gltf()
    for more in ({"mode": 5}, {"mode": 6}, {}, {"mode": 0}, {"mode": 1}):
        built.node(mesh=built.mesh(CORNERS, None, **more))
    corners = geometry(prepared(tmp_path, built.gltf())).corners
    assert corners.tolist() == [0, 1, 2, 1, 2, 3, 4, 5, 6, 4, 6, 7, 8, 9, 10]


def test_interleaved_quantised_and_sparse_attributes(tmp_path: Path) -> None:
    built = Gltf()
    raw = np.zeros((4, 8), dtype="<i2")
    raw[:, 2:5] = CORNERS * 32767
    view = built.view(raw.tobytes(), byteStride=16)
    dense = {"bufferView": view, "byteOffset": 4, "componentType": 5122, "type": "VEC3", "count": 4}
    position = built.add("accessors", **dense, normalized=True)
    built.node(mesh=built.add("meshes", primitives=[{"attributes": {"POSITION": position}, "mode": 6}]))
    indices = {"bufferView": built.view(np.array([2, 3], dtype="<u1").tobytes()), "componentType": 5121}
    values = {"bufferView": built.view(np.array([[7, 8, 9], [4, 5, 6]], dtype="<f4").tobytes())}
    sparse = {"count": 2, "indices": indices, "values": values}
    position = built.add("accessors", componentType=5126, type="VEC3", count=4, sparse=sparse)
    built.node(mesh=built.add("meshes", primitives=[{"attributes": {"POSITION": position}, "mode": 6}]))
    vertices = geometry(prepared(tmp_path, built.gltf())).vertices
    np.testing.assert_allclose(vertices[:4], CORNERS, atol=1e-6)
    assert vertices[4:].tolist() == [[0, 0, 0], [0, 0, 0], [7, 8, 9], [4, 5, 6]]


def test_a_skin_at_rest(tmp_path: Path) -> None:
    """Two joints, moved by (0, 0, 1) and (0, 0, 3); the inverse bind matrices move by (5, 0, 0)."""
    built = Gltf()
    joints = [built.node(translation=[0, 0, z]) for z in (1, 3)]
    inverse = np.tile(np.eye(4, dtype="<f4"), (2, 1, 1))
    inverse[:, 3, 0] = 5  # column-major
    skin = built.add("skins", joints=joints, inverseBindMatrices=built.accessor(inverse.reshape(2, 16)))
    which = np.array([[0, 1, 0, 0]] * 4, dtype="u1")
    weights = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0.5, 0.5, 0, 0], [1, 0, 0, 0]], dtype="<f4")
    mesh = built.mesh(CORNERS, TWO, JOINTS_0=which, WEIGHTS_0=weights)
    built.node(mesh=mesh, skin=skin, translation=[100, 0, 0])  # which a skin overrides
    vertices = geometry(prepared(tmp_path, built.gltf())).vertices
    np.testing.assert_allclose(vertices, CORNERS + np.array([[5, 0, z] for z in (1, 3, 2, 1)]), atol=1e-6)


def test_materials_and_vertex_colours(tmp_path: Path) -> None:
    built = Gltf()
    built.add("materials", name="lit", pbrMetallicRoughness={"baseColorFactor": [0.1, 0.2, 0.3, 0.4]})
    built.add(
        "materials",
        name="unlit",
        alphaMode="MASK",
        alphaCutoff=0.25,
        pbrMetallicRoughness={"baseColorFactor": [1, 0, 0, 0.4]},
        extensions={"KHR_materials_unlit": {}},
    )
    glossy = {"KHR_materials_pbrSpecularGlossiness": {"diffuseFactor": [0, 1, 0, 0.5]}}
    built.add("materials", name="old", alphaMode="BLEND", extensions=glossy)
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128]], dtype="u1")
    padded = np.concatenate([colours, np.full((4, 1), 255, dtype="u1")], axis=1)
    built.node(mesh=built.mesh(CORNERS, TWO, material=0))
    built.node(mesh=built.mesh(CORNERS, TWO, material=1, COLOR_0=colours.astype("<f4") / 255))
    built.node(mesh=built.mesh(CORNERS, TWO, material=2))
    built.node(mesh=built.mesh(CORNERS, TWO))
    built.node(mesh=built.mesh(CORNERS, TWO, COLOR_0=padded))
    built.document["accessors"][-2]["normalized"] = True
    mesh = geometry(prepared(tmp_path, built.gltf()))
    assert mesh.face_materials is not None
    assert mesh.face_materials.tolist() == [0, 0, 1, 1, 2, 2, -1, -1, 3, 3]
    lit, unlit, old, plain = mesh.materials
    assert (lit.colour, lit.alpha, lit.vertex_colours) == ((0.1, 0.2, 0.3), 1.0, False)
    assert (unlit.colour, unlit.alpha, unlit.alpha_cutoff, unlit.vertex_colours) == (
        (1, 0, 0),
        0.4,
        0.25,
        True,
    )
    assert (old.colour, old.alpha, old.alpha_cutoff) == ((0, 1, 0), 0.5, None)
    assert (plain.colour, plain.vertex_colours) == ((1, 1, 1), True)
    assert mesh.colours is not None
    expected = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]])
    np.testing.assert_allclose(mesh.colours[6:9], expected, atol=1e-6)
    np.testing.assert_allclose(mesh.colours[24:27], expected, atol=1e-6)
    np.testing.assert_allclose(mesh.colours[29], [128 / 255] * 3 + [1], atol=1e-6)


def picture(path: Path) -> bytes:
    Image.new("RGB", (8, 8), "red").save(path)
    return path.read_bytes()


def textured(image: dict[str, Any], **info: Any) -> Gltf:
    built = square_gltf(name="paint", pbrMetallicRoughness={"baseColorTexture": {"index": 0, **info}})
    built.add("textures", source=built.add("images", **image), sampler=0)
    built.add("samplers", wrapS=33071, magFilter=9728)
    return built


@pytest.mark.parametrize("where", ["inside", "data", "file", "name"])
def test_textures_from_everywhere(tmp_path: Path, where: str) -> None:
    png = picture(tmp_path / "p.png")
    inline = "data:image/png;base64," + base64.b64encode(png).decode()
    written = {"data": inline, "file": "../images/a%20b.png", "name": "C:/x/A%20B.PNG"}
    (tmp_path / "root/images").mkdir(parents=True)
    (tmp_path / "root/images/a b.png").write_bytes(png)
    built = textured({} if where == "inside" else {"uri": written[where]})
    if where == "inside":
        built.document["images"][0] |= {"bufferView": built.view(png), "mimeType": "image/png"}
    mesh = prepared(tmp_path, built.glb(), "mesh.glb")
    assert mesh.warnings == []
    [material] = geometry(mesh).materials
    assert material.texture is not None
    assert material.texture.path.read_bytes() == png
    assert (material.texture.extension, material.texture.interpolation) == ("EXTEND", "Closest")


@pytest.mark.parametrize(
    "uri",
    [
        "gone.png",
        "../../secret.png",
        "/etc/passwd",
        "https://x.org/a.png",
        "data:image/png;base64,AAAA",
        "data:x;base64,A",
    ],
)
def test_textures_that_cannot_be_had(tmp_path: Path, uri: str) -> None:
    picture(tmp_path / "secret.png")
    mesh = prepared(tmp_path, textured({"uri": uri}).gltf())
    assert geometry(mesh).materials[0].texture is None
    [warning] = mesh.warnings
    assert "of material paint" in warning
    assert "material colour used" in warning
    assert len(warning) < 200


def test_texture_coordinates(tmp_path: Path) -> None:
    (tmp_path / "root/models").mkdir(parents=True)
    picture(tmp_path / "root/models/a.png")
    uvs = geometry(prepared(tmp_path / ".", textured({"uri": "a.png"}).gltf())).uvs
    assert uvs is not None
    np.testing.assert_allclose(uvs[:3], [[0, 0], [1, 0], [1, 1]])
    shutil.rmtree(tmp_path / "private")
    # Scale by (2, 3), turn by 90° (u, v) → (v, −u), move by (0.5, 0.25), v down: (1, 1) → (3.5, −1.75).
    transform = {"scale": [2, 3], "rotation": np.pi / 2, "offset": [0.5, 0.25]}
    moved = textured({"uri": "a.png"}, extensions={"KHR_texture_transform": transform}).gltf()
    uvs = geometry(prepared(tmp_path, moved)).uvs
    assert uvs is not None
    np.testing.assert_allclose(uvs[1], [3.5, 1 + 1.75], atol=1e-6)


def _change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *keys, last = path.split(".")
        at: Any = document
        for key in keys:
            at = at[int(key)] if isinstance(at, list) else at[key]
        at[int(last) if isinstance(at, list) else last] = value

    return change


BROKEN: dict[str, tuple[str, str, Any]] = {
    "huge count": ("truncated", "accessors.0.count", 2**31),
    "huge index count": ("truncated", "accessors.1.count", 2**40),
    "negative count": ("bad_structure", "accessors.0.count", -1),
    "view beyond its buffer": ("truncated", "bufferViews.0.byteLength", 10**9),
    "view far out": ("truncated", "bufferViews.1.byteOffset", 10**9),
    "buffer that lies": ("truncated", "buffers.0.byteLength", 10**6),
    "accessor far out": ("truncated", "accessors.0.byteOffset", 10**9),
    "tiny stride": ("truncated", "bufferViews.0.byteStride", 1),
    "no such view": ("bad_index", "accessors.0.bufferView", 17),
    "negative view": ("bad_index", "accessors.0.bufferView", -1),
    "no such accessor": ("bad_index", "meshes.0.primitives.0.indices", 17),
    "no such mesh": ("bad_index", "nodes.0.mesh", 17),
    "no such node": ("bad_index", "scenes.0.nodes", [17]),
    "no such scene": ("bad_index", "scene", 3),
    "no such material": ("bad_index", "meshes.0.primitives.0.material", 4),
    "cycle": ("bad_structure", "nodes.0.children", [0]),
    "two parents": ("bad_structure", "scenes.0.nodes", [0, 0]),
    "nodes that are none": ("bad_structure", "nodes", [1]),
    "text for a number": ("bad_structure", "nodes.0.translation", ["a", "b", "c"]),
    "matrix of nine": ("bad_structure", "nodes.0.matrix", [1] * 9),
    "list for an object": ("bad_structure", "meshes.0.primitives.0.attributes", 5),
    "unknown type": ("bad_structure", "accessors.0.type", "VEC9"),
    "unknown component": ("bad_structure", "accessors.0.componentType", 1),
    "infinite transform": ("bad_vertex", "nodes.0.scale", [1e300, 1, 1e300]),
    "buffer out of the root": ("unsafe_reference", "buffers.0.uri", "../../secret.bin"),
    "absolute buffer": ("unsafe_reference", "buffers.0.uri", "/etc/passwd"),
    "buffer of the web": ("unsafe_reference", "buffers.0.uri", "https://example.org/x.bin"),
    "missing buffer": ("missing_file", "buffers.0.uri", "gone.bin"),
    "broken data uri": ("bad_structure", "buffers.0.uri", "data:x;base64,A"),
    "no uri": ("bad_structure", "buffers.0.uri", 7),
    "nothing in the scene": ("no_faces", "scenes.0.nodes", []),
    "compressed": ("unsupported", "extensionsRequired", ["KHR_draco_mesh_compression"]),
    "zeros without end": (
        "too_large",
        "accessors.0",
        {"componentType": 5126, "type": "VEC3", "count": 2**31},
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_documents(tmp_path: Path, name: str) -> None:
    kind, path, value = BROKEN[name]
    document = json.loads(simple().gltf())
    (tmp_path / "secret.bin").write_bytes(simple().binary)
    _change(path, value)(document)
    assert kind_of(tmp_path, json.dumps(document).encode()) == kind


def test_vertices_and_indices_that_cannot_be(tmp_path: Path) -> None:
    built = Gltf()
    built.node(mesh=built.mesh(CORNERS, np.array([0, 1, 4])))
    assert kind_of(tmp_path, built.gltf()) == "bad_index"
    built, bad = Gltf(), CORNERS.copy()
    bad[1, 1] = np.nan
    built.node(mesh=built.mesh(bad, TWO))
    assert kind_of(tmp_path, built.gltf()) == "bad_vertex"


def test_containers_that_are_cut_or_none(tmp_path: Path) -> None:
    glb, gltf = simple().glb(), simple().gltf()
    for n in (6, 19, 40, len(glb) // 2, len(glb) - 1):
        assert kind_of(tmp_path, glb[:n], "mesh.glb") == "truncated"
    for n in (10, len(gltf) // 2, len(gltf) - 1):
        assert kind_of(tmp_path, gltf[:n]) == "truncated"
    assert kind_of(tmp_path, glb[:4] + b"\1\0\0\0" + glb[8:], "mesh.glb") == "not_a_mesh"
    for content in (b"PK\x03\x04" + bytes(99), b"[]", b"{}", b"[" * 100_000, b"\xff\xfe"):
        assert kind_of(tmp_path, content) == "not_a_mesh"


def test_the_sum_of_all_buffers_is_bounded(tmp_path: Path) -> None:
    built = simple()
    (tmp_path / "root/models").mkdir(parents=True)
    (tmp_path / "root/models/data.bin").write_bytes(built.binary.ljust(10_000))
    document = json.loads(built.gltf("data.bin"))
    document["buffers"] = [{"byteLength": 10_000, "uri": "data.bin"}] * 2
    document["bufferViews"][1]["buffer"] = 1
    content = json.dumps(document).encode()
    assert kind_of(tmp_path, content, limit=19_999) == "too_large"
    prepared(tmp_path, content, limit=20_000)
