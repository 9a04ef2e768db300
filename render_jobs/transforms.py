"""Reads cameras from the JSON files of NeRF, nerfstudio and the Fused-Planes authors, and checks them.

`frames[]` holds `transform_matrix` (camera to world, 4×4 or 3×4) and, for every frame or once for all,
`fl_x fl_y cx cy w h` in pixels or `camera_angle_x` in radians. Camera axes are OpenGL's (+y up, −z forward)
unless the file says `"axes": "opencv"` or its kind implies that. What comes out has OpenCV's axes.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from render_jobs.cameras import blender_to_opencv
from render_jobs.sources.names import is_text

FloatArray = npt.NDArray[np.float32]
WideArray = npt.NDArray[np.float64]
Axes = Literal["opengl", "opencv"]
Values = dict[str, Any]

MAX_FRAMES = 100_000
_MAX_SIDE_PX = 65_536
_ROTATION_TOLERANCE = 1e-3
# Rotations that were rounded to float32 once stay as they are, so that cameras survive a round trip.
_ROTATION_NOISE = 1e-5
_DISTORTIONS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
_PINHOLES = {"PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "PERSPECTIVE"}


class CameraFileError(ValueError):
    """A file of cameras cannot be used; the message says which frame and why."""


@dataclass(frozen=True)
class Lens:
    """Intrinsics as a file gives them.

    Attributes:
        size_px: Width and height that the lengths belong to, None where the file does not say.
        fl_px: Focal lengths along columns and rows, None where only the angle is known.
        centre_px: Principal point, None for the middle of the image.
        angle_x_rad: Horizontal field of view, used where there is no focal length.
    """

    size_px: tuple[int, int] | None
    fl_px: tuple[float, float] | None
    centre_px: tuple[float | None, float | None]
    angle_x_rad: float | None

    def matrix(self, image_px: tuple[int, int], target_px: tuple[int, int]) -> FloatArray:
        """Returns the pinhole matrix f32 [3, 3] in pixels of an image resized to target_px.

        Args:
            image_px: Width and height of the image, for files that give no size.
            target_px: Width and height that the image is resized to.
        """
        width, height = self.size_px or image_px
        if self.fl_px is not None:
            fl_x, fl_y = self.fl_px
        else:
            assert self.angle_x_rad is not None
            fl_x = fl_y = 0.5 * width / math.tan(self.angle_x_rad / 2)
        cx, cy = self.centre_px
        columns, rows = target_px[0] / width, target_px[1] / height
        centre = ((width / 2 if cx is None else cx) * columns, (height / 2 if cy is None else cy) * rows)
        matrix = [[fl_x * columns, 0.0, centre[0]], [0.0, fl_y * rows, centre[1]], [0.0, 0.0, 1.0]]
        return np.array(matrix, dtype=np.float32)


@dataclass(frozen=True)
class Frame:
    """One camera of a file.

    Attributes:
        name: Image file as written, "" where there is none.
        cam2world: f64 [4, 4], OpenCV axes, the file's world.
        lens: Its intrinsics.
        heldout: Whether the view is held out, None where the file does not say.
    """

    name: str
    cam2world: WideArray
    lens: Lens
    heldout: bool | None = None


def read_json(data: bytes, what: str) -> Values:
    """Returns the object that a JSON file holds.

    Raises:
        CameraFileError: Not JSON, or not an object.
    """
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CameraFileError(f"{what} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise CameraFileError(f"{what} holds a {type(values).__name__}, not an object with frames")
    return values


def read_frames(values: Values, what: str, axes: Axes = "opengl") -> list[Frame]:
    """Returns the frames of a file in its order, without those that its split leaves out.

    `train_filenames`, `val_filenames` and `test_filenames` name the split; the views of `test` are held out,
    without any those of `val`, and `val` beside `test` is left out: methods are trained on `train` alone.
    Otherwise `heldout` of each frame counts.

    Args:
        values: The file.
        what: Its name, for messages.
        axes: Camera axes of a file that does not say.

    Raises:
        CameraFileError: No frames, or one that is no pinhole camera.
    """
    entries = values.get("frames")
    if not isinstance(entries, list) or not entries:
        raise CameraFileError(f"{what} has no frames")
    if len(entries) > MAX_FRAMES:
        raise CameraFileError(f"{what} has {len(entries)} frames, at most {MAX_FRAMES} are read")
    axes = values.get("axes", axes)
    if axes not in ("opengl", "opencv"):
        raise CameraFileError(f"{what}: axes {axes!r}: write opengl or opencv")
    frames = [_frame(entry, values, f"{what}: frame {i}", axes) for i, entry in enumerate(entries)]
    return _apply_split(frames, values, what)


def _frame(entry: Any, shared: Values, what: str, axes: Axes) -> Frame:
    if not isinstance(entry, dict):
        raise CameraFileError(f"{what} is no object")
    name = entry.get("file_path", "")
    if not isinstance(name, str) or not is_text(name) or "\0" in name:
        raise CameraFileError(f"{what}: file_path {name!r} is no name of a file")
    what = f"{what} ({name})" if name else what
    _check_pinhole({**shared, **entry}, what)
    heldout = entry.get("heldout")
    if heldout is not None and not isinstance(heldout, bool):
        raise CameraFileError(f"{what}: heldout is {heldout!r}, not true or false")
    cam2world = _rigid(entry.get("transform_matrix"), what)
    if axes == "opengl":
        cam2world = blender_to_opencv(cam2world)
    return Frame(name, cam2world, _lens({**shared, **entry}, what), heldout)


def _check_pinhole(values: Values, what: str) -> None:
    """Images of a lens with distortion are no pinhole views; only their maker can undo it."""
    listed = values.get("distortion_params")
    listed = listed if isinstance(listed, list) else []
    coefficients = {
        f"distortion_params[{i}]": v for i, v in enumerate(listed if isinstance(listed, list) else [])
    }
    coefficients |= {key: values[key] for key in _DISTORTIONS if key in values}
    for key, value in coefficients.items():
        if value != 0:
            raise CameraFileError(f"{what}: lens distortion {key} = {value}: undistort the images first")
    model = values.get("camera_model", "PINHOLE")
    if str(model).upper() not in _PINHOLES or values.get("is_fisheye") is True:
        raise CameraFileError(f"{what}: camera_model {model}: only pinhole cameras can be used")


def _rigid(written: Any, what: str) -> WideArray:
    """Returns a checked camera-to-world matrix, its rotation made orthonormal where it is only nearly so."""
    try:
        matrix = np.array(written, dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape == (3, 4):
        matrix = np.concatenate([matrix, [[0.0, 0.0, 0.0, 1.0]]])
    if matrix.shape != (4, 4):
        raise CameraFileError(f"{what}: transform_matrix is not 4×4 numbers")
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > 1e9:
        raise CameraFileError(f"{what}: transform_matrix has values that are not finite, or absurd ones")
    if not np.allclose(matrix[3], [0.0, 0.0, 0.0, 1.0], atol=1e-6):
        raise CameraFileError(f"{what}: the last row of transform_matrix is not 0 0 0 1")
    rotation = matrix[:3, :3]
    error = float(np.abs(rotation.T @ rotation - np.eye(3)).max())
    if error > _ROTATION_TOLERANCE:
        raise CameraFileError(
            f"{what}: transform_matrix holds no rotation: its columns are {error:.3g} off unit length"
            " or right angles"
        )
    if np.linalg.det(rotation) < 0:
        raise CameraFileError(f"{what}: transform_matrix mirrors: its axes are left-handed")
    if error > _ROTATION_NOISE:
        u, _, v = np.linalg.svd(rotation)
        matrix[:3, :3] = u @ v
    return matrix


def _lens(values: Values, what: str) -> Lens:
    fl_x, fl_y, angle = (_number(values, key, what) for key in ("fl_x", "fl_y", "camera_angle_x"))
    if fl_x is None and fl_y is None and angle is None:
        raise CameraFileError(f"{what}: neither fl_x nor camera_angle_x is given")
    centre = (_number(values, "cx", what), _number(values, "cy", what))
    if fl_x is None and fl_y is None:
        assert angle is not None
        if not 0 < angle < math.pi:
            raise CameraFileError(f"{what}: camera_angle_x {angle:g} is not between 0 and π radians")
        return Lens(_size(values, what), None, centre, angle)
    fl_x, fl_y = fl_x if fl_x is not None else fl_y, fl_y if fl_y is not None else fl_x
    assert fl_x is not None
    assert fl_y is not None
    if not min(fl_x, fl_y) > 0:
        raise CameraFileError(f"{what}: focal lengths {fl_x:g} and {fl_y:g} px are not positive")
    return Lens(_size(values, what), (fl_x, fl_y), centre, None)


def _size(values: Values, what: str) -> tuple[int, int] | None:
    width, height = (_number(values, key, what) for key in ("w", "h"))
    if width is None and height is None:
        return None
    if width is None or height is None:
        raise CameraFileError(f"{what}: only one of w and h is given")
    if not all(side == int(side) and 1 <= side <= _MAX_SIDE_PX for side in (width, height)):
        raise CameraFileError(f"{what}: w {width:g} and h {height:g} are no image size in pixels")
    return int(width), int(height)


def _number(values: Values, key: str, what: str) -> float | None:
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise CameraFileError(f"{what}: {key} is {value!r}, not a number")
    return float(value)


def _apply_split(frames: list[Frame], values: Values, what: str) -> list[Frame]:
    names = {split: _names(values, f"{split}_filenames", what) for split in ("train", "val", "test")}
    if not any(names.values()):
        return frames
    heldout = names["test"] or names["val"]
    kept = names["train"] | heldout
    return [
        replace(frame, heldout=_plain_name(frame.name) in heldout)
        for frame in frames
        if _plain_name(frame.name) in kept
    ]


def _names(values: Values, key: str, what: str) -> set[str]:
    names = values.get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CameraFileError(f"{what}: {key} is no list of names")
    return {_plain_name(name) for name in names}


def _plain_name(name: str) -> str:
    return name.removeprefix("./")
