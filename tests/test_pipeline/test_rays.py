from __future__ import annotations

import math

import torch

from pipeline.model.rays import box_span, ray_span, sphere_span, view_rays


def _identity_camera(position: tuple[float, float, float]) -> torch.Tensor:
    cam2world = torch.eye(4)[None].clone()
    cam2world[0, :3, 3] = torch.tensor(position)
    return cam2world


def test_a_latent_pixels_ray_goes_through_the_centre_of_its_block() -> None:
    # 16x16 image, f = 8: block (row 0, col 1) has its centre at u = 12, v = 4. With focal 10 and centre (8,
    # 8): x = (12 - 8) / 10 = 0.4, y = (4 - 8) / 10 = -0.4, z = 1.
    intrinsics = torch.tensor([[[10.0, 0, 8], [0, 10, 8], [0, 0, 1]]])
    origins, directions = view_rays(_identity_camera((1, 2, 3)), intrinsics, 16, 16, downsample=8)
    assert origins.tolist() == [[1, 2, 3]]
    assert directions.shape == (1, 4, 1, 3)
    expected = torch.tensor([0.4, -0.4, 1.0]) / math.sqrt(0.4**2 + 0.4**2 + 1)
    torch.testing.assert_close(directions[0, 1, 0], expected)


def test_sub_rays_go_through_the_quarters_of_the_block() -> None:
    # The four quarters of block (0, 0) have centres (2, 2), (6, 2), (2, 6), (6, 6) in (u, v).
    intrinsics = torch.eye(3)[None]
    _, directions = view_rays(_identity_camera((0, 0, 0)), intrinsics, 16, 16, downsample=8, supersample=2)
    assert directions.shape == (1, 4, 4, 3)
    uv = directions[0, 0, :, :2] / directions[0, 0, :, 2:]
    torch.testing.assert_close(uv, torch.tensor([[2.0, 2], [6, 2], [2, 6], [6, 6]]))
    first_of_second_row = directions[0, 2, 0, :2] / directions[0, 2, 0, 2:]
    torch.testing.assert_close(first_of_second_row, torch.tensor([2.0, 10.0]))


def test_cameras_turn_directions_into_the_world() -> None:
    # Columns are the camera's axes in the world: right = +y, down = -z, forward = -x.
    cam2world = torch.eye(4)[None].clone()
    cam2world[0, :3, :3] = torch.tensor([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]])
    intrinsics = torch.tensor([[[1.0, 0, 0.5], [0, 1, 0.5], [0, 0, 1]]])
    _, directions = view_rays(cam2world, intrinsics, 1, 1)
    torch.testing.assert_close(directions[0, 0, 0], torch.tensor([-1.0, 0, 0]))


def test_box_span_by_hand() -> None:
    # From (2, 0, 0) along -x the box of half side 0.5 lies between 1.5 and 2.5; one ray passes by above.
    origins = torch.tensor([[2.0, 0, 0], [2.0, 0, 0.7], [0.0, 0, 0]])
    directions = torch.tensor([[-1.0, 0, 0], [-1.0, 0, 0], [0.0, 0, 1]])
    near, far = box_span(origins, directions, 0.5)
    torch.testing.assert_close(near[[0, 2]], torch.tensor([1.5, 0.0]))
    torch.testing.assert_close(far[[0, 2]], torch.tensor([2.5, 0.5]))
    assert far[1] < near[1]


def test_sphere_span_by_hand() -> None:
    # At height 0.3 the sphere of radius 0.5 is 0.4 deep on either side.
    near, far = sphere_span(torch.tensor([[2.0, 0, 0.3]]), torch.tensor([[-1.0, 0, 0]]), 0.5)
    torch.testing.assert_close(torch.stack([near, far])[:, 0], torch.tensor([1.6, 2.4]))


def test_span_is_the_intersection() -> None:
    origin, direction = torch.tensor([[2.0, 0, 0]]), torch.tensor([[-1.0, 0, 0]])
    near, far = ray_span(origin, direction, box_half=0.5, near=1.7, far=9.0, radius=0.4)
    torch.testing.assert_close(torch.stack([near, far])[:, 0], torch.tensor([1.7, 2.4]))
