"""Main program of the Blender child process: reads requests from one pipe, writes answers to another.

Started by `render_jobs.worker` as `python -m render_jobs.child REQUEST_FD ANSWER_FD PARENT_PID DEVICE`. It
ends when the request pipe ends, and it is killed by the kernel when its parent dies.

Request head: path, root, up, front, mesh_bytes, texture_pixels, settings, passes, clipping, n_views; body:
cam2world f32 [V, 4, 4], then intrinsics f32 [V, 3, 3].
Answer head: ok, and either mesh_to_world, info and shapes (body: images u8 [V, H, W, 4], then the passes), or
kind, reason, detail, picture.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from render_jobs.image_checks import check_images
from render_jobs.mesh_file import FileLimits, MeshError, MeshInput
from render_jobs.messages import ChannelClosedError, receive, send
from render_jobs.normalize import is_crowded
from render_jobs.prepare import prepare_mesh

if TYPE_CHECKING:
    from render_jobs.blender import CyclesSession
    from render_jobs.config import Device
    from render_jobs.scene import LoadedMesh

_PR_SET_PDEATHSIG = 1
_MAX_REQUEST_BYTES = 1 << 30


def main(arguments: list[str]) -> int:
    """Serves requests until the request pipe ends; returns the exit code."""
    request_fd, answer_fd, parent_pid = (int(a) for a in arguments[:3])
    die_with_parent(parent_pid)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is an ordinary event here, and a core is large
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # sent to the whole group: the parent decides, and closes the pipe
        signal.signal(number, signal.SIG_IGN)
    server = _Server(cast("Device", arguments[3]))
    send(answer_fd, {"ok": True, "info": server.versions})
    while True:
        try:
            head, body = receive(request_fd, _MAX_REQUEST_BYTES)
        except ChannelClosedError:
            return 0
        answer, arrays = server.answer(head, body)
        send(answer_fd, answer, *arrays)


def die_with_parent(parent_pid: int) -> None:
    """Asks the kernel to kill this process when the parent's thread that started it ends (Linux only)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the request above
        os._exit(1)


class _Server:
    """Holds the Cycles session between requests."""

    def __init__(self, device: Device) -> None:
        self._control = _single_thread()
        from render_jobs import blender

        blender.self_test(device)  # an environment that cannot render is found before any mesh is blamed
        self._blender = blender
        self.versions = blender.versions()
        self._device = device
        self._session: CyclesSession | None = None
        self._settings: dict[str, Any] = {}
        # One name for all children of a worker: what a killed one left goes with the next.
        self._folder = Path(tempfile.gettempdir()) / f"prepared-{os.getppid()}"
        self._n_meshes = 0

    def answer(self, head: dict[str, Any], body: bytearray) -> tuple[dict[str, Any], list[memoryview]]:
        """Renders one mesh; every fault that Python can see becomes an answer."""
        try:
            return self._render(head, body)
        except MeshError as error:
            answer = _failure(error.kind, str(error), picture=error.picture)
        except MemoryError:
            answer = _failure("out_of_memory", "Blender ran out of memory", traceback.format_exc())
        except Exception as error:  # noqa: BLE001 the worker boundary: whatever a mesh provokes is recorded
            answer = _failure("render_error", f"{type(error).__name__}: {error}", traceback.format_exc())
        return answer, []

    def _render(self, head: dict[str, Any], body: bytearray) -> tuple[dict[str, Any], list[memoryview]]:
        from render_jobs.scene import load_mesh

        started, cpu_started = time.monotonic(), time.process_time()
        mesh_input = MeshInput(Path(head["path"]), Path(head["root"]), head["up"], head["front"])
        settings = head["settings"]
        limits = FileLimits(head["mesh_bytes"], head["texture_pixels"])
        prepared = prepare_mesh(mesh_input, self._private_folder(), limits)
        session = self._session_for(settings)
        mesh = load_mesh(prepared, settings["shading"])
        loaded = time.monotonic()
        cameras = _cameras(body, head["n_views"])
        images = session.render_views(mesh, *cameras)
        warnings = mesh.warnings + _check_images(images, mesh, head["clipping"])
        passes = session.render_passes(mesh, *cameras, head["passes"])
        info = {
            "render_s": time.monotonic() - started,
            "load_s": loaded - started,
            "cpu_s": time.process_time() - cpu_started,
            "n_faces": mesh.n_faces,
            "n_vertices": mesh.n_vertices,
            "n_materials": mesh.n_materials,
            "n_textures": mesh.n_textures,
            "warnings": warnings,
            "mesh_sha256": prepared.sha256,
            **self.versions,
        }
        answer = {
            "ok": True,
            "shapes": {name: list(array.shape) for name, array in {"images": images, **passes}.items()},
            "mesh_to_world": mesh.mesh_to_world.ravel().tolist(),
            "info": info,
        }
        return answer, [_bytes(array) for array in (images, *passes.values())]

    def _private_folder(self) -> Path:
        """Returns a new, empty folder; the last mesh's is removed.

        No two meshes get the same one: with persistent data Cycles knows textures by their path, and the
        second would be painted with the first one's.
        """
        shutil.rmtree(self._folder, ignore_errors=True)
        self._n_meshes += 1
        folder = self._folder / str(self._n_meshes)
        folder.mkdir(mode=0o700, parents=True)
        return folder

    def _session_for(self, settings: dict[str, Any]) -> CyclesSession:
        if self._session is None or settings != self._settings:
            self._session = self._blender.CyclesSession(**settings, device=self._device)
            self._settings = settings
        return self._session


