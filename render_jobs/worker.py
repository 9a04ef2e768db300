"""The parent's side of a render: one Blender child process that may hang, crash or eat memory without harm.

A mesh goes in, images come out, or a `RenderFailure` that says what happened. The child is replaced when it
dies; it dies with its parent, even when that is killed with SIGKILL, and so does its temporary folder.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from render_jobs.config import ExecutionLimits, RenderConfig
from render_jobs.mesh_file import MeshInput
from render_jobs.process import BlenderProcess, Echo, EndedError, start
from render_jobs.swept_folder import SweptFolder
from storage.errors import EnvironmentProblem
from storage.passes import PASSES
from storage.records import Failure

LOGGER = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]


class RenderFailure(Exception):  # noqa: N818 named after the record that it carries
    """One mesh could not be rendered.

    Attributes:
        failure: The record to keep.
        deserves_another: Whether the mesh may not be to blame, so that a fresh process should try it.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.kind}: {failure.reason}")
        self.failure = failure
        self.deserves_another = False


class Rendered(NamedTuple):
    """What a render returns.

    Attributes:
        images: u8 [V, H, W, 4], straight alpha, sRGB.
        passes: Those that the configuration asks for: depth f32 [V, H, W], normals f16 [V, H, W, 3].
        mesh_to_world: f32 [4, 4].
        info: render_s, load_s, cpu_s, n_faces, n_vertices, n_materials, n_textures, warnings, mesh_sha256 and
            versions.
    """

    images: npt.NDArray[np.uint8]
    passes: dict[str, npt.NDArray[Any]]
    mesh_to_world: FloatArray
    info: dict[str, Any]


class BlenderWorker:
    """Renders meshes one after the other in a child process; a context manager, for one thread.

    The child belongs to the thread that starts it: the kernel ends it when that thread ends.

    Args:
        limits: Deadline, memory, and how many objects one child serves.
        temp_root: Where the temporary folder is made; None takes the system's.
        echo: Gets what Blender writes to stdout and stderr, as it comes.

    Attributes:
        folder: Private temporary folder that vanishes with the worker; for fetched meshes, too.
    """

    def __init__(
        self,
        limits: ExecutionLimits | None = None,
        temp_root: Path | None = None,
        echo: Echo | None = None,
    ) -> None:
        self._limits = limits or ExecutionLimits()
        self._swept = SweptFolder(temp_root)
        self.folder = self._swept.path
        self._echo = echo
        self._child: _Child | None = None
        self._has_started = False

    def __enter__(self) -> BlenderWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the child and removes the temporary folder; may be called twice."""
        self._drop_child()
        self._swept.close()

    def start(self) -> None:
        """Starts the child if there is none; `render` does so itself.

        Raises:
            EnvironmentProblem: Blender does not start.
        """
        self._ready_child()

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return self._child.pid if self._child else None

    def render(
        self, mesh: MeshInput, cam2world: FloatArray, intrinsics: FloatArray, config: RenderConfig
    ) -> Rendered:
        """Renders one mesh.

        A child that crashes while it draws its second or a later mesh may be the victim of an earlier one,
        and one that is killed is the victim of others that need memory: the mesh is tried once more in a
        fresh child before it is blamed.

        Args:
            mesh: The mesh and its frame.
            cam2world: [V, 4, 4], OpenCV axes.
            intrinsics: [V, 3, 3] in pixels.
            config: Size, shading, samples and passes are taken from it.

        Raises:
            RenderFailure: The mesh cannot be rendered within the limits; the worker goes on working.
            EnvironmentProblem: Blender does not start.
        """
        try:
            return self._render_once(mesh, cam2world, intrinsics, config)
        except RenderFailure as error:
            if not error.deserves_another:
                raise
            LOGGER.info("%s: %s; trying once more in a fresh process", mesh.path, error)
        return self._render_once(mesh, cam2world, intrinsics, config)

    def _render_once(
        self, mesh: MeshInput, cam2world: FloatArray, intrinsics: FloatArray, config: RenderConfig
    ) -> Rendered:
        child = self._ready_child()
        was_fresh = child.n_served == 0
        try:
            return child.render(mesh, cam2world, intrinsics, config)
        except RenderFailure as error:
            if not child.alive:
                self._drop_child()
            kind = error.failure.kind
            error.deserves_another = kind == "killed" or (kind == "crash" and not was_fresh)
            raise

    def _ready_child(self) -> _Child:
        if self._child is not None and (
            not self._child.alive or self._child.n_served >= self._limits.objects_per_process
        ):
            self._drop_child()
        if self._child is None:
            self._child = self._new_child()
        return self._child

    def _new_child(self) -> _Child:
        """Starts a child. Where one has started before, a failure is the moment's and gets a second try."""
        try:
            child = _Child(self._limits, self.folder, self._echo)
        except EnvironmentProblem as error:
            if not self._has_started:
                raise
            LOGGER.warning("%s; trying once more", error)
            child = _Child(self._limits, self.folder, self._echo)
        self._has_started = True
        return child

    def _drop_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()


