from __future__ import annotations

import numpy as np
import pytest

from render_jobs.formats.geometry import Material
from render_jobs.formats.obj_faces import read_obj
from render_jobs.mesh_file import MeshError

TEXT = b"""# v 9 9 9
v 0 0 0
v 1 0 0 0.5 0.5 0.5
vt 0.25 0.75
v 1 1 0
usemtl red
f 1/1 2 3/1/1
usemtl half red
v 0 1 0
f -4 -3 -2 -1
f 1 2 5
f 0 1 2
f 1 2
usemtl nobody
f 1//7 2//8 3
"""
LOOKS = {b"red": Material("red", (1, 0, 0)), b"half red": Material("half", (0.5, 0, 0))}


def test_faces_with_their_colours() -> None:
    mesh = read_obj(TEXT, LOOKS, "x.obj")
    np.testing.assert_array_equal(mesh.vertices, [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    assert mesh.corners.tolist() == [0, 1, 2, 0, 1, 2, 3, 0, 1, 2]
    assert mesh.face_sizes.tolist() == [3, 4, 3]
    assert mesh.uvs is not None
    assert mesh.uvs[:3].tolist() == [[0.25, 0.75], [0, 0], [0.25, 0.75]]
    assert mesh.colours is not None
    np.testing.assert_allclose(mesh.colours[[0, 3, 7], 0], [1, 0.5, 0.8])
    assert len(mesh.materials) == 1, "plain colours share one material"


def test_colours_of_vertices_stand_where_no_material_is_defined() -> None:
    text = b"v 0 0 0 1 0 0.5\nv 1 0 0 nan 2 0\nv 1 1 0\nf 1 2 3\nusemtl red\nf 1 2 3\n"
    mesh = read_obj(text, {b"red": Material("red", (1, 0, 0))}, "x.obj")
    assert mesh.colours is not None
    half = ((0.5 + 0.055) / 1.055) ** 2.4
    np.testing.assert_allclose(mesh.colours[:3, :3], [[1, 0, half], [0, 1, 0], [1, 1, 1]], rtol=1e-6)
    np.testing.assert_array_equal(mesh.colours[3:, :3], [[1, 0, 0]] * 3)
    undefined = read_obj(text, {}, "x.obj")
    assert undefined.colours is not None
    np.testing.assert_array_equal(undefined.colours[3:], mesh.colours[:3])
    assert undefined.materials == ()


def test_no_faces() -> None:
    with pytest.raises(MeshError) as caught:
        read_obj(b"v 0 0 0\nf 1 2 3\n", {}, "x.obj")
    assert caught.value.kind == "no_faces"
