"""The parent's side of a render: one Blender child process that may hang, crash or eat memory without harm.

A mesh goes in, images come out, or a `RenderFailure` that says what happened. The child is replaced when it
dies; it dies with its parent, even when that is killed with SIGKILL, and so does its temporary folder.
"""

from __future__ import annotations

import os
import select
import signal
import site
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import psutil

from render_jobs.config import ExecutionLimits, RenderConfig
from render_jobs.mesh_file import MeshInput
from render_jobs.messages import ChannelClosedError, receive, send
from render_jobs.swept_folder import SweptFolder
from storage.errors import EnvironmentProblem
from storage.records import Failure

FloatArray = npt.NDArray[np.float32]

_POLL_S = 0.1
_TAIL_CHARACTERS = 4000
_MAX_LOG_BYTES = 1 << 24
_MAX_IMAGE_BYTES = 1 << 36


class RenderFailure(Exception):  # noqa: N818 named after the record that it carries
    """One mesh could not be rendered; `failure` is the record to keep."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.kind}: {failure.reason}")
        self.failure = failure


class Rendered(NamedTuple):
    """What a render returns.

    Attributes:
        images: u8 [V, H, W, 4], straight alpha, sRGB.
        mesh_to_world: f32 [4, 4].
        info: render_s, load_s, cpu_s, n_faces, n_vertices, n_materials, n_textures, warnings, mesh_sha256 and
            versions.
    """

    images: npt.NDArray[np.uint8]
    mesh_to_world: FloatArray
    info: dict[str, Any]


class BlenderWorker:
    """Renders meshes one after the other in a child process; a context manager, for one thread.

    The child belongs to the thread that starts it: the kernel ends it when that thread ends.

    Args:
        limits: Deadline, memory, and how many objects one child serves.
        temp_root: Where the temporary folder is made; None takes the system's.

    Attributes:
        folder: Private temporary folder that vanishes with the worker; for fetched meshes, too.
    """

    def __init__(self, limits: ExecutionLimits | None = None, temp_root: Path | None = None) -> None:
        self._limits = limits or ExecutionLimits()
        self._swept = SweptFolder(temp_root)
        self.folder = self._swept.path
        self._child: _Child | None = None

    def __enter__(self) -> BlenderWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the child and removes the temporary folder; may be called twice."""
        self._drop_child()
        self._swept.close()

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return self._child.pid if self._child else None

    def render(
        self, mesh: MeshInput, cam2world: FloatArray, intrinsics: FloatArray, config: RenderConfig
    ) -> Rendered:
        """Renders one mesh.

        A child that dies while it draws its second or a later mesh may be the victim of an earlier one: the
        mesh is tried once more in a fresh child before it is blamed.

        Args:
            mesh: The mesh and its frame.
            cam2world: [V, 4, 4], OpenCV axes.
            intrinsics: [V, 3, 3] in pixels.
            config: Size, shading and samples are taken from it.

        Raises:
            RenderFailure: The mesh cannot be rendered within the limits; the worker goes on working.
            EnvironmentProblem: Blender does not start.
        """
        child = self._ready_child()
        was_fresh = child.n_served == 0
        try:
            return child.render(mesh, cam2world, intrinsics, config)
        except RenderFailure as error:
            if not child.alive:
                self._drop_child()
            if error.failure.kind not in {"crash", "killed"} or was_fresh:
                raise
        return self.render(mesh, cam2world, intrinsics, config)

    def _ready_child(self) -> _Child:
        if self._child is not None and (
            not self._child.alive or self._child.n_served >= self._limits.objects_per_process
        ):
            self._drop_child()
        if self._child is None:
            self._child = _Child(self._limits, self.folder)
        return self._child

    def _drop_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()


