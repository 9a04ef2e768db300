"""Faults of remote stores, injected: no server is needed here."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage import layout, retries
from storage.conditions import Conditions, dump_conditions
from storage.errors import EnvironmentProblem, StoreUnusableError, TransientError
from storage.remote_files import RemoteFiles
from storage.remote_requests import FsspecRequests, Head, Page
from storage.retries import RetryPolicy

from .test_remote_errors import answered


class ScriptedRequests:
    """A server that keeps objects, honours conditions or not, and plays a script of faults for `put`.

    "refused": nothing happens, 503. "answer lost": it is written, then the connection is reset. Other faults
    are exceptions, raised before anything is written.
    """

    def __init__(self, script: tuple[str | BaseException, ...] = (), honours: bool = True) -> None:
        self.script = list(script)
        self.honours = honours
        self.swaps = True
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.puts = 0

    def get(self, path: str, start: int | None, end: int | None) -> bytes:
        if path not in self.objects:
            raise FileNotFoundError(path)
        return self.objects[path][0][start:end]

    def head(self, path: str) -> Head:
        return Head(len(self.get(path, None, None)), self.objects[path][1])

    def put(self, path: str, data: bytes, create: bool = False, version: str = "") -> None:
        self.puts += 1
        fault = self.script.pop(0) if self.script else ""
        if isinstance(fault, BaseException):
            raise fault
        if fault == "refused":
            raise answered("SlowDown", 503)
        there = self.objects.get(path, (b"", ""))[1]
        if self.honours and ((create and there) or (version and version != there)):
            raise answered("PreconditionFailed", 412)
        self.objects[path] = data, f"v{self.puts}"
        if fault == "answer lost":
            raise ConnectionResetError("reset")

    def page(self, path: str, recursive: bool, after: str) -> Page:
        return Page(())

    def delete(self, path: str) -> None:
        if self.script and self.script[0] == "no deleting":
            raise answered("AccessDenied", 403)
        del self.objects[path]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "POLICY", RetryPolicy(attempts=4, base_s=0.0))


def files_of(*script: str | BaseException, honours: bool = True) -> tuple[RemoteFiles, ScriptedRequests]:
    files = RemoteFiles("memory://x", {})
    files.requests = requests = ScriptedRequests(script, honours)
    return files, requests


SCRIPTS = [
    (),
    ("refused",),
    ("answer lost",),
    ("refused", "answer lost"),
    ("answer lost", "refused", "refused"),
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_create_knows_whether_it_wrote(script: tuple[str, ...]) -> None:
    files, _ = files_of(*script)
    assert files.create("k", b"mine") is True
    assert files.read("k") == b"mine"
    files, requests = files_of(*script)
    requests.objects["/x/k"] = b"theirs", "v"
    assert files.create("k", b"mine") is False
    assert files.read("k") == b"theirs"


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_swap_knows_whether_it_wrote(script: tuple[str, ...]) -> None:
    files, requests = files_of(*script)
    requests.objects["/x/k"] = b"old", "v"
    assert files.swap("k", b"mine", "v") is True
    assert files.read("k") == b"mine"
    files, requests = files_of(*script)
    requests.objects["/x/k"] = b"theirs", "w"
    assert files.swap("k", b"mine", "v") is False
    assert files.read("k") == b"theirs"


def test_outcomes_that_stay_unknown_are_said() -> None:
    for write in ("create", "swap"):
        files, requests = files_of(*["refused"] * 9)
        requests.objects["/x/there"] = b"old", "v"
        with pytest.raises(TransientError, match="memory://x/"):
            files.create("k", b"x") if write == "create" else files.swap("there", b"x", "v")
        assert requests.puts == 4


def test_a_refusal_for_good_is_not_tried_again() -> None:
    files, requests = files_of(answered("ExpiredToken"), answered("ExpiredToken"))
    with pytest.raises(StoreUnusableError, match="memory://x/k: ExpiredToken"):
        files.create("k", b"x")
    with pytest.raises(StoreUnusableError, match="renew"):
        files.replace("k", b"x")
    assert requests.puts == 2


@pytest.mark.parametrize("honours", [True, False])
def test_a_probe_says_what_is_honoured_and_leaves_only_its_record(honours: bool) -> None:
    files, requests = files_of("refused", "answer lost", "refused", honours=honours)
    assert files.settle() == Conditions(create=honours, swap=honours)
    assert list(requests.objects) == [f"/x/{layout.CONDITIONS}"]
    written = requests.puts
    assert RemoteFiles.settle(files) == Conditions(create=honours, swap=honours)
    assert requests.puts == written, "asked once"


def test_a_probe_without_permission_to_delete_says_what_it_leaves(caplog: pytest.LogCaptureFixture) -> None:
    files, requests = files_of(*[""] * 4, "no deleting")
    assert files.settle() == Conditions(True, True)
    left = [key for key in requests.objects if "probe-" in key]
    assert len(left) == 1
    assert "stays behind" in caplog.text
    assert left[0].removeprefix("/x/") in caplog.text


def test_a_server_that_does_not_know_conditions_counts_as_one_that_ignores_them() -> None:
    unknown = answered("NotImplemented", 501)
    files, _ = files_of("", unknown, unknown)
    assert files.settle() == Conditions(create=False, swap=False)


def test_where_conditions_are_ignored_a_single_writer_still_creates_only_what_is_not_there() -> None:
    files, requests = files_of(honours=False)
    requests.objects[f"/x/{layout.CONDITIONS}"] = dump_conditions(Conditions(False, False)), "v"
    assert files.create("k", b"1") is True
    assert files.create("k", b"2") is False
    assert files.read("k") == b"1"
    version = files.version("k")
    assert files.swap("k", b"3", version) is True
    assert files.swap("k", b"4", version) is False
    assert files.read("k") == b"3"


def test_a_damaged_record_promises_nothing_and_is_mended(caplog: pytest.LogCaptureFixture) -> None:
    files, requests = files_of(honours=False)
    requests.objects[f"/x/{layout.CONDITIONS}"] = b"{", "v"
    files.create("k", b"1")
    assert files.create("k", b"2") is False
    assert files.read("k") == b"1"
    assert "taken for a store that ignores conditions" in caplog.text
    assert files.settle() == Conditions(False, False)
    assert files.recorded_conditions() == Conditions(False, False)


def test_store_that_ignores_ranges_is_refused() -> None:
    class Whole:
        def cat_file(self, path: str, start: int | None, end: int | None) -> bytes:
            return b"all of it"

    files = RemoteFiles("memory://x", {})
    files.requests = FsspecRequests(Whole())
    with pytest.raises(EnvironmentProblem, match="ignores range requests"):
        files.read("k", 2, 4)


def test_a_tree_is_found_with_sizes_in_one_listing() -> None:
    remote = RemoteFiles("memory://found/tree", {})
    for key, data in {"a/1": b"x", "a/b/2": b"yy", "c": b""}.items():
        remote.replace(key, data)
    assert remote.find("") == {"a/1": 1, "a/b/2": 2, "c": 0}
    assert remote.find("a") == {"a/1": 1, "a/b/2": 2}
    assert remote.find("gone") == {}
    assert remote.list("") == ["a", "c"]
    assert remote.list("a") == ["1", "b"]
    assert remote.list("c") == []
    assert remote.subfolders("") == ["a"]
    assert remote.subfolders("a") == ["b"]
    assert remote.subfolders("gone") == []
    assert remote.is_folder()
    assert not RemoteFiles("memory://found/nothing", {}).is_folder()


def test_a_slow_swap_does_not_hold_up_that_of_another_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the lease could not be renewed while a shard is uploaded."""
    files, requests = files_of()
    files.replace("shard", b"old")
    files.replace("lease", b"old")
    versions = {key: files.version(key) for key in ("shard", "lease")}
    files.settle()
    put, is_uploading, go_on = requests.put, threading.Event(), threading.Event()

    def slow(path: str, data: bytes, create: bool = False, version: str = "") -> None:
        if path.endswith("shard"):
            is_uploading.set()
            assert go_on.wait(20)
        put(path, data, create, version)

    monkeypatch.setattr(requests, "put", slow)
    with ThreadPoolExecutor(2) as pool:
        shard = pool.submit(files.swap, "shard", b"new", versions["shard"])
        try:
            assert is_uploading.wait(20)
            assert pool.submit(files.swap, "lease", b"new", versions["lease"]).result(10)
        finally:
            go_on.set()
        assert shard.result(10)
