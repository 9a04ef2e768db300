from __future__ import annotations

import struct

import numpy as np
import pytest

from render_jobs.formats.stl import read_stl
from render_jobs.mesh_file import MeshError
from tests.test_render_jobs.mesh_writers import stl, stl_text

TRIANGLES = np.random.default_rng(0).normal(size=(5, 3, 3)).astype(np.float32)


def kind_of(content: bytes) -> str:
    with pytest.raises(MeshError, match=r"x\.stl") as caught:
        read_stl(content, "x.stl")
    return caught.value.kind


@pytest.mark.parametrize("write", [stl, stl_text])
def test_triangles(write: object) -> None:
    mesh = read_stl(write(TRIANGLES), "x.stl")  # type: ignore[operator]
    np.testing.assert_allclose(mesh.vertices[mesh.corners].reshape(5, 3, 3), TRIANGLES, rtol=1e-6)
    assert mesh.face_sizes.tolist() == [3] * 5


def test_every_truncation_is_noticed() -> None:
    whole = stl(TRIANGLES)
    for n in (30, 83, 84, 100, len(whole) - 1):
        assert kind_of(whole[:n]) in {"truncated", "not_a_mesh"}
    assert kind_of(whole[: len(whole) - 1]) == "truncated"
    text = stl_text(TRIANGLES)
    for n in range(100, len(text) - 20, 37):
        assert kind_of(text[:n]) == "truncated"


def test_lies_nonsense_and_nothing() -> None:
    lying = stl(TRIANGLES)[:80] + struct.pack("<I", 2**31) + stl(TRIANGLES)[84:]
    assert kind_of(lying) == "truncated"
    assert kind_of(
        b"just some text, and more of it than a header has, so that one could think that it is one"
    ) == ("not_a_mesh")
    assert kind_of(stl(TRIANGLES[:0])) == "no_faces"
    assert kind_of(b"solid nothing\nendsolid nothing\n") == "no_faces"
    bad = TRIANGLES.copy()
    bad[3, 1, 2] = np.nan
    assert kind_of(stl(bad)) == "bad_vertex"
    assert kind_of(stl_text(bad)) == "bad_vertex"
    assert kind_of(stl_text(TRIANGLES).replace(b"vertex ", b"vertex x", 1)) == "bad_vertex"


def test_long_numbers_keep_their_exponent() -> None:
    text = "solid x\nvertex 1.{}e-3 0 0\nvertex 1 0 0\nvertex 0 1 0\nendsolid\n"
    assert read_stl(text.format("0" * 40).encode(), "x.stl").vertices[0, 0] == np.float32(1e-3)
    assert kind_of(text.format("0" * 300).encode()) == "bad_vertex"
