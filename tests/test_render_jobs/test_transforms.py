from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from render_jobs.cameras import opencv_to_blender, sphere_cameras
from render_jobs.transforms import CameraFileError, Frame, read_frames, read_json

EYE = np.eye(4).tolist()
LENS = {"fl_x": 100.0, "fl_y": 90.0, "cx": 30.0, "cy": 20.0, "w": 64, "h": 48}


def frames_of(values: dict[str, Any], **options: Any) -> list[Frame]:
    return read_frames(read_json(json.dumps(values).encode(), "t.json"), "t.json", **options)


def one(**changes: Any) -> dict[str, Any]:
    return {**LENS, "frames": [{"file_path": "a.png", "transform_matrix": EYE, **changes}]}


def test_opengl_axes_turn_to_opencv_by_hand() -> None:
    # OpenGL's identity camera looks along −z with +y up: in OpenCV's axes its y and z columns turn round.
    [frame] = frames_of(one())
    np.testing.assert_array_equal(frame.cam2world, np.diag([1, -1, -1, 1]))
    for said in ({"axes": "opencv"}, {}):
        [frame] = frames_of({**one(), **said}, axes="opencv")
        np.testing.assert_array_equal(frame.cam2world, np.eye(4))
    [frame] = frames_of({**one(), "axes": "opengl"}, axes="opencv")
    np.testing.assert_array_equal(frame.cam2world, np.diag([1, -1, -1, 1]))


def test_float32_cameras_survive_exactly() -> None:
    cam2world = sphere_cameras(50, 1.3, 1)
    entries = [{"transform_matrix": m} for m in opencv_to_blender(cam2world).tolist()]
    found = frames_of({"camera_angle_x": 0.9, "frames": entries})
    np.testing.assert_array_equal(np.float32([frame.cam2world for frame in found]), cam2world)


def test_intrinsics_scale_with_the_image() -> None:
    # 64×48 halved: every length halves.
    [frame] = frames_of(one())
    np.testing.assert_array_equal(
        frame.lens.matrix((64, 48), (32, 24)), [[50, 0, 15], [0, 45, 10], [0, 0, 1]]
    )
    np.testing.assert_array_equal(frame.lens.matrix((9, 9), (64, 48))[:, 2], [30, 20, 1])


def test_an_angle_is_a_focal_length_by_hand() -> None:
    # Half of 90° has the tangent 1: f = 0.5 · 80 / 1 = 40 px, principal point in the middle of 80×60.
    [frame] = frames_of({"camera_angle_x": math.pi / 2, "frames": [{"transform_matrix": EYE}]})
    matrix = frame.lens.matrix((80, 60), (80, 60))
    np.testing.assert_allclose(matrix, [[40, 0, 40], [0, 40, 30], [0, 0, 1]], rtol=1e-6)


def test_a_frame_overrides_what_all_share() -> None:
    [frame] = frames_of(one(fl_x=7.0, cx=1.0))
    assert frame.lens.fl_px == (7.0, 90.0)
    assert frame.lens.centre_px == (1.0, 20.0)


def test_one_focal_length_serves_both_axes_and_wins_over_the_angle() -> None:
    [frame] = frames_of({"fl_x": 5, "camera_angle_x": 1.0, "frames": [{"transform_matrix": EYE[:3]}]})
    assert frame.lens.fl_px == (5.0, 5.0)


def test_a_nearly_orthonormal_rotation_is_made_exact() -> None:
    rough = np.round(sphere_cameras(1, 1.3, 3)[0].astype(float), 4)
    [frame] = frames_of({**one(transform_matrix=rough.tolist()), "axes": "opencv"})
    rotation = frame.cam2world[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(rotation, rough[:3, :3], atol=2e-4)
    np.testing.assert_array_equal(frame.cam2world[:3, 3], rough[:3, 3])


SPLITS = [
    (
        {"train_filenames": ["./a", "b"], "test_filenames": ["c"], "val_filenames": ["d"]},
        {"a": 0, "b": 0, "c": 1},
    ),
    ({"train_filenames": ["a", "b"], "val_filenames": ["d"]}, {"a": 0, "b": 0, "d": 1}),
    ({"train_filenames": ["a", "b"]}, {"a": 0, "b": 0}),
    ({}, {"a": None, "b": None, "c": None, "d": None}),
]


@pytest.mark.parametrize(("split", "expected"), SPLITS)
def test_the_split_of_a_file(split: dict[str, Any], expected: dict[str, int | None]) -> None:
    entries = [{"file_path": name, "transform_matrix": EYE} for name in "abcd"]
    found = frames_of({**LENS, **split, "frames": entries})
    assert {frame.name: frame.heldout for frame in found} == expected


MIRROR = np.diag([1.0, 1.0, -1.0, 1.0]).tolist()
BAD = [
    (one(transform_matrix=MIRROR), "left-handed"),
    (one(transform_matrix=np.diag([2.0, 2, 2, 1]).tolist()), "unit length"),
    (one(transform_matrix=[[1, 2]]), "4×4"),
    (one(transform_matrix=None), "4×4"),
    (one(transform_matrix=[["x"] * 4] * 4), "4×4"),
    (one(transform_matrix=[[1, 0, 0, math.nan], *EYE[1:]]), "not finite"),
    (one(transform_matrix=[[1, 0, 0, 1e30], *EYE[1:]]), "not finite"),
    (one(transform_matrix=[*EYE[:3], [0, 0, 1, 1]]), "last row"),
    (one(k1=0.1), "k1 = 0.1"),
    ({**one(), "distortion_params": [0, 0, 0.2, 0]}, r"distortion_params\[2\] = 0.2"),
    ({**one(), "camera_model": "OPENCV_FISHEYE"}, "OPENCV_FISHEYE"),
    ({**one(), "is_fisheye": True}, "pinhole"),
    (one(fl_x=-1.0), "not positive"),
    (one(fl_x="5"), "not a number"),
    (one(fl_x=True), "not a number"),
    (one(cx=math.inf), "not a number"),
    (one(w=10.5), "no image size"),
    (one(h=10**7), "no image size"),
    (one(h=None), "only one of w and h"),
    (one(heldout="yes"), "heldout"),
    (one(file_path=3), "no name"),
    (one(file_path="a\ud800.png"), "no name"),
    (one(file_path="a\0.png"), "no name"),
    ({"frames": [{"transform_matrix": EYE}]}, "camera_angle_x"),
    ({"camera_angle_x": 4.0, "frames": [{"transform_matrix": EYE}]}, "radians"),
    ({**one(), "axes": "maya"}, "maya"),
    ({**one(), "test_filenames": "a.png"}, "no list of names"),
    ({**LENS, "frames": ["x"]}, "no object"),
    ({**LENS, "frames": []}, "no frames"),
    ({"frames": {}}, "no frames"),
    ({}, "no frames"),
]


@pytest.mark.parametrize(("values", "message"), BAD)
def test_bad_cameras_say_what_is_wrong_and_where(values: dict[str, Any], message: str) -> None:
    with pytest.raises(CameraFileError, match=message) as caught:
        frames_of(values)
    assert "t.json" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"<html>", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object(data: bytes) -> None:
    with pytest.raises(CameraFileError, match=r"t\.json"):
        read_json(data, "t.json")
