"""Files of any fsspec file system; S3 is the one that matters.

Create-only writes are one PutObject with `If-None-Match: *`, never multipart, because some servers ignore
the condition there. Servers phrase the refusal differently: AWS leads to FileExistsError, Ceph to an
OSError whose cause carries "PreconditionFailed"; both mean "exists".
"""

from __future__ import annotations

import errno
import hashlib
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import fsspec

from .errors import EnvironmentProblem, FpipeError, TransientError
from .redaction import check_url

ONE_REQUEST_BYTES = 1 << 31  # s3fs uploads in parts from twice this size on
RETRY_DELAYS_S = (0.2, 1.0, 4.0)

_S3_DEFAULTS: dict[str, Any] = {
    "use_listings_cache": False,
    "config_kwargs": {
        "connect_timeout": 10,
        "read_timeout": 60,
        "retries": {"mode": "standard", "total_max_attempts": 2},  # s3fs and this module retry as well
    },
}
_EXISTS_CODES = {"PreconditionFailed", "412"}
_CONFLICT_CODES = {"ConditionalRequestConflict", "OperationAborted", "409"}  # a race, not yet decided
_TRANSIENT_ERRNO = {
    errno.EBUSY,
    errno.EREMOTEIO,
    errno.EIO,
    errno.ETIMEDOUT,
    errno.ECONNRESET,
    errno.EPIPE,
    errno.EAGAIN,
}
_NOT_KNOWN_CODES = {"NotImplemented", "501"}
_NETWORK_MODULES = ("botocore", "aiobotocore", "aiohttp", "urllib3")

T = TypeVar("T")
Names = list[str]  # the class below has a method named list

_SWAPS = threading.Lock()  # of file systems without conditional writes, within this process


class RemoteFiles:
    """The `Files` of one fsspec URL."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        defaults = _S3_DEFAULTS if url.startswith(("s3://", "s3a://")) else {}
        try:
            self.fs, self.root = fsspec.core.url_to_fs(check_url(url), **{**defaults, **options})
        except (ImportError, ValueError) as error:
            raise EnvironmentProblem(f"{url}: cannot be opened: {error}") from error

    def read(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes [start, end) of one object; a negative start counts from the end."""
        data = bytes(_retried(key, lambda: self.fs.cat_file(self._path(key), start=start, end=end)))
        if start is not None and start >= 0 and end is not None and len(data) > end - start:
            raise EnvironmentProblem(f"{key}: the store ignores range requests")
        return data

    def size(self, key: str) -> int:
        """Return the size of one object in bytes."""
        info = _retried(key, lambda: self.fs.info(self._path(key)))
        if info["type"] == "directory":
            raise FileNotFoundError(errno.ENOENT, "is a folder", key)
        return int(info["size"])

    def create(self, key: str, data: bytes) -> bool:
        """Write the object unless the key exists, in one request; not retried here on unknown outcomes."""
        try:
            self._write(key, data, mode="create")
        except Exception as error:
            if means_exists(error):
                return False
            raise _no_bucket(translated(error, key), key) from error
        return True

    def replace(self, key: str, data: bytes) -> None:
        """Write the object in one request, whether it exists or not."""
        try:
            _retried(key, lambda: self._write(key, data))
        except FileNotFoundError as error:
            raise _no_bucket(error, key) from error

    def version(self, key: str) -> str:
        """Return the ETag of one object, or a hash of its content where the file system has none."""
        info = _retried(key, lambda: self.fs.info(self._path(key)))
        return str(info.get("ETag") or hashlib.sha256(self.read(key)).hexdigest())

    def swap(self, key: str, data: bytes, version: str) -> bool:
        """Write the object if its version is still this one: `If-Match` on S3, else look and write."""
        condition = {"IfMatch": version} if "s3" in self.fs.protocol else {}
        with _SWAPS:
            if self.version(key) != version:
                return False
            try:
                self._write(key, data, **condition)
            except Exception as error:
                if means_exists(error):
                    return False
                if _server_code(error) not in _NOT_KNOWN_CODES:
                    raise translated(error, key) from error
                self.replace(key, data)
        return True

    def list(self, prefix: str) -> list[str]:
        """Return the sorted names directly below `prefix`."""
        try:
            paths = _retried(prefix, lambda: self.fs.ls(self._path(prefix), detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []
        own = self._path(prefix).strip("/")  # some servers list a folder's own marker object
        return sorted({path.rstrip("/").rpartition("/")[2] for path in paths if path.strip("/") != own})

    def find(self, prefix: str) -> dict[str, int]:
        """Return key → size of all objects below `prefix`, from one recursive listing."""
        try:
            found = _retried(prefix, lambda: self.fs.find(self._path(prefix), detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        start = len(self.root.rstrip("/")) + 1
        return {path[start:]: int(entry["size"]) for path, entry in found.items() if not path.endswith("/")}

    def subfolders(self, prefix: str) -> Names:
        """Return the names of the folders directly below `prefix`."""
        try:
            found = _retried(prefix, lambda: self.fs.ls(self._path(prefix), detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return []
        own = self._path(prefix).strip("/")
        paths = [entry["name"].strip("/") for entry in found if entry["type"] == "directory"]
        return [path.rpartition("/")[2] for path in paths if path != own]

    def is_folder(self) -> bool:
        """Say whether the URL names a folder, that is a prefix of some object's key."""
        return bool(_retried(self.root, lambda: self.fs.isdir(self.root)))

    def _write(self, key: str, data: bytes, **arguments: Any) -> None:
        self.fs.pipe_file(self._path(key), data, chunksize=ONE_REQUEST_BYTES, **arguments)

    def sweep(self) -> None:
        """Nothing to do: uploads appear whole or not at all."""

    def _path(self, key: str) -> str:
        return f"{self.root.rstrip('/')}/{key}" if key else self.root


def means_exists(error: BaseException) -> bool:
    """Say whether a conditional write was refused: the key exists, or has another version."""
    if isinstance(error, FileExistsError):
        return True
    return _server_code(error) in _EXISTS_CODES or "PreconditionFailed" in str(error)


def translated(error: BaseException, key: str) -> BaseException:
    """Turn an fsspec or network error into one of ours; FileNotFoundError and unknown ones stay."""
    if isinstance(error, (FpipeError, FileNotFoundError)):
        return error
    name = type(error).__name__
    if isinstance(error, PermissionError) or "Credentials" in name:
        return EnvironmentProblem(f"{key}: the store refuses access ({name}: {error})")
    if isinstance(error, (TimeoutError, ConnectionError)):
        return TransientError(f"{key}: {name}: {error}")
    if _server_code(error) in _CONFLICT_CODES:
        return TransientError(f"{key}: {name}: {error}")
    if isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO:
        return TransientError(f"{key}: {name}: {error}")
    if type(error).__module__.split(".")[0] in _NETWORK_MODULES:
        return TransientError(f"{key}: {name}: {error}")
    return error


def _no_bucket(error: BaseException, key: str) -> BaseException:
    """Say clearly what "not found" means as the answer to a write."""
    if isinstance(error, FileNotFoundError):
        return EnvironmentProblem(f"{key}: cannot be written: {error} (create the bucket first)")
    return error


def _server_code(error: BaseException) -> str:
    response = getattr(error.__cause__ or error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _retried(key: str, call: Callable[[], T]) -> T:
    for delay in (*RETRY_DELAYS_S, None):
        try:
            return call()
        except Exception as error:
            mapped = translated(error, key)
            if delay is None or not isinstance(mapped, TransientError):
                raise mapped from error
            time.sleep(delay)
    raise AssertionError("unreachable")