class _EndedError(Exception):
    """The child is over; the failure says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class _Child:
    """One child process and its pipes."""

    def __init__(self, limits: ExecutionLimits, folder: Path) -> None:
        self._limits = limits
        self._allow(limits.startup_s)
        self.n_served = 0
        self._log = folder / "blender.log"
        self._start(folder)
        try:
            receive(self._answer_fd, 0, self._wait)
        except (ChannelClosedError, ValueError, _EndedError) as error:
            tail = self._log_tail()
            self.close()
            raise EnvironmentProblem(_start_message(error, tail)) from error

    def _start(self, folder: Path) -> None:
        request_read, self._request_fd = os.pipe()
        self._answer_fd, answer_write = os.pipe()
        arguments = [str(request_read), str(answer_write), str(os.getpid())]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "render_jobs.child", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(request_read, answer_write),
                env=_child_environment(folder),
                cwd=folder,
                start_new_session=True,
            )
        os.close(request_read)
        os.close(answer_write)
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """Ends the process: it has nothing to save."""
        self._process.kill()
        self._process.wait()
        for fd in (self._request_fd, self._answer_fd):
            os.close(fd)

    def render(
        self, mesh: MeshInput, cam2world: FloatArray, intrinsics: FloatArray, config: RenderConfig
    ) -> Rendered:
        self._allow(self._limits.deadline_s)
        os.truncate(self._log, 0)
        body = cam2world.astype("<f4").tobytes() + intrinsics.astype("<f4").tobytes()
        head = {
            "path": str(mesh.path.absolute()),
            "root": str(mesh.root.absolute()),
            "up": mesh.up,
            "front": mesh.front,
            "mesh_bytes": self._limits.mesh_bytes,
            "texture_pixels": self._limits.texture_pixels,
            "settings": config.cycles_settings(),
            "clipping": config.clipping,
            "n_views": len(cam2world),
        }
        self.n_served += 1
        try:
            send(self._request_fd, head, body)
            answer, images = receive(self._answer_fd, _MAX_IMAGE_BYTES, self._wait)
        except ChannelClosedError:
            raise RenderFailure(self._post_mortem()) from None
        except _EndedError as error:
            raise RenderFailure(error.failure) from None
        except ValueError as error:
            self._process.kill()
            self._process.wait()
            failure = Failure("crash", f"Blender sent what is no answer: {error}", self._log_tail())
            raise RenderFailure(failure) from error
        return self._result(answer, images)

    def _result(self, answer: dict[str, Any], images: bytearray) -> Rendered:
        if not answer["ok"]:
            detail = "\n".join(part for part in (answer["detail"], self._log_tail()) if part)
            failure = Failure(answer["kind"], answer["reason"], detail, picture=answer["picture"])
            raise RenderFailure(failure)
        matrix = np.array(answer["mesh_to_world"], dtype=np.float32).reshape(4, 4)
        pixels = np.frombuffer(images, dtype=np.uint8).reshape(answer["shape"])
        return Rendered(pixels, matrix, answer["info"])

    def _allow(self, seconds: float) -> None:
        self._allowed_s, self._deadline = seconds, time.monotonic() + seconds

    def _wait(self, fd: int) -> None:
        """Returns when the pipe can be read; ends the child when it is late or too large."""
        poll = select.poll()  # select() refuses descriptors from 1024 on
        poll.register(fd, select.POLLIN)
        while True:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0.0:
                self._end("timeout", f"not finished after {self._allowed_s:g} s")
            if poll.poll(1000 * min(_POLL_S, left_s)):
                return
            if self._resident_bytes() > self._limits.memory_bytes:
                limit = self._limits.memory_bytes / 2**20
                self._end("out_of_memory", f"Blender needed more than {limit:.0f} MiB of memory")
            if self._log.stat().st_size > _MAX_LOG_BYTES:
                os.truncate(self._log, 0)

    def _end(self, kind: str, reason: str) -> None:
        self._process.kill()
        self._process.wait()
        raise _EndedError(Failure(kind, reason, self._log_tail()))

    def _resident_bytes(self) -> int:
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def _post_mortem(self) -> Failure:
        try:
            code = self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return Failure("crash", "Blender closed its pipe and went on", self._log_tail())
        if code == -signal.SIGKILL:
            reason = "Blender was killed (SIGKILL), as the kernel does when memory runs out"
            return Failure("killed", reason, self._log_tail())
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return Failure("crash", f"Blender {how}", self._log_tail())

    def _log_tail(self) -> str:
        try:
            return self._log.read_text(errors="replace")[-_TAIL_CHARACTERS:].strip()
        except OSError:
            return ""


def _child_environment(folder: Path) -> dict[str, str]:
    """Returns an environment in which Blender finds no user's settings, add-ons or start-up scripts."""
    inherited = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("BLENDER_", "CYCLES_", "OMP_", "PYTHONSTARTUP"))
    }
    package_root = str(Path(__file__).resolve().parent.parent)
    paths = [package_root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    private = str(folder)
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONFAULTHANDLER": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONUSERBASE": site.getuserbase(),  # keeps what pip --user installed visible under the new HOME
        "HOME": private,
        "XDG_CONFIG_HOME": private,
        "XDG_CACHE_HOME": private,
        "TMPDIR": private,
        "BLENDER_USER_RESOURCES": private,
    }


def _start_message(error: Exception, tail: str) -> str:
    if isinstance(error, _EndedError):
        return f"Blender did not start: {error.failure.reason}"
    last = tail.splitlines()[-1] if tail else "no message"
    hint = "install the render extra (pip install -e '.[render]') and the libraries that fpipe doctor names"
    return f"Blender did not start ({last}); {hint}"
