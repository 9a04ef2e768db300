from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import signal
import stat
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from storage import local_files
from storage.errors import EnvironmentProblem, TransientError
from storage.store import Store

from .builders import files_below


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(tmp_path / "root" if request.param == "local" else f"memory://{uuid.uuid4().hex}/root")


def refuse_tmpfile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the file system one without O_TMPFILE, as NFS is."""
    real = os.open

    def without(path: Any, flags: int, mode: int = 0o777, **kwargs: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return real(path, flags, mode, **kwargs)

    monkeypatch.setattr(os, "open", without)


def test_create_happens_once(store: Store) -> None:
    assert store.create("a/b/c", b"first") is True
    assert store.create("a/b/c", b"second") is False
    assert store.read("a/b/c") == b"first"


def test_replace_writes_new_and_existing_keys(store: Store) -> None:
    for data in (b"one", b"two", b"two", b""):
        store.replace("x/y", data)
        assert store.read("x/y") == data


def test_ranges_and_tails(store: Store) -> None:
    store.create("k", bytes(range(100)))
    assert store.read_range("k", 10, 15) == bytes(range(10, 15))
    assert store.read_range("k", 95, 200) == bytes(range(95, 100))
    assert store.read_tail("k", 3) == bytes([97, 98, 99])
    assert store.read_tail("k", 1000) == bytes(range(100))
    assert store.size("k") == 100


def test_missing_keys(store: Store) -> None:
    store.create("folder/file", b"")
    for key in ("nothing", "folder", "folder/other", "deep/er", "folder/file/below"):
        assert not store.exists(key)
        for call in (store.read, store.size, lambda key: store.read_tail(key, 5)):
            with pytest.raises(FileNotFoundError):
                call(key)
    assert store.exists("folder/file")


def test_list_names_files_and_folders(store: Store) -> None:
    for key in ("d/10", "d/9", "d/sub/x", "e/1"):
        store.create(key, b"")
    assert store.list("d") == ["10", "9", "sub"]
    assert store.list("nothing") == []


def test_store_can_be_pickled_after_use(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create("k", b"data")
    assert pickle.loads(pickle.dumps(store)).read("k") == b"data"


def test_urls(tmp_path: Path) -> None:
    assert Store(f"file://{tmp_path}").local_path("a/b") == tmp_path / "a/b"
    assert Store(tmp_path).url == str(tmp_path)
    assert Store("memory://x/y/").url == "memory://x/y"
    assert Store("memory://x").local_path("a") is None
    with pytest.raises(EnvironmentProblem, match="nonsense://x"):
        Store("nonsense://x").read("k")


def test_nothing_but_the_key_is_left(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create("a/k", b"1")
    store.create("a/k", b"2")
    store.replace("a/k", b"3")
    assert files_below(tmp_path) == {"a/k": b"3"}


def test_data_is_synced_before_it_gets_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, calls = Store(tmp_path), []
    (tmp_path / "a").mkdir()
    real_link = os.link

    def link(*args: Any, **kwargs: Any) -> None:
        calls.append("link")
        real_link(*args, **kwargs)

    def fsync(descriptor: int) -> None:
        calls.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "fsync", fsync)
    store.create("a/k", b"1")
    assert calls == ["sync file", "link", "sync folder"]
    calls.clear()
    store.create("a/k", b"2")  # lost: the winner may have died before it synced the folder
    assert calls == ["sync folder"]
    calls.clear()
    store.create("new/folder/k", b"1")
    assert calls == ["sync folder", "sync folder", "sync file", "link", "sync folder"]
    calls.clear()
    store.replace("a/k", b"3")
    assert calls[-2:] == ["sync file", "sync folder"]


def test_file_systems_without_unnamed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_tmpfile(monkeypatch)
    store = Store(tmp_path)
    assert store.create("a/k", b"1") is True
    assert store.create("a/k", b"2") is False
    assert files_below(tmp_path) == {"a/k": b"1"}


@pytest.mark.parametrize(
    ("number", "text"),
    [(errno.ENOSPC, "no space left"), (errno.EROFS, "read-only"), (errno.EACCES, "denied")],
)
def test_full_and_read_only_disks_are_environment_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, text: str
) -> None:
    store = Store(tmp_path)
    (tmp_path / "a").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda *_: _raise(OSError(number, "no")))
        with pytest.raises(EnvironmentProblem, match=rf"a/k: .*{text}"):
            store.create("a/k", b"1")
    assert files_below(tmp_path) == {}
    assert store.create("a/k", b"1")


def test_io_error_is_transient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: _raise(OSError(errno.EIO, "I/O error")))
    with pytest.raises(TransientError, match="I/O error"):
        Store(tmp_path).create("k", b"1")


def test_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(EnvironmentProblem, match="in the way"):
        Store(tmp_path).create("a/k", b"1")


def _raise(error: Exception) -> None:
    raise error


def _die_while_writing(root: Path) -> None:
    def kill(_: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = kill  # type: ignore[assignment]
    local_files.LocalFiles(root)._named_temp(b"half").__enter__()


def test_temp_files_of_dead_writers_are_swept_and_others_stay(tmp_path: Path) -> None:
    child = multiprocessing.get_context("forkserver").Process(target=_die_while_writing, args=(tmp_path,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    (dead,) = (tmp_path / ".tmp").iterdir()
    assert dead.read_bytes() == b"half"
    foreign_new, foreign_old = (tmp_path / ".tmp" / f"elsewhere~0~0~1~2.{name}" for name in ("new", "old"))
    foreign_new.touch()
    foreign_old.touch()
    os.utime(foreign_old, (0, time.time() - 3 * 24 * 3600))
    with local_files.LocalFiles(tmp_path)._named_temp(b"alive") as alive:
        Store(tmp_path).sweep()
        assert sorted((tmp_path / ".tmp").iterdir()) == sorted([alive, foreign_new])


def test_temp_file_of_a_reused_pid_is_swept(tmp_path: Path) -> None:
    tag = local_files.process_tag().rpartition("~")[0]
    stale = tmp_path / ".tmp" / f"{tag}~1.abc"  # our pid, but a process that started at tick 1
    stale.parent.mkdir()
    stale.touch()
    Store(tmp_path).sweep()
    assert not stale.exists()


def test_swap_writes_only_over_the_version_that_was_seen(store: Store) -> None:
    store.create("a/k", b"1")
    version = store.version("a/k")
    assert store.swap("a/k", b"2", version) is True
    assert store.swap("a/k", b"3", version) is False
    assert store.read("a/k") == b"2"
    assert store.swap("a/k", b"2", store.version("a/k")) is True
    for call in (store.version, lambda key: store.swap(key, b"", "any")):
        with pytest.raises(FileNotFoundError):
            call("a/nothing")
    assert store.list("a") == ["k"]


def test_swaps_of_several_processes_never_overlap(tmp_path: Path) -> None:
    """A counter that each process raises by reading, adding and swapping loses no step."""
    context = multiprocessing.get_context("forkserver")
    store = Store(tmp_path)
    store.create("k", b"0")
    wins = context.Value("i", 0)
    children = [context.Process(target=_count_up, args=(tmp_path, wins)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert int(store.read("k")) == wins.value
    assert 60 < wins.value < 180


def _count_up(root: Path, wins: Any) -> None:
    store = Store(root)
    for _ in range(60):
        version = store.version("k")
        value = int(store.read("k"))
        if store.swap("k", str(value + 1).encode(), version):
            with wins.get_lock():
                wins.value += 1
