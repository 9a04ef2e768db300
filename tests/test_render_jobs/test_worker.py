"""What may go wrong with a mesh or its Blender process, and that the worker survives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from render_jobs.cameras import hemisphere_cameras
from render_jobs.config import ExecutionLimits
from render_jobs.worker import BlenderWorker, RenderFailure
from storage.errors import EnvironmentProblem
from storage.records import Failure
from tests.test_render_jobs.meshes import COLOURED_CUBE, CUBE, CUBE_FACES, cameras_at, render, write_mesh

pytestmark = pytest.mark.bpy

CAMERA = cameras_at([30.0], [0.5])
VERTICES, FACES = "".join(CUBE.splitlines(keepends=True)[:8]), "".join(CUBE.splitlines(keepends=True)[8:])


def failure_of(worker: BlenderWorker, path: Path, cameras: np.ndarray = CAMERA) -> Failure:
    with pytest.raises(RenderFailure) as caught:
        render(worker, path, cameras)
    return caught.value.failure


BROKEN: dict[str, tuple[str, str | bytes]] = {
    "empty": ("empty_file", b""),
    "html": ("html_page", b"<!DOCTYPE html><html><body>Not Found</body></html>"),
    "lfs pointer": ("lfs_pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    "binary": ("not_a_mesh", bytes(range(256)) * 64),
    "zip": ("not_a_mesh", b"PK\x03\x04" + bytes(1000)),
    "points only": ("no_faces", VERTICES),
    "lines only": ("no_faces", VERTICES + "l 1 2\nl 2 3\n"),
    "faces of two corners": ("no_faces", VERTICES + "f 1 2\nf 2 3\n"),
    "corners out of range": ("bad_index", VERTICES + "f 7 8 900000\nf -90 1 2\n"),
    "no corners in range": ("bad_index", FACES),
    "not a number": ("bad_vertex", VERTICES.replace("v -0.5", "v nan", 1) + FACES),
    "infinite": ("bad_vertex", VERTICES.replace("v -0.5", "v inf", 1) + FACES),
    "beyond float": ("bad_vertex", VERTICES.replace("v -0.5", "v 1e60", 1) + FACES),
    "all at one point": ("no_extent", "v 3 3 3\n" * 8 + FACES),
    "cut in a vertex": ("truncated", CUBE[:20]),
    "cut before the faces": ("no_faces", VERTICES[:-1]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_meshes_are_refused_by_a_child_that_lives_on(
    worker: BlenderWorker, tmp_path: Path, name: str
) -> None:
    kind, content = BROKEN[name]
    good = write_mesh(tmp_path / "good", CUBE)
    before = render(worker, good, CAMERA)
    pid = worker.pid
    failure = failure_of(worker, write_mesh(tmp_path / "bad", content))
    assert failure.kind == kind
    assert failure.reason
    np.testing.assert_array_equal(render(worker, good, CAMERA).images, before.images)
    assert worker.pid == pid


def test_missing_mesh(worker: BlenderWorker, tmp_path: Path) -> None:
    assert failure_of(worker, tmp_path / "gone.obj").kind == "missing_file"


def test_an_invisible_mesh_is_an_empty_render(worker: BlenderWorker, tmp_path: Path) -> None:
    path = write_mesh(tmp_path, COLOURED_CUBE, "newmtl paint\nKd 1 1 1\nd 0.0\n")
    assert failure_of(worker, path).kind == "empty_render"


def test_views_that_see_nothing_are_a_warning(worker: BlenderWorker, tmp_path: Path) -> None:
    away = CAMERA.copy()
    away[:, :3, 2] *= -1
    away[:, :3, 0] *= -1
    rendered = render(worker, write_mesh(tmp_path, CUBE), np.concatenate([CAMERA, away]))
    assert rendered.info["warnings"][-1] == "1 of 2 views are empty"


def test_a_flat_mesh_and_stray_vertices_render(worker: BlenderWorker, tmp_path: Path) -> None:
    flat = "v 0 0 0\nv 1 0 0\nv 1 0 1\nv 1e9 0 0\nf 1 2 3\nf 3 3 3\nf 1 2 900\n"
    rendered = render(worker, write_mesh(tmp_path, flat), cameras_at([0.0], [1.0]))
    assert rendered.info["n_faces"] == 1
    assert rendered.images[..., 3].any()
    np.testing.assert_allclose(rendered.mesh_to_world[0, 0], 1 / np.sqrt(2), rtol=1e-6)


def test_info_says_what_was_drawn(worker: BlenderWorker, tmp_path: Path) -> None:
    info = render(worker, write_mesh(tmp_path, COLOURED_CUBE, "newmtl paint\nKd 1 0 0\n"), CAMERA).info
    assert info["n_faces"] == len(CUBE_FACES)
    assert info["n_vertices"] == 8
    assert info["warnings"] == []
    assert len(info["mesh_sha256"]) == 64
    assert info["bpy"].startswith("5.")
    assert 0 < info["load_s"] < info["render_s"]


@pytest.fixture
def own_worker() -> Iterator[Callable[..., BlenderWorker]]:
    """Makes workers with limits of their own."""
    made: list[BlenderWorker] = []

    def make(**limits: float) -> BlenderWorker:
        made.append(BlenderWorker(ExecutionLimits(**limits)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


MANY = hemisphere_cameras(4000, 1.3, 0)


def test_a_render_beyond_its_deadline_is_ended_and_the_next_one_works(
    own_worker: Callable[..., BlenderWorker], tmp_path: Path
) -> None:
    worker, path = own_worker(deadline_s=1.5), write_mesh(tmp_path, CUBE)
    expected = render(worker, path, CAMERA).images
    first = worker.pid
    began = time.monotonic()
    failure = failure_of(worker, path, MANY)
    assert failure.kind == "timeout"
    assert "1.5 s" in failure.reason
    assert 1.4 < time.monotonic() - began < 5
    np.testing.assert_array_equal(render(worker, path, CAMERA).images, expected)
    assert worker.pid != first


def _after(seconds: float, action: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def test_a_crash_is_recorded_with_its_signal_and_its_trace(
    own_worker: Callable[..., BlenderWorker], tmp_path: Path
) -> None:
    worker, path = own_worker(), write_mesh(tmp_path, CUBE)
    worker._ready_child()
    assert worker.pid is not None
    timer = _after(1.0, lambda pid=worker.pid: os.kill(pid, signal.SIGSEGV))
    failure = failure_of(worker, path, MANY)
    timer.join()
    assert failure.kind == "crash"
    assert "SIGSEGV" in failure.reason
    assert "render_views" in failure.detail, "the tail of stderr shows where"
    # A child that dies after it has served other meshes may be their victim: the mesh gets a second chance.
    first = worker.pid
    render(worker, path, CAMERA)
    victim = worker.pid
    assert victim is not None
    assert victim != first
    timer = _after(0.1, lambda: os.kill(victim, signal.SIGKILL))
    rendered = render(worker, path, MANY[:100])
    timer.join()
    assert worker.pid != victim
    np.testing.assert_array_equal(rendered.images[:1], render(worker, path, MANY[:1]).images)


def test_a_stopped_child_and_an_outside_kill(
    own_worker: Callable[..., BlenderWorker], tmp_path: Path
) -> None:
    worker, path = own_worker(deadline_s=1.0), write_mesh(tmp_path, CUBE)
    worker._ready_child()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    assert failure_of(worker, path).kind == "timeout"
    # Once is the kernel's choice among many; twice is recorded.
    expected = render(worker, path, CAMERA).images
    first = worker.pid
    assert first is not None
    timer = _after(0.1, lambda: os.kill(first, signal.SIGKILL))
    np.testing.assert_array_equal(
        render(worker, path, MANY[:100]).images[:1], render(worker, path, MANY[:1]).images
    )
    timer.join()
    assert worker.pid != first
    ended = threading.Event()
    killer = threading.Thread(target=_kill_children, args=(worker, ended))
    killer.start()
    failure = failure_of(worker, path, MANY)
    ended.set()
    killer.join()
    assert failure.kind == "killed"
    assert "SIGKILL" in failure.reason
    np.testing.assert_array_equal(render(worker, path, CAMERA).images, expected)


def _kill_children(worker: BlenderWorker, ended: threading.Event) -> None:
    """Kills every child once it works on a mesh."""
    killed = None
    while not ended.wait(0.05):
        child = worker._child
        if child is not None and child.n_served and child.pid != killed:
            killed = child.pid
            os.kill(child.pid, signal.SIGKILL)


def test_a_mesh_that_needs_too_much_memory(own_worker: Callable[..., BlenderWorker], tmp_path: Path) -> None:
    n = 500
    grid = "".join(f"v {x} {(x * y) % 7} {y}\n" for x in range(n) for y in range(n))
    faces = "".join(
        f"f {x * n + y + 1} {x * n + y + 2} {(x + 1) * n + y + 2}\n"
        for x in range(n - 1)
        for y in range(n - 1)
    )
    large = write_mesh(tmp_path / "large", grid + faces)
    small = write_mesh(tmp_path / "small", CUBE)
    with BlenderWorker() as probe:
        render(probe, small, CAMERA)
        assert probe.pid is not None
        usual_bytes = psutil.Process(probe.pid).memory_info().rss
    worker = own_worker(memory_bytes=usual_bytes + (40 << 20))
    expected = render(worker, small, CAMERA)
    failure = failure_of(worker, large)
    assert failure.kind == "out_of_memory"
    assert "MiB" in failure.reason
    np.testing.assert_array_equal(render(worker, small, CAMERA).images, expected.images)


def test_no_thread_spins_beside_the_render_thread(
    own_worker: Callable[..., BlenderWorker], tmp_path: Path
) -> None:
    worker, path = own_worker(), write_mesh(tmp_path, CUBE)
    render(worker, path, MANY[:200])
    used_s = sorted((t.user_time + t.system_time for t in psutil.Process(worker.pid).threads()), reverse=True)
    assert len(used_s) > 2
    assert sum(used_s[2:]) < 0.05 * sum(used_s), "all but the main and the render thread sleep"


def test_an_answer_that_is_none_is_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BlenderWorker() as worker:
        child = worker._ready_child()
        answer = os.open(f"/proc/{child.pid}/fd/{_answer_fd(child.pid)}", os.O_WRONLY)
        os.write(answer, b"\xff" * 64)
        os.close(answer)
        assert failure_of(worker, write_mesh(tmp_path, CUBE)).kind == "crash"
        render(worker, write_mesh(tmp_path, CUBE), CAMERA)


def _answer_fd(pid: int) -> str:
    return psutil.Process(pid).cmdline()[-3]


def test_children_are_replaced_after_their_share(
    own_worker: Callable[..., BlenderWorker], tmp_path: Path
) -> None:
    worker, path = own_worker(objects_per_process=1), write_mesh(tmp_path, CUBE)
    pids = []
    for _ in range(2):
        render(worker, path, CAMERA)
        pids.append(worker.pid)
    assert len(set(pids)) == 2
    assert not psutil.pid_exists(pids[0] or 0)


def test_closing_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    with BlenderWorker(temp_root=tmp_path) as worker:
        worker._ready_child()
        pid = worker.pid
        assert pid is not None
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)
    assert list(tmp_path.iterdir()) == []


OWNER = """
import sys
from pathlib import Path
from render_jobs.cameras import hemisphere_cameras
from render_jobs.worker import BlenderWorker
from tests.test_render_jobs.meshes import render
worker = BlenderWorker(temp_root=Path(sys.argv[1]))
worker._ready_child()
print(worker.pid, flush=True)
render(worker, Path(sys.argv[2]), hemisphere_cameras(20_000, 1.3, 0))
"""


def test_nothing_survives_when_the_parent_is_killed_in_a_render(tmp_path: Path) -> None:
    path = write_mesh(tmp_path / "mesh", CUBE)
    root = tmp_path / "temp"
    root.mkdir()
    parent = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(root), str(path)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.5)
    assert psutil.pid_exists(child)
    assert len(list(root.iterdir())) == 1
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while (_lives(child) or list(root.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _lives(child)
    assert list(root.iterdir()) == []


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_users_settings_and_home_are_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker, path = tmp_path / "marker", write_mesh(tmp_path, CUBE)
    with BlenderWorker() as clean:
        expected = render(clean, path, CAMERA)
    home = tmp_path / "home"
    for scripts in (home / ".config/blender/5.0/scripts", tmp_path / "scripts"):
        (scripts / "startup").mkdir(parents=True)
        (scripts / "startup" / "mine.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    home.chmod(0o500)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("BLENDER_USER_SCRIPTS", str(tmp_path / "scripts"))
    monkeypatch.setenv("BLENDER_USER_RESOURCES", str(home))
    with BlenderWorker() as worker:
        rendered = render(worker, path, CAMERA)
    np.testing.assert_array_equal(rendered.images, expected.images)
    assert not marker.exists()
    assert sorted(p.name for p in home.iterdir()) == [".config"]


def test_a_blender_that_does_not_start_is_an_environment_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bpy.py").write_text("raise ImportError('libSM.so.6: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with BlenderWorker() as worker, pytest.raises(EnvironmentProblem, match=r"libSM.so.6.*fpipe doctor"):
        render(worker, write_mesh(tmp_path, CUBE), CAMERA)


def test_a_start_beyond_its_deadline_is_an_environment_problem(
    own_worker: Callable[..., BlenderWorker], tmp_path: Path
) -> None:
    with pytest.raises(EnvironmentProblem, match=r"0\.01 s"):
        render(own_worker(startup_s=0.01), write_mesh(tmp_path, CUBE), CAMERA)


def test_an_object_beyond_the_edge_of_the_image_fails_unless_that_is_meant(
    worker: BlenderWorker, tmp_path: Path
) -> None:
    path, near = write_mesh(tmp_path, CUBE), CAMERA.copy()
    near[:, :3, 3] *= 0.6
    with pytest.raises(RenderFailure) as caught:
        render(worker, path, np.concatenate([CAMERA, near]))
    failure = caught.value.failure
    assert failure.kind == "clipped_render"
    assert "in 1 of 2 views" in failure.reason
    assert failure.picture.startswith("data:image/webp;base64,")
    rendered = render(worker, path, np.concatenate([CAMERA, near]), clipping="allow")
    assert "in 1 of 2 views" in rendered.info["warnings"][-1]


def test_limits_reach_the_child(own_worker: Callable[..., BlenderWorker], tmp_path: Path) -> None:
    path = write_mesh(tmp_path, COLOURED_CUBE, "newmtl paint\nKd 1 0 0\nmap_Kd t.png\n")
    Image.new("RGB", (20, 20)).save(tmp_path / "t.png")
    worker = own_worker(texture_pixels=399, mesh_bytes=10_000)
    [warning] = render(worker, path, CAMERA).info["warnings"]
    assert "20×20 pixels" in warning
    path.write_text(CUBE + "#" * 10_000)
    assert failure_of(worker, path).kind == "too_large"
