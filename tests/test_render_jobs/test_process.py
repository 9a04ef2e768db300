"""A child that misbehaves in every way that we could think of: recorded, ended, cleaned up, replaced."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from render_jobs import process
from render_jobs.cameras import hemisphere_cameras, intrinsics
from render_jobs.config import ExecutionLimits, RenderConfig
from render_jobs.mesh_file import MeshInput
from render_jobs.worker import BlenderWorker, Rendered, RenderFailure
from storage.errors import EnvironmentProblem
from storage.records import Failure

CONFIG = RenderConfig(views=4, width=16, height=16)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., BlenderWorker]]:
    monkeypatch.setattr(process, "CHILD_MODULE", "tests.test_render_jobs.rogue_child")
    made: list[BlenderWorker] = []

    def worker(echo: Any = None, **limits: Any) -> BlenderWorker:
        made.append(BlenderWorker(ExecutionLimits(**{"deadline_s": 5.0, **limits}), tmp_path, echo))
        return made[-1]

    yield worker
    for each in made:
        each.close()
    assert list(tmp_path.iterdir()) == []


def render(worker: BlenderWorker, name: str = "good", views: int = 4) -> Rendered:
    cameras = hemisphere_cameras(views, 1.3, 0)
    matrices = np.repeat(intrinsics(1.02, 16, 16)[None], views, axis=0)
    return worker.render(MeshInput(Path(f"/nowhere/{name}.obj"), Path("/nowhere")), cameras, matrices, CONFIG)


def failure_of(worker: BlenderWorker, name: str, views: int = 4) -> Failure:
    with pytest.raises(RenderFailure) as caught:
        render(worker, name, views)
    assert render(worker).images.shape == (4, 16, 16, 4), "the next object is served"
    return caught.value.failure


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("quiet_exit", "crash", "ended with code 3"),
        ("wrong_shape", "crash", "expected {'images': [4, 16, 16, 4]}"),
        ("no_fields", "crash", "mesh_to_world"),
        ("nested", "crash", "no answer"),
        ("huge", "crash", "refused"),
        ("no_memory", "out_of_memory", "died of SIGABRT when it got no more memory"),
        ("litter", "crash", "died of SIGABRT"),
    ],
)
def test_what_it_says_and_how_it_dies_is_recorded(
    make: Callable[..., BlenderWorker], name: str, kind: str, reason: str
) -> None:
    failure = failure_of(make(), name)
    assert failure.kind == kind
    assert reason in failure.reason


def test_a_child_that_no_longer_reads_is_late(make: Callable[..., BlenderWorker]) -> None:
    """A request larger than the pipe must not block its sender for ever."""
    worker = make(deadline_s=1.0)
    render(worker, "deaf")
    began = time.monotonic()
    with pytest.raises(RenderFailure, match="timeout: not finished after 1 s"):
        render(worker, "good", views=4000)
    assert time.monotonic() - began < 3.0
    assert len(render(worker, "good", views=4000).images) == 4000


def test_endless_stderr_fills_neither_disk_nor_memory(
    make: Callable[..., BlenderWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MAX_FILE_BYTES", 1 << 26)
    sizes: list[tuple[int, int]] = []
    real = process.BlenderProcess._look

    def look(self: process.BlenderProcess) -> None:
        before = self._log.stat().st_size
        real(self)
        sizes.append((before, self._log.stat().st_size))

    monkeypatch.setattr(process.BlenderProcess, "_look", look)
    failure = failure_of(make(deadline_s=20.0), "flood")
    assert failure.kind == "crash"
    assert len(failure.detail) <= 4000
    large = [(before, after) for before, after in sizes if before > 1 << 25]
    assert len(large) > 3, "it writes a lot, again and again"
    assert max(before for before, _ in large) <= 1 << 26
    assert any(after < before / 2 for before, after in large), "and is cut"


def test_what_it_started_dies_with_it_and_hides_nothing(make: Callable[..., BlenderWorker]) -> None:
    """A grandchild that holds the pipes must neither survive nor turn a crash into a timeout."""
    worker, began = make(deadline_s=30.0), time.monotonic()
    failure = failure_of(worker, "orphan")
    assert failure.kind == "crash"
    assert time.monotonic() - began < 10.0
    grandchild = int(failure.detail.split("grandchild ")[1].split()[0])
    deadline = time.monotonic() + 5.0
    while psutil.pid_exists(grandchild) and time.monotonic() < deadline:
        if psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.05)
    else:
        assert not psutil.pid_exists(grandchild)


def test_temporary_files_of_a_dead_child_are_gone_at_once(
    make: Callable[..., BlenderWorker], tmp_path: Path
) -> None:
    worker = make()
    for _ in range(3):
        assert failure_of(worker, "litter").kind == "crash"
    (child,) = worker.folder.glob("child-*")
    assert render(worker).info["tmp"] == str(child)
    assert not list(tmp_path.rglob("*.exr"))


def test_hundreds_of_restarts_leave_no_descriptor_and_no_zombie(make: Callable[..., BlenderWorker]) -> None:
    worker = make(objects_per_process=1)
    render(worker)
    me = psutil.Process()
    before, threads = me.num_fds(), me.num_threads()
    for number in range(60):
        if number % 3:
            render(worker)
        else:
            with pytest.raises(RenderFailure):
                render(worker, "quiet_exit")
    assert me.num_fds() <= before
    assert me.num_threads() == threads
    assert not [child for child in me.children() if child.status() == psutil.STATUS_ZOMBIE]


def test_pipes_of_a_process_that_cannot_be_started_are_closed(
    make: Callable[..., BlenderWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make()
    before = psutil.Process().num_fds()
    monkeypatch.setattr(process.sys, "executable", "/nowhere/python")
    for _ in range(5):
        with pytest.raises(EnvironmentProblem, match="cannot be started"):
            render(worker)
    assert psutil.Process().num_fds() == before
    assert not list(worker.folder.glob("child-*"))


def test_a_restart_that_fails_once_is_tried_again(
    make: Callable[..., BlenderWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make(objects_per_process=1)
    render(worker)
    real, calls = process.BlenderProcess.receive, []

    def receive(self: process.BlenderProcess, limit: int) -> Any:
        if limit == 0:
            calls.append(self.pid)
            if len(calls) == 1:
                raise self.end("timeout", "not finished after 180 s")
        return real(self, limit)

    monkeypatch.setattr(process.BlenderProcess, "receive", receive)
    assert render(worker).images.shape[0] == 4
    assert len(set(calls)) == 2


def test_the_kernel_refuses_memory_far_beyond_the_limit(
    make: Callable[..., BlenderWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this process cannot look in time, as on a machine that swaps."""
    monkeypatch.setattr(process.BlenderProcess, "_resident_bytes", lambda self: 0)
    monkeypatch.setattr(process, "_BEYOND_LIMIT_BYTES", 1 << 28)
    failure = failure_of(make(memory_bytes=1 << 28, deadline_s=30.0), "allocate")
    assert failure.kind == "out_of_memory"
    assert "MemoryError" in failure.detail


def test_what_it_writes_is_passed_on_as_it_comes(make: Callable[..., BlenderWorker]) -> None:
    said: list[str] = []
    worker = make(said.append)
    failure_of(worker, "litter")
    assert "Writing: crash.txt" in "".join(said)