def _failure(kind: str, reason: str, detail: str = "", picture: str = "") -> dict[str, Any]:
    one_line = " ".join(reason.split())
    return {"ok": False, "kind": kind, "reason": one_line, "detail": detail, "picture": picture}


def _bytes(array: npt.NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _check_images(images: npt.NDArray[np.uint8], mesh: LoadedMesh, clipping: str) -> list[str]:
    """Returns the warnings of `check_images`; an empty render whose reason is known is told apart."""
    try:
        return check_images(images, clipping)
    except MeshError as error:
        if error.kind == "empty_render" and is_crowded(mesh.vertices_world):
            reason = (
                "a few vertices lie so far from the rest that nothing of the mesh is visible: remove them"
            )
            raise MeshError("absurd_extent", reason) from error
        raise


def _cameras(body: bytearray, n_views: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    numbers = np.frombuffer(body, dtype="<f4")
    cam2world = numbers[: n_views * 16].reshape(n_views, 4, 4)
    return cam2world, numbers[n_views * 16 :].reshape(n_views, 3, 3)


class _GlobalControl(ctypes.Structure):
    """`tbb::global_control` of oneTBB's ABI 12."""

    _fields_ = (("value", ctypes.c_size_t), ("reserved", ctypes.c_ssize_t), ("parameter", ctypes.c_int))


def _single_thread() -> object:
    """Keeps Blender's thread pool empty; must run before bpy is imported, and the result must be kept.

    One render thread per process is what we want, but the pool's own threads spin beside it: 31 CPU-ms a
    view instead of 16 at 128² on two cores. `render.threads` does not reach them, and a process bound to one
    processor still has one. Where the library looks different, everything works as well, only dearer.
    """
    control = _GlobalControl(value=1, parameter=0)  # 0: max_allowed_parallelism
    with contextlib.suppress(OSError, AttributeError, StopIteration):
        spec = importlib.util.find_spec("bpy")
        folders = (spec.submodule_search_locations if spec else None) or []
        library = ctypes.CDLL(
            str(next(path for f in folders for path in Path(f, "lib").glob("libtbb.so.12")))
        )
        library._ZN3tbb6detail2r16createERNS0_2d114global_controlE(ctypes.byref(control))
    return control


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # Blender's own clean-up takes long and may crash; there is nothing to keep
