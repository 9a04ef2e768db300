from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.model.geometry import Axes
from pipeline.model.planes import PLANE_AXES, fuse, lookup, plane_cells, sample_planes


def _slow_sample(planes: np.ndarray, point: np.ndarray, box_half: float, axes: str) -> np.ndarray:
    """Bilinear reading, one texel at a time, straight from the definition."""
    K = planes.shape[-1]
    total = np.zeros(planes.shape[1])
    for p, (col_axis, row_axis) in enumerate(PLANE_AXES[axes]):
        # World [-h, h] covers K texels of width 2h/K, centres at half-integers.
        col = (point[col_axis] + box_half) / (2 * box_half) * K - 0.5
        row = (point[row_axis] + box_half) / (2 * box_half) * K - 0.5
        for r in (math.floor(row), math.floor(row) + 1):
            for c in (math.floor(col), math.floor(col) + 1):
                if 0 <= r < K and 0 <= c < K:
                    total += (1 - abs(row - r)) * (1 - abs(col - c)) * planes[p, :, r, c]
    return total


@pytest.mark.parametrize("axes", ["xyz", "eg3d"])
def test_sampling_equals_the_slow_reference(axes: Axes) -> None:
    rng = np.random.default_rng(0)
    planes = rng.normal(size=(2, 3, 4, 5, 5))
    points = rng.uniform(-0.8, 0.8, size=(2, 40, 3))  # a third lies outside of the box
    found = sample_planes(torch.from_numpy(planes), torch.from_numpy(points), 0.55, axes)
    expected = [[_slow_sample(planes[b], x, 0.55, axes) for x in points[b]] for b in range(2)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_sampling_equals_grid_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    planes = torch.randn(1, 3, 6, 8, 8, generator=generator)
    points = torch.rand(1, 50, 3, generator=generator) * 2.4 - 1.2
    grid = torch.stack([points[0][:, list(pair)] for pair in PLANE_AXES["xyz"]])[:, :, None]
    expected = torch.nn.functional.grid_sample(planes[0], grid, align_corners=False)[..., 0].sum(0).T
    torch.testing.assert_close(sample_planes(planes, points, 1.0)[0], expected)


def test_columns_run_along_the_first_axis_of_the_planes_name() -> None:
    # K = 4 and box_half = 1: texel c is centred at -0.75 + 0.5 c. The point (x, y, z) = (-0.75, 0.25, 0.75)
    # therefore reads column 0, 2, 3 along x, y, z:  xy[row 2, col 0] + xz[row 3, col 0] + yz[row 3, col 2].
    planes = torch.zeros(1, 3, 1, 4, 4)
    planes[0, 0, 0, 2, 0], planes[0, 1, 0, 3, 0], planes[0, 2, 0, 3, 2] = 1.0, 10.0, 100.0
    point = torch.tensor([[[-0.75, 0.25, 0.75]]])
    assert sample_planes(planes, point, 1.0).item() == 111.0


def test_eg3d_axes_have_zx_as_the_third_plane() -> None:
    # Same texels as above, but the third plane is (z, x): columns along z (3), rows along x (0).
    planes = torch.zeros(1, 3, 1, 4, 4)
    planes[0, 0, 0, 2, 0], planes[0, 1, 0, 3, 0], planes[0, 2, 0, 0, 3] = 1.0, 10.0, 100.0
    point = torch.tensor([[[-0.75, 0.25, 0.75]]])
    assert sample_planes(planes, point, 1.0, "eg3d").item() == 111.0
    assert sample_planes(planes, point, 1.0, "xyz").item() == 11.0


def test_half_a_texel_outside_still_blends_with_zero() -> None:
    # At the box's face the sample lies half a texel beyond the last centre: half of it, in one direction.
    planes = torch.ones(1, 3, 1, 4, 4)
    inside, face, outside = (torch.tensor([[[x, 0.0, 0.0]]]) for x in (0.0, 1.0, 1.3))
    assert sample_planes(planes, inside, 1.0).item() == pytest.approx(3.0)
    assert sample_planes(planes, face, 1.0).item() == pytest.approx(2.0)  # xy and xz halve, yz is whole
    assert sample_planes(planes, outside, 1.0).item() == pytest.approx(1.0)


def test_gradient_of_the_lookup() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(7, 3, generator=generator, dtype=torch.float64) - 0.5
    cells, weights = plane_cells(points, 3, 0.55)
    table = torch.randn(3 * 5 * 5, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: lookup(t, cells, weights, 3), (table,))


# One bag per row where few samples meet a small table; four where samples outnumber the 3·7² = 147 rows, and
# where rows do not fit 16 bits (K = 147: 3·149² = 66,603).
@pytest.mark.parametrize(("resolution", "n_points"), [(5, 100), (5, 400), (147, 60)])
def test_gradient_equals_that_of_grid_sample(resolution: int, n_points: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shape, wide = (1, 3, 6, resolution, resolution), {"generator": generator, "dtype": torch.float64}
    planes = torch.randn(shape, **wide, requires_grad=True)
    points = torch.rand(1, n_points, 3, **wide) * 2.4 - 1.2
    upstream = torch.randn(n_points, 6, **wide)
    grid = torch.stack([points[0][:, list(pair)] for pair in PLANE_AXES["xyz"]])[:, :, None]
    plain = torch.nn.functional.grid_sample(planes[0], grid, align_corners=False)[..., 0].sum(0).T
    (expected,) = torch.autograd.grad(plain, planes, upstream)
    found = [torch.autograd.grad(sample_planes(planes, points, 1.0)[0], planes, upstream)[0] for _ in "ab"]
    torch.testing.assert_close(found[0], expected)
    assert torch.equal(*found)  # additions in one order, always


def test_gradient_of_sampling_reaches_each_object_alone() -> None:
    planes = torch.randn(2, 3, 2, 4, 4, requires_grad=True)
    points = torch.rand(2, 9, 3) - 0.5
    sample_planes(planes, points, 0.55)[0].sum().backward()
    assert planes.grad is not None
    assert planes.grad[0].abs().sum() > 0
    assert planes.grad[1].abs().sum() == 0


def test_fused_planes_are_micro_first_then_the_weighted_base_planes() -> None:
    micro = torch.full((1, 3, 1, 2, 2), 7.0)
    base = torch.stack([torch.full((3, 2, 2, 2), 1.0), torch.full((3, 2, 2, 2), 10.0)])
    fused = fuse(micro, torch.tensor([[2.0, 0.5]]), base)
    assert fused.shape == (1, 3, 3, 2, 2)
    assert fused[0, 1, :, 0, 1].tolist() == [7.0, 7.0, 7.0]  # micro; 2·1 + 0.5·10 twice
    base[1] *= 2
    assert fuse(micro, torch.tensor([[2.0, 0.5]]), base)[0, 1, :, 0, 1].tolist() == [7.0, 12.0, 12.0]
    assert fuse(None, torch.tensor([[2.0, 0.5]]), base).shape == (1, 3, 2, 2, 2)
