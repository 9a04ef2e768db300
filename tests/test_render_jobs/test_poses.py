from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from render_jobs.cameras import hemisphere_cameras, opencv_to_blender, seed_for, sphere_cameras
from render_jobs.config import RenderConfig
from render_jobs.poses import hashed_name, object_cameras, parse_rig, stored_key, stored_rig
from storage.errors import ConfigError, IntegrityError
from storage.store import Store

LENS = {"fl_x": 70.0, "fl_y": 70.0, "cx": 30.0, "cy": 34.5, "w": 64, "h": 64}


def camera_file(n: int = 4, **changes: Any) -> bytes:
    matrices = opencv_to_blender(sphere_cameras(n, 1.3, 8)).tolist()
    frames = [{"transform_matrix": matrix} for matrix in matrices]
    return json.dumps({**LENS, "frames": frames, **changes}).encode()


def positions(config: RenderConfig, object_id: str = "a") -> np.ndarray:
    return object_cameras(config, object_id).cam2world[:, :3, 3]


def test_the_hemisphere_is_what_it_was() -> None:
    config = RenderConfig(views=9, seed=4)
    expected = hemisphere_cameras(9, 1.3, seed_for(4, "car-1", "cameras"))
    np.testing.assert_array_equal(object_cameras(config, "car-1").cam2world, expected)
    # Recorded from the first version: datasets that exist go on with the same cameras.
    np.testing.assert_allclose(hemisphere_cameras(2, 1.3, 0)[1, :3, 3], RECORDED, atol=1e-7)


RECORDED = [-0.5492342710494995, 0.4437752962112427, 1.091515064239502]


def test_the_sphere_has_two_equal_halves() -> None:
    height = positions(RenderConfig(views=2000, poses="sphere"))[:, 2] / 1.3
    assert abs((height < 0).mean() - 0.5) < 0.01
    # Uniform over the area of a sphere means uniform in height (Archimedes).
    np.testing.assert_allclose(np.sort(height), np.linspace(-1, 1, 2000), atol=0.01)


@pytest.mark.parametrize(("azimuth", "elevation"), [(45.0, 30.0), (20.0, 0.0), (180.0, 90.0)])
def test_front_cameras_stay_within_their_angles_of_the_front(azimuth: float, elevation: float) -> None:
    config = RenderConfig(views=800, poses="front", front_azimuth_deg=azimuth, front_elevation_deg=elevation)
    x, y, z = positions(config).T / 1.3
    from_front, above = np.degrees(np.arctan2(x, y)), np.degrees(np.arcsin(np.clip(z, -1, 1)))
    assert np.abs(from_front).max() <= azimuth + 1e-3
    assert np.abs(above).max() <= elevation + 1e-3
    assert np.ptp(from_front) > 1.9 * azimuth
    assert np.ptp(above) >= 1.8 * elevation
    assert abs(from_front.mean()) < 0.05 * azimuth


def test_a_front_camera_looks_at_the_front() -> None:
    config = RenderConfig(views=2, poses="front", front_azimuth_deg=1e-3, front_elevation_deg=0)
    camera = object_cameras(config, "a").cam2world[0]
    # At +y, looking along −y: right is −x, down is −z.
    expected = [[-1, 0, 0, 0], [0, 0, -1, 1.3], [0, -1, 0, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(camera, expected, atol=1e-4)


@pytest.mark.parametrize("poses", ["hemisphere", "sphere", "front"])
def test_a_shared_rig_is_the_same_for_every_object(poses: str) -> None:
    own = RenderConfig(views=20, poses=poses)
    shared = own.model_copy(update={"shared_rig": True})
    assert np.abs(positions(own, "a") - positions(own, "b")).max() > 0.01
    for first, second in zip(object_cameras(shared, "a"), object_cameras(shared, "b"), strict=True):
        np.testing.assert_array_equal(first, second)
    assert object_cameras(shared, "a").heldout.sum() == 2


def test_cameras_of_a_file_are_those_of_every_object() -> None:
    config = RenderConfig(views=4, width=128, height=128, cameras="x.json")
    rig = parse_rig(camera_file(), "x.json")
    found = object_cameras(config, "a", rig)
    np.testing.assert_array_equal(found.cam2world, sphere_cameras(4, 1.3, 8))
    # 64 px doubled to 128.
    np.testing.assert_array_equal(found.intrinsics[2], [[140, 0, 60], [0, 140, 69], [0, 0, 1]])
    assert found.heldout.sum() == 1
    np.testing.assert_array_equal(found.heldout, object_cameras(config, "b", rig).heldout)


def test_a_file_may_say_what_is_held_out() -> None:
    frames = json.loads(camera_file())["frames"]
    frames[2]["heldout"] = True
    rig = parse_rig(camera_file(frames=frames), "x.json")
    config = RenderConfig(views=4, width=64, height=64, cameras="x.json")
    np.testing.assert_array_equal(object_cameras(config, "a", rig).heldout, [False, False, True, False])


@pytest.mark.parametrize(
    ("data", "size", "message"),
    [
        (camera_file(fl_y=70.1), (64, 64), "square"),
        (camera_file(), (64, 48), "another shape"),
        (camera_file(n=3), (64, 64), "3 frames"),
    ],
)
def test_cameras_that_do_not_suit_the_images(data: bytes, size: tuple[int, int], message: str) -> None:
    config = RenderConfig(views=4, width=size[0], height=size[1], cameras="x.json")
    with pytest.raises(ConfigError, match=message):
        object_cameras(config, "a", parse_rig(data, "x.json"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{}", "no frames"),
        (camera_file(n=1), "at least 2"),
        (camera_file(k1=0.1), "undistort"),
        (
            camera_file(frames=[{**f, "heldout": True} for f in json.loads(camera_file())["frames"]]),
            "every view",
        ),
    ],
)
def test_files_that_are_no_rig(data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_rig(data, "x.json")


def test_the_stored_copy_is_checked(tmp_path: Path) -> None:
    store, data = Store(tmp_path), camera_file()
    config = RenderConfig(views=4, cameras=hashed_name(data))
    with pytest.raises(IntegrityError, match="missing"):
        stored_rig(store, config)
    store.create(stored_key(hashed_name(data)), data)
    rig = stored_rig(store, config)
    assert rig is not None
    assert len(rig.frames) == 4
    store.replace(stored_key(hashed_name(data)), data + b" ")
    with pytest.raises(IntegrityError, match="checksum"):
        stored_rig(store, config)
    assert stored_rig(store, RenderConfig()) is None


def test_the_camera_file_of_the_documentation_can_be_used() -> None:
    text = (Path(__file__).parents[2] / "deploy/docs/views.md").read_text()
    example = text.split("```json\n")[1].split("```")[0].encode()
    config = RenderConfig(views=2, width=128, height=128, cameras="rig.json")
    found = object_cameras(config, "a", parse_rig(example, "views.md"))
    np.testing.assert_allclose(found.cam2world[:, :3, 3], [[0, -1.3, 0], [1.3, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(found.cam2world[:, :3, 2], [[0, 1, 0], [-1, 0, 0]], atol=1e-6)  # to the origin
    assert found.heldout.tolist() == [False, True]
