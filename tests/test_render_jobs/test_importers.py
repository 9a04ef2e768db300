"""The same square and the same colours through every format and the real renderer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from render_jobs.mesh_file import MeshInput
from render_jobs.worker import BlenderWorker, Rendered
from tests.test_render_jobs.mesh_writers import Gltf, ply, square_gltf, stl
from tests.test_render_jobs.meshes import CUBE_CORNERS, CUBE_FACES, cameras_at, render, srgb_u8

pytestmark = pytest.mark.bpy

ABOVE = cameras_at([-90.0], [1.0])
LIT = 0.70 + 0.29 * 0.7255  # of a face that looks up
SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 0, -1], [0, 0, -1]], dtype=float)


def drawn(
    worker: BlenderWorker, folder: Path, name: str, content: bytes, camera: np.ndarray = ABOVE
) -> Rendered:
    (folder / name).write_bytes(content)
    return render(worker, MeshInput(folder / name, folder), camera)


def colour(rendered: Rendered, row: int = 32, column: int = 32) -> np.ndarray:
    return rendered.images[0, row, column].astype(float)


def test_all_formats_show_the_same_shape_in_the_same_frame(worker: BlenderWorker, tmp_path: Path) -> None:
    corners = CUBE_CORNERS * [1.0, 2.0, 3.0] + [5.0, 0.0, 0.0]
    faces = [[corner - 1 for corner in face] for face in CUBE_FACES]
    triangles = np.array([[f[0], f[i], f[i + 1]] for f in faces for i in (1, 2)])
    obj = "".join("v {} {} {}\n".format(*c) for c in corners)
    obj += "".join("f " + " ".join(str(v + 1) for v in face) + "\n" for face in faces)
    built = Gltf()
    built.node(mesh=built.mesh(corners, triangles.ravel()))
    contents = {
        "a.obj": obj.encode(),
        "a.PLY": ply(corners, faces),
        "b.ply": ply(corners, faces, None, "ascii"),
        "a.stl": stl(corners[triangles]),
        "a.glb": built.glb(),
        "a.gltf": built.gltf(),
    }
    cameras = cameras_at([20.0, 200.0], [0.5, -0.5])
    results = {name: drawn(worker, tmp_path, name, content, cameras) for name, content in contents.items()}
    first = results["a.obj"]
    for name, result in results.items():
        np.testing.assert_allclose(result.mesh_to_world, first.mesh_to_world, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(result.images, first.images, err_msg=name)
        assert result.info["warnings"] == ["faces without a material are drawn grey"]
    # (5, 1, 0) is the middle of the file's upper face: world (0, 0, half the height); the diagonal is √14.
    upper = first.mesh_to_world @ [5.0, 1.0, 0.0, 1.0]
    np.testing.assert_allclose(upper, [0, 0, 1 / np.sqrt(14), 1], atol=1e-6)


COLOURED = np.tile(np.array([[188, 64, 255]], dtype=np.uint8), (4, 1))
SEEN = srgb_u8([LIT * ((c / 255 + 0.055) / 1.055) ** 2.4 for c in (188, 64, 255)])


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_colours_of_ply_are_srgb(worker: BlenderWorker, tmp_path: Path, form: str) -> None:
    rendered = drawn(worker, tmp_path, "a.ply", ply(SQUARE, [[0, 1, 2, 3]], COLOURED, form))
    np.testing.assert_allclose(colour(rendered)[:3], SEEN, atol=0.7)
    assert rendered.info["warnings"] == []


def test_colours_of_obj_are_srgb(worker: BlenderWorker, tmp_path: Path) -> None:
    vertices = "".join("v {} {} {} {} {} {}\n".format(*v, *(COLOURED[0] / 255)) for v in SQUARE)
    rendered = drawn(worker, tmp_path, "a.obj", (vertices + "f 1 2 3 4\n").encode())
    np.testing.assert_allclose(colour(rendered)[:3], SEEN, atol=0.7)
    undefined = "mtllib gone.mtl\n" + vertices + "usemtl gone\nf 1 2 3 4\n"
    np.testing.assert_allclose(
        colour(drawn(worker, tmp_path, "b.obj", undefined.encode()))[:3], SEEN, atol=0.7
    )
    (tmp_path / "c.mtl").write_text("newmtl paint\nKd 0 1 0\n")
    painted = "mtllib c.mtl\n" + vertices + "usemtl paint\nf 1 2 3 4\n"
    np.testing.assert_allclose(
        colour(drawn(worker, tmp_path, "d.obj", painted.encode()))[:3], srgb_u8([0, LIT, 0]), atol=0.7
    )


def test_colours_are_kept_within_what_a_colour_can_be(worker: BlenderWorker, tmp_path: Path) -> None:
    vertices = "".join("v {} {} {} 0 5 0\n".format(*v) for v in SQUARE)
    rendered = drawn(worker, tmp_path, "a.obj", (vertices + "f 1 2 3 4\n").encode())
    red, green, blue, alpha = colour(rendered)
    assert (red, blue, alpha) == (0, 0, 255)
    np.testing.assert_allclose(green, srgb_u8([LIT])[0], atol=0.7)


@pytest.mark.parametrize("factor", [None, (0.5, 1.0, 0.25, 1.0)])
def test_colours_of_gltf_are_linear_and_multiply(
    worker: BlenderWorker, tmp_path: Path, factor: tuple[float, ...] | None
) -> None:
    built = Gltf()
    more: dict[str, Any] = {}
    if factor:
        built.add(
            "materials",
            pbrMetallicRoughness={"baseColorFactor": factor},
            extensions={"KHR_materials_unlit": {}},
        )
        more = {"material": 0}
    colours = np.tile(np.array([[0.5, 0.2, 0.8]], dtype="<f4"), (4, 1))
    built.node(mesh=built.mesh(SQUARE, np.array([0, 1, 2, 0, 2, 3]), COLOR_0=colours, **more))
    rendered = drawn(worker, tmp_path, "a.gltf", built.gltf())
    expected = srgb_u8([LIT * c * f for c, f in zip((0.5, 0.2, 0.8), factor or (1, 1, 1), strict=False)])
    np.testing.assert_allclose(colour(rendered)[:3], expected, atol=0.7)


def quarters(path: Path, alpha: int = 255) -> None:
    """Red and green above, blue and grey below; alpha of the upper half."""
    pixels = np.zeros((64, 64, 4), dtype=np.uint8)
    pixels[:32, :32], pixels[:32, 32:] = (255, 0, 0, alpha), (0, 255, 0, alpha)
    pixels[32:, :32], pixels[32:, 32:] = (0, 0, 255, 255), (188, 188, 188, 255)
    Image.fromarray(pixels).save(path)


def textured(**material: Any) -> Gltf:
    factor = material.pop("factor", [1, 1, 1, 1])
    rough = {"baseColorTexture": {"index": 0}, "baseColorFactor": factor}
    built = square_gltf(name="paint", pbrMetallicRoughness=rough, **material)
    built.add("textures", source=built.add("images", uri="quarters.png"))
    return built


def test_a_gltf_texture_lies_where_it_belongs_and_is_tinted(worker: BlenderWorker, tmp_path: Path) -> None:
    quarters(tmp_path / "quarters.png")
    rendered = drawn(worker, tmp_path, "a.gltf", textured(factor=[0.5, 0.25, 1, 1]).gltf())
    assert rendered.info["n_textures"] == 1
    half = ((188 / 255 + 0.055) / 1.055) ** 2.4
    for row, column, linear in [
        (24, 24, (0.5, 0, 0)),
        (24, 40, (0, 0.25, 0)),
        (40, 24, (0, 0, 1)),
        (40, 40, (0.5 * half, 0.25 * half, half)),
    ]:
        np.testing.assert_allclose(
            colour(rendered, row, column)[:3], srgb_u8([LIT * c for c in linear]), atol=0.7
        )


@pytest.mark.parametrize(
    ("mode", "upper"),
    [({}, 255), ({"alphaMode": "BLEND"}, 51), ({"alphaMode": "MASK", "alphaCutoff": 0.5}, 0)],
)
def test_alpha_of_gltf_textures(
    worker: BlenderWorker, tmp_path: Path, mode: dict[str, Any], upper: int
) -> None:
    quarters(tmp_path / "quarters.png", alpha=102)
    rendered = drawn(worker, tmp_path, "a.gltf", textured(factor=[1, 1, 1, 0.5], **mode).gltf())
    assert abs(colour(rendered, 24, 24)[3] - upper) <= 1  # 102/255 · 0.5 = 0.2
    lower = {"BLEND": 127.5}.get(mode.get("alphaMode", ""), 255)
    assert abs(colour(rendered, 40, 24)[3] - lower) <= 1
    if upper:
        np.testing.assert_allclose(colour(rendered, 24, 24)[:3], srgb_u8([LIT, 0, 0]), atol=2)


def test_meshes_do_not_wear_the_textures_of_those_before(worker: BlenderWorker, tmp_path: Path) -> None:
    """With persistent data Cycles knows textures by their path."""
    for i, rgb in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        folder = tmp_path / str(i)
        folder.mkdir()
        Image.new("RGB", (8, 8), rgb).save(folder / "quarters.png")
        rendered = drawn(worker, folder, "a.gltf", textured().gltf())
        assert int(np.argmax(colour(rendered)[:3])) == i


def test_faces_repeated_with_reversed_winding_are_dropped(worker: BlenderWorker, tmp_path: Path) -> None:
    rendered = drawn(worker, tmp_path, "a.ply", ply(SQUARE, [[0, 1, 2, 3], [3, 2, 1, 0]], COLOURED))
    assert rendered.info["n_faces"] == 1
    np.testing.assert_allclose(colour(rendered)[:3], SEEN, atol=0.7)


def test_a_mesh_of_many_materials_or_long_lines_looks_as_the_importer_draws_it(
    worker: BlenderWorker, tmp_path: Path
) -> None:
    """Both take the file out of the hands of Blender's importer."""
    quarters(tmp_path / "quarters.png", alpha=99)
    few = "newmtl a\nKd 0.1 0.9 0.4\nnewmtl b\nKd 0.3 0.2 0.9\nd 0.75\nnewmtl c\nmap_Kd quarters.png\n"
    (tmp_path / "few.mtl").write_text(few)
    (tmp_path / "many.mtl").write_text(few + "".join(f"newmtl x{i}\n" for i in range(100)))
    text = (
        "".join("v {} {} {}\n".format(*corner) for corner in CUBE_CORNERS)
        + "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
    )
    for face, name in zip(CUBE_FACES, "abcabd", strict=True):
        text += f"usemtl {name}\nf " + " ".join(f"{v}/{i + 1}" for i, v in enumerate(face)) + "\n"
    cameras = cameras_at([20.0, 140.0, 260.0], [0.5, -0.5, 0.0])
    contents = {
        "few": "mtllib few.mtl\n",
        "many": "mtllib many.mtl\n",
        "long": "#" * 999_999 + "\nmtllib few.mtl\n",
    }
    few_images, many_images, long_images = (
        drawn(worker, tmp_path, f"{name}.obj", (head + text).encode(), cameras).images
        for name, head in contents.items()
    )
    np.testing.assert_array_equal(many_images, few_images)
    np.testing.assert_array_equal(long_images, few_images)
