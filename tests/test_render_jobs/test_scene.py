"""What a mesh looks like: colours, light, textures, materials, faces. All through the real renderer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from render_jobs.mesh_file import MeshInput
from render_jobs.worker import BlenderWorker, Rendered
from tests.test_render_jobs.meshes import COLOURED_CUBE, CUBE, cameras_at, render, srgb_u8, write_mesh

pytestmark = pytest.mark.bpy

FROM_ABOVE = cameras_at([0.0], [1.0])
FROM_FOUR_SIDES = cameras_at([0, 90, 180, 270], [0, 0, 0, 0])
PAINT = "newmtl paint\nKd 0.2 0.5 0.8\n"
# A unit square in the file's x-z plane (y up); texture coordinates as seen from above, +x right, −z up.
SQUARE = (
    "v 0 0 0\nv 1 0 0\nv 1 0 -1\nv 0 0 -1\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nusemtl paint\nf 1/1 2/2 3/3 4/4\n"
)


def centre_pixel(rendered: Rendered, view: int = 0) -> np.ndarray:
    size = rendered.images.shape[1]
    return rendered.images[view, size // 2, size // 2].astype(float)


def expected_colour(base: tuple[float, float, float], normal: tuple[float, float, float]) -> np.ndarray:
    """0.45 from below, 0.70 from above, linear in between; a sun of 0.29 from (0.40, −0.56, 0.7255)."""
    sun = max(0.0, float(np.dot(normal, (0.40, -0.56, 0.7255))))
    factor = 0.45 + 0.25 * (normal[2] + 1) / 2 + 0.29 * sun
    return srgb_u8([factor * c for c in base])


def test_colour_of_the_top_face_by_hand(worker: BlenderWorker, tmp_path: Path) -> None:
    # Top: 0.70 + 0.29 · 0.7255 = 0.9104; times Kd: 0.1821, 0.4552, 0.7283; in sRGB: 0.4642, 0.7059, 0.8713.
    path = write_mesh(tmp_path, COLOURED_CUBE, PAINT)
    pixel = centre_pixel(render(worker, path, FROM_ABOVE))
    np.testing.assert_allclose(pixel, [118.4, 180.0, 222.2, 255.0], atol=0.7)


def test_every_side_has_the_colour_of_its_normal_and_none_is_black(
    worker: BlenderWorker, tmp_path: Path
) -> None:
    path = write_mesh(tmp_path, COLOURED_CUBE, PAINT)
    rendered = render(worker, path, FROM_FOUR_SIDES)
    for view, normal in enumerate([(1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0)]):
        expected = expected_colour((0.2, 0.5, 0.8), normal)
        np.testing.assert_allclose(centre_pixel(rendered, view)[:3], expected, atol=0.7)
    below = render(worker, path, cameras_at([0.0], [-1.0]))
    np.testing.assert_allclose(
        centre_pixel(below)[:3], expected_colour((0.2, 0.5, 0.8), (0, 0, -1)), atol=0.7
    )


def test_images_are_free_of_noise_and_edges_keep_the_surface_colour(
    worker: BlenderWorker, tmp_path: Path
) -> None:
    image = render(worker, write_mesh(tmp_path, COLOURED_CUBE, PAINT), cameras_at([0.0], [1.0])).images[0]
    inside = image[image[..., 3] == 255][:, :3].astype(int)
    assert np.ptp(inside, axis=0).max() <= 1, "one flat face has one colour"
    tilted = render(worker, tmp_path / "mesh.obj", cameras_at([30.0], [0.999])).images[0]
    edge = (tilted[..., 3] > 60) & (tilted[..., 3] < 255)
    assert edge.sum() > 20
    assert np.abs(tilted[edge][:, :3].astype(float) - expected_colour((0.2, 0.5, 0.8), (0, 0, 1))).max() < 40
    assert not tilted[tilted[..., 3] == 0].any(), "clear pixels are zero"


def test_faces_repeated_with_reversed_winding_change_nothing(worker: BlenderWorker, tmp_path: Path) -> None:
    faces = [line for line in CUBE.splitlines() if line.startswith("f ")]
    reversed_faces = ["f " + " ".join(reversed(line.split()[1:])) for line in faces]
    cameras = cameras_at([20, 110, 200, 290], [0.5] * 4)
    once = render(worker, write_mesh(tmp_path / "once", CUBE), cameras)
    twice = render(worker, write_mesh(tmp_path / "twice", CUBE + "\n".join(reversed_faces) + "\n"), cameras)
    inside_out = render(
        worker,
        write_mesh(tmp_path / "out", "\n".join([*CUBE.splitlines()[:8], *reversed_faces]) + "\n"),
        cameras,
    )
    np.testing.assert_array_equal(once.images, twice.images)
    np.testing.assert_array_equal(once.images, inside_out.images)
    assert twice.info["n_faces"] == once.info["n_faces"] == 6


def test_smooth_normals_in_the_file_change_nothing(worker: BlenderWorker, tmp_path: Path) -> None:
    smooth = CUBE.replace("f ", "vn 0 1 0\ns 1\nf ", 1)
    smooth = "\n".join(
        "f " + " ".join(f"{v}//1" for v in line.split()[1:]) if line.startswith("f ") else line
        for line in smooth.splitlines()
    )
    cameras = cameras_at([20, 200], [0.5] * 2)
    flat = render(worker, write_mesh(tmp_path / "flat", CUBE), cameras)
    np.testing.assert_array_equal(
        flat.images, render(worker, write_mesh(tmp_path / "s", smooth), cameras).images
    )


def _texture(path: Path) -> None:
    """Quadrants: red and green above, blue and white below."""
    quarters = np.zeros((64, 64, 3), dtype=np.uint8)
    quarters[:32, :32], quarters[:32, 32:], quarters[32:, :32], quarters[32:, 32:] = (
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(quarters).save(path)


def _quadrants(rendered: Rendered) -> np.ndarray:
    """Colours of the four quadrants as seen from above with world +x to the right and +y up."""
    image = rendered.images[0].astype(float)
    middle, step = image.shape[0] // 2, image.shape[0] // 8
    offsets = [(-step, -step), (-step, step), (step, -step), (step, step)]
    return np.array([image[middle + row, middle + column, :3] for row, column in offsets])


# From azimuth −90° the camera's right axis is world +x, and its up axis is world +y: the file's −z.
TEXTURE_CAMERA = cameras_at([-90.0], [1.0])
LIT = 0.70 + 0.29 * 0.7255
QUADRANT_COLOURS = np.array(
    [srgb_u8([LIT * (c > 0) for c in rgb]) for rgb in np.eye(3)] + [srgb_u8([LIT] * 3)]
)


@pytest.mark.parametrize(
    ("written", "real"),
    [
        ("texture.png", "texture.png"),
        ("../images/texture.png", "../images/texture.png"),
        (r"..\images\texture.png", "../images/texture.png"),
        (r"C:\models\42\TEXTURE.PNG", "images/texture.png"),
    ],
)
def test_textures_lie_where_they_belong(
    worker: BlenderWorker, tmp_path: Path, written: str, real: str
) -> None:
    folder = tmp_path / "models"
    _texture((folder / real).resolve())
    path = write_mesh(folder, SQUARE, f"newmtl paint\nKd 0.1 0.1 0.1\nmap_Kd {written}\n")
    rendered = render(worker, MeshInput(path, tmp_path), TEXTURE_CAMERA)
    assert rendered.info["warnings"] == []
    assert rendered.info["n_textures"] == 1
    np.testing.assert_allclose(_quadrants(rendered), QUADRANT_COLOURS, atol=0.7)


@pytest.mark.parametrize(
    "content", [None, b"", b"<html>404</html>", b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "cut"]
)
def test_unreadable_textures_give_way_to_the_materials_colour(
    worker: BlenderWorker, tmp_path: Path, content: bytes | str | None
) -> None:
    texture = tmp_path / "texture.png"
    if content == "cut":
        _texture(texture)
        texture.write_bytes(texture.read_bytes()[:60])
    elif isinstance(content, bytes):
        texture.write_bytes(content)
    rendered = render(worker, write_mesh(tmp_path, SQUARE, PAINT + "map_Kd texture.png\n"), TEXTURE_CAMERA)
    [warning] = rendered.info["warnings"]
    assert "texture.png" in warning
    assert "paint" in warning
    np.testing.assert_allclose(
        _quadrants(rendered), expected_colour((0.2, 0.5, 0.8), (0, 0, 1))[None].repeat(4, 0), atol=0.7
    )


def test_missing_material_library_is_a_warning_and_grey(worker: BlenderWorker, tmp_path: Path) -> None:
    rendered = render(worker, write_mesh(tmp_path, "mtllib gone.mtl\n" + CUBE), FROM_ABOVE)
    assert any("gone.mtl" in warning for warning in rendered.info["warnings"])
    red, green, blue, alpha = centre_pixel(rendered)
    assert red == green == blue > 100
    assert alpha == 255


def test_two_materials_and_a_face_without_one(worker: BlenderWorker, tmp_path: Path) -> None:
    mtl = "newmtl a\nKd 1 0 0\nnewmtl b\nKd 0 0 1\n"
    obj = (
        "v 0 0 0\nv 1 0 0\nv 1 0 -1\nv 0 0 -1\nv 2 0 0\nv 2 0 -1\nusemtl a\nf 1 2 3 4\nusemtl b\nf 2 5 6 3\n"
    )
    image = render(worker, write_mesh(tmp_path, obj, mtl), TEXTURE_CAMERA).images[0]
    left, right = image[32, 20, :3], image[32, 44, :3]
    np.testing.assert_allclose(left, srgb_u8([LIT, 0, 0]), atol=0.7)
    np.testing.assert_allclose(right, srgb_u8([0, 0, LIT]), atol=0.7)


def test_half_transparent_material(worker: BlenderWorker, tmp_path: Path) -> None:
    rendered = render(worker, write_mesh(tmp_path, SQUARE, PAINT + "d 0.5\n"), FROM_ABOVE)
    pixel = centre_pixel(rendered)
    np.testing.assert_allclose(pixel[3], 127.5, atol=1)
    np.testing.assert_allclose(pixel[:3], expected_colour((0.2, 0.5, 0.8), (0, 0, 1)), atol=1.5)


def test_diffuse_shading_lights_every_side_and_never_clips(worker: BlenderWorker, tmp_path: Path) -> None:
    white = write_mesh(tmp_path, COLOURED_CUBE, "newmtl paint\nKd 1 1 1\n")
    rendered = render(worker, white, cameras_at([45, 225], [0.5, 0.5]), shading="diffuse")
    inside = rendered.images[rendered.images[..., 3] == 255][:, :3]
    assert inside.min() > 100
    assert inside.max() < 255
    plain = render(worker, white, cameras_at([45, 225], [0.5, 0.5]), samples=16)
    np.testing.assert_array_equal(rendered.images[..., 3], plain.images[..., 3])
