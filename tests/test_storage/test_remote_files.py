"""Faults of remote stores, injected: no server is needed here."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from storage import remote_files
from storage.errors import EnvironmentProblem, TransientError
from storage.remote_files import ONE_REQUEST_BYTES, RemoteFiles, means_exists, translated


class ServerError(Exception):
    """Like botocore's ClientError: carries the server's answer."""

    def __init__(self, code: str) -> None:
        super().__init__(f"An error occurred ({code})")
        self.response = {"Error": {"Code": code}}


def caused(error: OSError, code: str) -> OSError:
    error.__cause__ = ServerError(code)
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileExistsError("k"), True),  # AWS through s3fs
        (caused(OSError(errno.EINVAL, "pre-condition"), "PreconditionFailed"), True),  # Ceph
        (caused(OSError(errno.EINVAL, "pre-condition"), "412"), True),
        (ServerError("PreconditionFailed"), True),
        (caused(OSError(errno.EINVAL, "bad"), "InvalidRequest"), False),
        (TimeoutError(), False),
        (caused(OSError("conflict"), "ConditionalRequestConflict"), False),  # nobody has won yet
    ],
)
def test_refusals_in_every_phrasing(error: Exception, expected: bool) -> None:
    assert means_exists(error) is expected


class ResetError(Exception):
    """Stands for an exception of a network library."""


ResetError.__module__ = "botocore.exceptions"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError("t"), TransientError),
        (ConnectionResetError("r"), TransientError),
        (OSError(errno.EBUSY, "SlowDown"), TransientError),
        (OSError(errno.EREMOTEIO, "500"), TransientError),
        (caused(OSError("conflict"), "ConditionalRequestConflict"), TransientError),
        (ResetError("closed"), TransientError),
        (PermissionError("AccessDenied"), EnvironmentProblem),
        (FileNotFoundError("k"), FileNotFoundError),
        (OSError(errno.EINVAL, "InvalidRequest"), OSError),
        (KeyError("a bug"), KeyError),
    ],
)
def test_errors_are_sorted_into_retryable_and_permanent(error: Exception, kind: type) -> None:
    mapped = translated(error, "the/key")
    assert type(mapped) is kind
    if mapped is not error:
        assert "the/key" in str(mapped)


class FlakyFileSystem:
    """Answers with the errors of a script first."""

    def __init__(self, script: list[Exception]) -> None:
        self.script = script
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def _call(self, name: str, **kwargs: Any) -> None:
        self.calls.append((name, kwargs))
        if self.script:
            raise self.script.pop(0)

    def cat_file(self, path: str, start: int | None, end: int | None) -> bytes:
        self._call("get")
        return b"data"[start:end]

    def pipe_file(self, path: str, data: bytes, **kwargs: Any) -> None:
        self._call("put", **kwargs)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> RemoteFiles:
    monkeypatch.setattr(remote_files, "RETRY_DELAYS_S", (0.0, 0.0, 0.0))
    return RemoteFiles("memory://x", {})


def test_reads_are_retried_and_give_up(files: RemoteFiles) -> None:
    files.fs = FlakyFileSystem([TimeoutError(), ConnectionResetError()])
    assert files.read("k") == b"data"
    files.fs = FlakyFileSystem([TimeoutError()] * 4)
    with pytest.raises(TransientError, match="k: TimeoutError"):
        files.read("k")
    files.fs = FlakyFileSystem([FileNotFoundError("k")])
    with pytest.raises(FileNotFoundError):
        files.read("k")


def test_create_is_one_conditional_request_and_never_retried_blindly(files: RemoteFiles) -> None:
    files.fs = FlakyFileSystem([])
    assert files.create("k", b"x") is True
    assert files.fs.calls == [("put", {"mode": "create", "chunksize": ONE_REQUEST_BYTES})]
    files.fs = FlakyFileSystem([TimeoutError()])
    with pytest.raises(TransientError):
        files.create("k", b"x")
    assert len(files.fs.calls) == 1
    files.fs = FlakyFileSystem([FileExistsError()])
    assert files.create("k", b"x") is False


def test_writing_into_a_missing_bucket_is_an_environment_problem(files: RemoteFiles) -> None:
    for write in (files.create, files.replace):
        files.fs = FlakyFileSystem([FileNotFoundError("The specified bucket does not exist")])
        with pytest.raises(EnvironmentProblem, match="k: cannot be written: The specified bucket"):
            write("k", b"x")


def test_store_that_ignores_ranges_is_refused(files: RemoteFiles) -> None:
    class Whole(FlakyFileSystem):
        def cat_file(self, path: str, start: int | None, end: int | None) -> bytes:
            return b"all of it"

    files.fs = Whole([])
    with pytest.raises(EnvironmentProblem, match="ignores range requests"):
        files.read("k", 2, 4)


class VersionedFileSystem(FlakyFileSystem):
    """Has an ETag, and is S3 to its users."""

    protocol = ("s3", "s3a")

    def info(self, path: str) -> dict[str, Any]:
        return {"type": "file", "size": 4, "ETag": '"v1"'}


def test_swap_is_one_conditional_request(files: RemoteFiles) -> None:
    files.fs = VersionedFileSystem([])
    assert files.swap("k", b"x", '"v1"') is True
    assert files.fs.calls == [("put", {"IfMatch": '"v1"', "chunksize": ONE_REQUEST_BYTES})]
    files.fs = VersionedFileSystem([])
    assert files.swap("k", b"x", '"v0"') is False
    assert files.fs.calls == []
    files.fs = VersionedFileSystem([caused(OSError(errno.EINVAL, "x"), "PreconditionFailed")])
    assert files.swap("k", b"x", '"v1"') is False
    files.fs = VersionedFileSystem([TimeoutError()])
    with pytest.raises(TransientError):
        files.swap("k", b"x", '"v1"')
    assert len(files.fs.calls) == 1, "never repeated blindly"


def test_a_server_without_if_match_is_written_to_after_a_look(files: RemoteFiles) -> None:
    files.fs = VersionedFileSystem([caused(OSError(errno.EINVAL, "x"), "NotImplemented")])
    assert files.swap("k", b"x", '"v1"') is True
    assert files.fs.calls[1] == ("put", {"chunksize": ONE_REQUEST_BYTES})


def test_a_tree_is_found_with_sizes_in_one_listing() -> None:
    remote = RemoteFiles("memory://found/tree", {})
    for key, data in {"a/1": b"x", "a/b/2": b"yy", "c": b""}.items():
        remote.replace(key, data)
    assert remote.find("") == {"a/1": 1, "a/b/2": 2, "c": 0}
    assert remote.find("a") == {"a/1": 1, "a/b/2": 2}
    assert remote.find("gone") == {}
    assert remote.subfolders("") == ["a"]
    assert remote.subfolders("a") == ["b"]
    assert remote.subfolders("gone") == []
    assert remote.is_folder()
    assert not RemoteFiles("memory://found/nothing", {}).is_folder()