class _Child:
    """One Blender process and the meshes that it is sent."""

    def __init__(self, limits: ExecutionLimits, folder: Path, echo: Echo | None) -> None:
        self._limits = limits
        self.n_served = 0
        self._process: BlenderProcess = start(folder, limits, echo)
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.alive

    def close(self) -> None:
        self._process.close()

    def render(
        self, mesh: MeshInput, cam2world: FloatArray, intrinsics: FloatArray, config: RenderConfig
    ) -> Rendered:
        self._process.allow(self._limits.deadline_s)
        self._process.clear_log()
        body = cam2world.astype("<f4").tobytes() + intrinsics.astype("<f4").tobytes()
        expected = _expected_arrays(config, len(cam2world))
        head = {
            "path": str(mesh.path.absolute()),
            "root": str(mesh.root.absolute()),
            "up": mesh.up,
            "front": mesh.front,
            "mesh_bytes": self._limits.mesh_bytes,
            "texture_pixels": self._limits.texture_pixels,
            "settings": config.cycles_settings(),
            "passes": config.passes,
            "clipping": config.clipping,
            "n_views": len(cam2world),
        }
        self.n_served += 1
        try:
            self._process.send(head, body)
            answer, body_back = self._process.receive(sum(array.nbytes for array in expected.values()))
            return self._result(answer, body_back, expected)
        except EndedError as error:
            raise RenderFailure(error.failure) from None

    def _result(
        self, answer: dict[str, Any], body: bytearray, arrays: dict[str, npt.NDArray[Any]]
    ) -> Rendered:
        """Reads an answer; a child that a hostile file has overrun may say anything."""
        try:
            if not answer["ok"]:
                detail = "\n".join(part for part in (answer["detail"], self._process.log_tail()) if part)
                picture = str(answer["picture"])
                raise RenderFailure(Failure(answer["kind"], answer["reason"], detail, picture=picture))
            matrix = np.array(answer["mesh_to_world"], dtype=np.float32).reshape(4, 4)
            expected = {name: list(array.shape) for name, array in arrays.items()}
            if answer["shapes"] != expected:
                raise ValueError(f"images {answer['shapes']}, expected {expected}")
            _fill(arrays, body)
            return Rendered(arrays.pop("images"), arrays, matrix, dict(answer["info"]))
        except (KeyError, TypeError, ValueError) as error:
            raise self._process.end("crash", f"Blender sent what is no answer: {error!r}") from error


def _expected_arrays(config: RenderConfig, n_views: int) -> dict[str, npt.NDArray[Any]]:
    """Returns unfilled arrays as the answer's body holds them, one after the other."""
    size = (n_views, config.height, config.width)
    arrays: dict[str, npt.NDArray[Any]] = {"images": np.empty((*size, 4), np.uint8)}
    for name in config.passes:
        arrays[name] = np.empty((*size, *PASSES[name].tail), PASSES[name].dtype)
    return arrays


def _fill(arrays: dict[str, npt.NDArray[Any]], body: bytearray) -> None:
    """Fills arrays from the bytes that lie one after the other."""
    start = 0
    for array in arrays.values():
        array.reshape(-1).view(np.uint8)[:] = np.frombuffer(body, np.uint8, array.nbytes, start)
        start += array.nbytes
