"""What `RemoteFiles` asks a file system for, one request at a time; and the form for any fsspec file system.

Nothing here tries again, and errors are those of the file system. Paths begin with the bucket or its like.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from fsspec.asyn import sync

from .errors import EnvironmentProblem
from .remote_reads import Outcomes, Span, gathered


class CutOffError(ConnectionError):
    """An answer holds less than it should."""


class RedirectedError(OSError):
    """The server sends the request elsewhere, and so on."""


@dataclass(frozen=True)
class Head:
    """Size in bytes of an object, and what tells its content from any earlier and later one."""

    size: int
    version: str


@dataclass(frozen=True)
class Entry:
    """One line of a listing: name below the path that was listed, size, and whether it is a folder."""

    name: str
    size: int
    is_folder: bool


@dataclass(frozen=True)
class Page:
    """Part of a listing; `after` asks for the next part, empty for the last."""

    entries: tuple[Entry, ...]
    after: str = ""


class Requests(Protocol):
    """Single requests to one file system.

    Attributes:
        swaps: Whether `put` can compare versions.
    """

    swaps: bool

    def get(self, path: str, start: int | None, end: int | None) -> bytes:
        """Read the bytes [start, end) of one object; a negative start counts from the end."""

    def get_many(self, spans: Sequence[Span]) -> Outcomes:
        """Read many spans of paths, at the same time where that is possible; exceptions are returned."""

    def head(self, path: str) -> Head:
        """Return size and version of one object; raises FileNotFoundError, also for a folder."""

    def put(self, path: str, data: bytes, create: bool = False, version: str = "") -> None:
        """Write one object in one request, under a condition if asked to."""

    def page(self, path: str, recursive: bool, after: str) -> Page:
        """List one page of what lies below a path; no entries where there is nothing."""

    def delete(self, path: str) -> None:
        """Remove one object."""


class FsspecRequests:
    """The `Requests` of any fsspec file system.

    Args:
        fs: The file system.
    """

    swaps = False

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def get(self, path: str, start: int | None, end: int | None) -> bytes:
        """See `Requests`."""
        data = bytes(self._fs.cat_file(path, start=start, end=end))
        return data if start is None else _bounded(data, Span(path, start, end))

    def get_many(self, spans: Sequence[Span]) -> Outcomes:
        """See `Requests`."""
        if getattr(self._fs, "async_impl", False):
            return cast(Outcomes, sync(self._fs.loop, gathered, self._fetch, spans))
        return [self._caught(span) for span in spans]

    async def _fetch(self, span: Span) -> bytes:
        return _bounded(bytes(await self._fs._cat_file(span.key, start=span.start, end=span.end)), span)

    def _caught(self, span: Span) -> bytes | Exception:
        try:
            return self.get(span.key, span.start, span.end)
        except Exception as error:  # noqa: BLE001 - the caller raises or retries it
            return error

    def head(self, path: str) -> Head:
        """See `Requests`; where the file system has no versions, a hash of the content is one."""
        info = self._fs.info(path)
        if info["type"] == "directory":
            raise FileNotFoundError(errno.ENOENT, "is a folder", path)
        version = (
            info.get("ETag") or info.get("etag") or hashlib.sha256(self.get(path, None, None)).hexdigest()
        )
        return Head(int(info["size"]), str(version))

    def put(self, path: str, data: bytes, create: bool = False, version: str = "") -> None:
        """See `Requests`."""
        assert not version, "no fsspec file system but S3 compares versions"
        self._fs.pipe_file(path, data, **({"mode": "create"} if create else {}))

    def page(self, path: str, recursive: bool, after: str) -> Page:
        """See `Requests`."""
        try:
            if recursive:
                found = list(self._fs.find(path, detail=True).values())
            else:
                found = self._fs.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return Page(())
        start = len(path.strip("/")) + 1
        entries = (
            Entry(entry["name"].strip("/")[start:], int(entry["size"] or 0), entry["type"] == "directory")
            for entry in found
        )
        return Page(tuple(entry for entry in entries if entry.name))

    def delete(self, path: str) -> None:
        """See `Requests`."""
        self._fs.rm_file(path)


def _bounded(data: bytes, span: Span) -> bytes:
    """Raise EnvironmentProblem for more bytes than were asked for."""
    most = -span.start if span.start < 0 else None if span.end is None else span.end - span.start
    if most is not None and len(data) > most:
        raise EnvironmentProblem(f"{span.key}: the store ignores range requests")
    return data
