"""The cache of fetched meshes: bounded, shared, whole entries only, whoever dies when."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from render_jobs import owned_folder
from render_jobs.sources import mesh_cache
from render_jobs.sources.folder import FolderSource
from render_jobs.sources.mesh_cache import MeshCache
from render_jobs.sources.shapenet import ShapeNetSource
from tests.test_render_jobs.meshes import COLOURED_CUBE

ENTRY_BYTES = 100_000


def filler(calls: list[str], name: str, n_bytes: int = ENTRY_BYTES) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        calls.append(name)
        (folder / "deep").mkdir(parents=True)
        (folder / "deep/mesh.obj").write_bytes(name.encode() * (n_bytes // len(name)))
        (folder / "a.mtl").write_text(name)

    return fill


def provide(cache: MeshCache, folder: Path, name: str, calls: list[str], n_bytes: int = ENTRY_BYTES) -> Path:
    target = folder / f"{name}-{len(list(folder.iterdir()))}"
    cache.provide(name, target, filler(calls, name, n_bytes))
    assert (target / "a.mtl").read_text() == name
    assert (target / "deep/mesh.obj").stat().st_size == n_bytes
    return target


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    (tmp_path / "tasks").mkdir()
    return tmp_path / "tasks"


def entries_bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in (folder / "entries").rglob("*") if p.is_file())


def test_what_was_fetched_is_not_fetched_again(tmp_path: Path, tasks: Path) -> None:
    calls: list[str] = []
    for _ in range(3):
        provide(MeshCache(tmp_path / "cache", 10**7), tasks, "a", calls)
    assert calls == ["a"]
    assert list((tmp_path / "cache/filling").iterdir()) == []


def test_the_bound_holds_and_the_longest_unused_go_first(tmp_path: Path, tasks: Path) -> None:
    cache = MeshCache(tmp_path / "cache", 5 * ENTRY_BYTES)
    calls: list[str] = []
    for i, name in enumerate("abcd"):
        provide(cache, tasks, name, calls)
        entry = max((tmp_path / "cache/entries").iterdir(), key=lambda p: p.stat().st_mtime)
        os.utime(entry, (i, i))
    provide(cache, tasks, "a", calls)  # used now, so b is the oldest
    kept = [provide(cache, tasks, name, calls) for name in "efg"]
    assert entries_bytes(tmp_path / "cache") <= 5 * ENTRY_BYTES
    calls.clear()
    for name in "aefg":
        provide(cache, tasks, name, calls)
    assert calls == []
    provide(cache, tasks, "b", calls)
    assert calls == ["b"]
    assert all((folder / "deep/mesh.obj").exists() for folder in kept), "eviction takes nothing from a task"


def test_what_is_larger_than_the_bound_is_given_but_not_kept(tmp_path: Path, tasks: Path) -> None:
    calls: list[str] = []
    for _ in range(2):
        provide(MeshCache(tmp_path / "cache", 50_000), tasks, "a", calls)
    assert calls == ["a", "a"]
    assert entries_bytes(tmp_path / "cache") == 0


def test_a_failed_fetch_leaves_nothing(tmp_path: Path, tasks: Path) -> None:
    cache = MeshCache(tmp_path / "cache", 10**7)

    def fail(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError, match="gone"):
        cache.provide("a", tasks / "t", fail)
    assert not (tasks / "t").exists()
    assert [p for p in (tmp_path / "cache").rglob("*") if p.name == "half"] == []


def test_a_cache_that_cannot_be_written_is_passed_by(
    tmp_path: Path, tasks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    calls: list[str] = []
    with caplog.at_level(logging.WARNING):
        provide(MeshCache(tmp_path / "cache", 10**7), tasks, "a", calls)
    assert "is not used" in caplog.text


def test_files_are_copied_where_they_cannot_be_linked(
    tmp_path: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(mesh_cache.errno.EXDEV, "other file system")

    monkeypatch.setattr(mesh_cache.os, "link", refuse)
    calls: list[str] = []
    cache = MeshCache(tmp_path / "cache", 10**7)
    for _ in range(2):
        provide(cache, tasks, "a", calls)
    assert calls == ["a"]


def _many(folder: Path, tasks: Path, seed: int) -> None:
    cache = MeshCache(folder, 6 * ENTRY_BYTES)
    for i in range(40):
        name = "abcdefghij"[(i * (seed + 3) + seed) % 10]
        target = tasks / f"{seed}-{i}"
        cache.provide(name, target, filler([], name))
        content = (target / "deep/mesh.obj").read_bytes()
        assert content == name.encode() * ENTRY_BYTES, "whole, and what was asked for"
        assert (target / "a.mtl").read_text() == name


def test_processes_fill_and_evict_at_the_same_time(tmp_path: Path, tasks: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_many, args=(tmp_path / "cache", tasks, i)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert entries_bytes(tmp_path / "cache") <= 6 * ENTRY_BYTES
    assert list((tmp_path / "cache/filling").iterdir()) == []


SLOW_FILL = """
import sys, time
from pathlib import Path
from render_jobs.sources.mesh_cache import MeshCache
def fill(folder):
    (folder / "half").write_bytes(b"x" * 1000)
    print("filling", flush=True)
    time.sleep(600)
