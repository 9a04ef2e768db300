from __future__ import annotations

import numpy as np
import pytest

from render_jobs.formats.ply import read_ply, undrawn_textures
from render_jobs.mesh_file import MeshError
from tests.test_render_jobs.mesh_writers import ORDER, ply

VERTICES = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.5]])
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [188, 188, 188]], dtype=np.uint8)


def kind_of(content: bytes) -> str:
    with pytest.raises(MeshError, match=r"x\.ply") as caught:
        read_ply(content, "x.ply")
    return caught.value.kind


@pytest.mark.parametrize("form", ORDER)
@pytest.mark.parametrize("faces", [[[0, 1, 2], [0, 2, 3]], [[0, 1, 2, 3], [0, 1, 2]], [[0, 1], [0, 1, 2]]])
def test_polygons_in_every_form(form: str, faces: list[list[int]]) -> None:
    mesh = read_ply(ply(VERTICES, faces, COLOURS, form), "x.ply")
    np.testing.assert_array_equal(mesh.vertices, VERTICES.astype(np.float32))
    kept = [face for face in faces if len(face) > 2]
    assert mesh.corners.tolist() == [v for face in kept for v in face]
    assert mesh.face_sizes.tolist() == [len(face) for face in kept]
    assert mesh.colours is not None
    assert mesh.colours.shape == (len(mesh.corners), 4)
    np.testing.assert_allclose(mesh.colours[:3, :3], np.eye(3)[: len(mesh.colours)], atol=1e-6)
    if 3 in mesh.corners:  # sRGB 188 is a linear half: ((188/255 + 0.055) / 1.055)^2.4 = 0.5029
        np.testing.assert_allclose(mesh.colours[mesh.corners == 3][0], [0.5029] * 3 + [1], atol=1e-4)


def test_colours_as_floats_and_other_elements_between() -> None:
    text = (
        b"ply\nformat ascii 1.0\nelement camera 1\nproperty float f\nproperty list int float l\n"
        b"element vertex 3\nproperty double x\nproperty double y\nproperty double z\n"
        b"property float red\nproperty float green\nproperty float blue\n"
        b"element face 1\nproperty list uchar uint vertex_index\nproperty uchar flags\nend_header\r\n"
        b"35 2 1.0 2.0\n0 0 0 1 0 nan\n1 0 0 0.5 9 0\n0 1 0 0 0 0\n3 0 1 2 7\n"
    )
    mesh = read_ply(text, "x.ply")
    assert mesh.colours is not None
    np.testing.assert_allclose(mesh.colours[:2], [[1, 0, 0, 1], [0.21404, 1, 0, 1]], atol=1e-5)


WHOLE = {form: ply(VERTICES, [[0, 1, 2], [0, 2, 3, 1]], COLOURS, form) for form in ORDER}


@pytest.mark.parametrize("form", ORDER)
def test_every_truncation_is_noticed(form: str) -> None:
    whole = WHOLE[form]
    start = whole.index(b"end_header") + 10
    for n in range(5, len(whole) - (2 if form == "ascii" else 0)):
        assert kind_of(whole[:n]) == "truncated", n
        assert n < start or b"end_header" in whole[:n]


@pytest.mark.parametrize("form", ORDER)
@pytest.mark.parametrize("element", ["vertex 4", "face 2"])
def test_counts_that_lie_are_refused_before_anything_is_allocated(form: str, element: str) -> None:
    lying = element.split()[0] + " 2147483648"
    assert kind_of(WHOLE[form].replace(element.encode(), lying.encode())) == "truncated"
    assert (
        kind_of(WHOLE[form].replace(element.encode(), element.split()[0].encode() + b" -1")) == "not_a_mesh"
    )


def test_lists_whose_length_lies() -> None:
    for form in ("ascii", "binary_little_endian"):
        content = ply(VERTICES, [[0, 1, 2]], None, form)
        count = content.rindex(b"3 0 1 2") if form == "ascii" else len(content) - 13
        assert (
            kind_of(content[:count] + (b"9" if form == "ascii" else b"\xff") + content[count + 1 :])
            == "truncated"
        )
    assert kind_of(ply(VERTICES, [[0, 1, 2]], None, "ascii").replace(b"3 0 1 2", b"nan 0 1 2")) == "truncated"


@pytest.mark.parametrize("form", ORDER)
def test_values_that_cannot_be(form: str) -> None:
    bad = VERTICES.copy()
    bad[2, 1] = np.nan
    assert kind_of(ply(bad, [[0, 1, 2]], None, form)) == "bad_vertex"
    bad[2, 1] = np.inf
    assert kind_of(ply(bad, [[0, 1, 2]], None, form)) == "bad_vertex"
    assert kind_of(ply(VERTICES, [[0, 1, 4]], None, form)) == "bad_index"
    assert kind_of(ply(VERTICES, [[0, 1, -1]], None, form)) == "bad_index"
    assert kind_of(ply(VERTICES, [], None, form)) == "no_faces"
    assert kind_of(ply(VERTICES[:0], [], None, form)) == "no_faces"


def test_text_that_is_no_number_and_files_that_are_no_ply() -> None:
    text = ply(VERTICES, [[0, 1, 2]], None, "ascii")
    assert kind_of(text.replace(b"0.5", b"abc")) == "bad_vertex"
    assert kind_of(text.replace(b"0.5", b"1e60")) == "bad_vertex"
    assert kind_of(b"plywood\n") == "not_a_mesh"
    assert kind_of(text.replace(b"float x", b"float a")) == "not_a_mesh"
    assert kind_of(text.replace(b"property float x", b"nonsense")) == "not_a_mesh"
    assert kind_of(text.replace(b"ascii 1.0", b"morse 1.0")) == "not_a_mesh"


def test_a_comment_may_have_the_word_that_ends_the_header() -> None:
    content = ply(VERTICES, [[0, 1, 2]]).replace(b"made by a test", b"no end_header here\ncomment end_header")
    assert read_ply(content, "x.ply").corners.tolist() == [0, 1, 2]
    assert undrawn_textures(content) == []


def test_strips_and_textures_are_said_not_to_be_read() -> None:
    content = ply(VERTICES, [[0, 1, 2]], None, "ascii").replace(b"element face", b"element tristrips")
    with pytest.raises(MeshError, match="triangle strips") as caught:
        read_ply(content, "x.ply")
    assert caught.value.kind == "unsupported"
    textured = ply(VERTICES, [[0, 1, 2]]).replace(
        b"comment made", b"comment TextureFile a/b c.png\r\ncomment made"
    )
    [warning] = undrawn_textures(textured)
    assert "texture b c.png is not drawn" in warning
