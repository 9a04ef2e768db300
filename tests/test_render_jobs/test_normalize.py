from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from render_jobs.normalize import is_crowded, mesh_to_world, transform_points


def test_crowds() -> None:
    cube = np.indices((2, 2, 2)).reshape(3, -1).T / np.sqrt(12)
    assert not is_crowded(cube)
    assert not is_crowded(np.array([[0, 0, 0], [0.3, 0, 0], [0.5, 0.5, 0.7]]))
    assert is_crowded(np.concatenate([cube / 1000, [[0, 0, 1], [0, 0.5, 0]]]))


def test_box_by_hand() -> None:
    # A 2 × 3 × 6 box has diagonal 7, its centre goes to 0; file +y becomes world +z, file +z world −y.
    points = np.array([[0.0, 0, 0], [2, 3, 6]])
    matrix = mesh_to_world(points)
    np.testing.assert_allclose(
        transform_points(matrix, points), [[-1 / 7, 3 / 7, -1.5 / 7], [1 / 7, -3 / 7, 1.5 / 7]], atol=1e-7
    )
    np.testing.assert_allclose(matrix[:3, :3] * 7, [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-6)


@given(arrays(np.float64, (5, 3), elements=st.floats(-1e3, 1e3)))
def test_every_mesh_is_centred_with_diagonal_one(points: np.ndarray) -> None:
    extent = np.linalg.norm(np.ptp(points, axis=0))
    if extent < 1e-3 * (1 + np.abs(points).max()):
        return
    world = transform_points(mesh_to_world(points), points)
    low, high = world.min(axis=0), world.max(axis=0)
    np.testing.assert_allclose(low + high, 0, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(high - low), 1, atol=1e-5)


def test_the_map_keeps_angles_and_handedness() -> None:
    matrix = mesh_to_world(np.random.default_rng(0).normal(size=(9, 3)))[:3, :3]
    scale = np.cbrt(np.linalg.det(matrix))
    assert scale > 0
    np.testing.assert_allclose(matrix.T @ matrix, scale**2 * np.eye(3), atol=1e-6)


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((0, 3)),
        np.ones((4, 3)),
        np.array([[0, 0, 0], [np.nan, 1, 1]]),
        np.array([[0, 0, 0], [np.inf, 1, 1]]),
    ],
)
def test_meshes_without_a_size_are_refused(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match="mesh"):
        mesh_to_world(points)