MeshCache(sys.argv[1], 10**7).provide("a", Path(sys.argv[2]), fill)
"""


def test_a_killed_filler_leaves_no_entry_and_is_swept(
    tmp_path: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    filling = subprocess.Popen(
        [sys.executable, "-c", SLOW_FILL, str(cache), str(tasks / "dead")], stdout=subprocess.PIPE, text=True
    )
    assert filling.stdout is not None
    assert filling.stdout.readline() == "filling\n"
    half = next((cache / "filling").iterdir())
    monkeypatch.setattr(owned_folder, "MIN_AGE_S", -1.0)
    evicting = MeshCache(cache, 3 * ENTRY_BYTES)
    for name in "bcde":
        provide(evicting, tasks, name, [])
    assert half.exists(), "its owner lives"
    filling.send_signal(signal.SIGKILL)
    filling.wait()
    filling.stdout.close()
    time.sleep(0.05)
    for name in "fghi":
        provide(evicting, tasks, name, [])
    assert not half.exists()
    calls: list[str] = []
    provide(evicting, tasks, "a", calls)
    assert calls == ["a"], "a half-filled entry is none"


def test_a_lost_count_is_made_again(tmp_path: Path, tasks: Path) -> None:
    cache = MeshCache(tmp_path / "cache", 4 * ENTRY_BYTES)
    for name in "abc":
        provide(cache, tasks, name, [])
    (tmp_path / "cache/total_bytes").write_text("gar")
    for name in "de":
        provide(cache, tasks, name, [])
    assert entries_bytes(tmp_path / "cache") <= 4 * ENTRY_BYTES


@pytest.mark.parametrize("kind", ["shapenet", "folder"])
def test_sources_fetch_from_the_cache_once_it_has_the_mesh(kind: str, tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    url = f"cached-{kind}"
    files.pipe_file(f"/{url}/02958343/m/model.obj", b"mtllib a.mtl\n" + COLOURED_CUBE.encode())
    files.pipe_file(f"/{url}/02958343/m/a.mtl", b"newmtl paint\n")
    cache = MeshCache(tmp_path / "cache", 10**8)
    make = {"shapenet": ShapeNetSource, "folder": FolderSource}[kind]
    source = make(f"memory://{url}", cache=cache)
    entry = source.list({}, 0)[0]
    first = source.fetch(entry, _folder(tmp_path / "1"))
    files.rm(f"/{url}/02958343/m", recursive=True)
    files.pipe_file(f"/{url}/02958343/other/model.obj", b"")  # an empty source would count as gone
    second = source.fetch(entry, _folder(tmp_path / "2"))
    assert first.path.relative_to(tmp_path / "1") == second.path.relative_to(tmp_path / "2")
    assert second.path.read_bytes() == first.path.read_bytes()
    assert (second.path.parent / "a.mtl").read_bytes() == b"newmtl paint\n"
    changed = type(entry)(entry.object_id, entry.class_name, entry.location, "another fingerprint")
    with pytest.raises(FileNotFoundError):
        source.fetch(changed, _folder(tmp_path / "3"))


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
