"""One object store under one URL: whole-object reads, range reads, and create-only commits.

`Store` is what every other module of this package talks to. Keys are relative, with '/' between parts.
Local folders take their own path (durable, atomic, no temp file that can survive a kill); everything
else goes through fsspec.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from .conditions import Conditions
from .errors import EnvironmentProblem, TransientError
from .parts import Part
from .redaction import check_url, hide_options

_INHERITED: list[Any] = []  # kept: closing a parent's connections would wait for its event loop


class Files(Protocol):
    """What `Store` needs from a place that holds files."""

    def read(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes [start, end) of one object; a negative start counts from the end."""

    def read_tails(self, keys: Sequence[str], n: int) -> list[bytes | Exception]:
        """Return the last `n` bytes of each object, or why they cannot be read."""

    def read_into(self, parts: Sequence[Part]) -> Iterator[tuple[int, Exception | None]]:
        """Fill the buffers of parts; yields position and what went wrong, part by part."""

    def size(self, key: str) -> int:
        """Return the size of one object in bytes."""

    def create(self, key: str, data: bytes) -> bool:
        """Write the object if no such key exists, and say whether that happened."""

    def replace(self, key: str, data: bytes) -> None:
        """Write the object, whether it exists or not; readers see the old or the new one whole."""

    def version(self, key: str) -> str:
        """Return what tells the object's present content from any earlier and later one."""

    def swap(self, key: str, data: bytes, version: str) -> bool:
        """Write the object if it still has that version, and say whether that happened."""

    def list(self, prefix: str) -> list[str]:
        """Return the sorted names directly below `prefix`."""

    def file_sizes(self, prefix: str) -> dict[str, int]:
        """Return name -> bytes of the objects directly below `prefix`."""

    def settle(self) -> Conditions:
        """Return which conditional writes are honoured; found out and recorded if it is not yet."""

    def sweep(self) -> None:
        """Remove temp files of writers that are dead."""


class Store:
    """A dataset root: a folder or any URL that fsspec knows.

    Objects of this class can be sent to other processes; connections are opened lazily, per process.

    Args:
        url: Folder, `file://…`, `s3://bucket/prefix`, `memory://…`.
        **storage_options: Passed on to the fsspec file system.

    Raises:
        ConfigError: the URL carries credentials.
    """

    def __init__(self, url: str | Path, **storage_options: Any) -> None:
        hide_options(storage_options)
        text = check_url(str(url))
        path = text.removeprefix("file://")
        self._folder = None if "://" in path else Path(path).expanduser().resolve()
        self.url = str(self._folder) if self._folder else text.rstrip("/")
        self.storage_options = storage_options
        self._opened: tuple[int, Files] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    @property
    def _files(self) -> Files:
        # Connections and event loops do not survive a fork, so each process opens its own.
        if self._opened is None or self._opened[0] != os.getpid():
            if self._opened is not None:
                _INHERITED.append(self._opened)
            self._opened = (os.getpid(), self._open())
        return self._opened[1]

    def _open(self) -> Files:
        if self._folder is not None:
            from .local_files import LocalFiles

            return LocalFiles(self._folder)
        try:
            from .remote_files import RemoteFiles
        except ImportError as error:
            raise EnvironmentProblem(f"{self.url}: cannot be opened without fsspec ({error})") from error
        return RemoteFiles(self.url, self.storage_options)

    def read(self, key: str) -> bytes:
        """Return one whole object.

        Raises:
            FileNotFoundError: no such key (true for all read methods).
            TransientError: the store did not answer; may be tried again.
        """
        return self._files.read(key)

    def read_range(self, key: str, start: int, end: int) -> bytes:
        """Return bytes [start, end) of one object; fewer when the object ends earlier."""
        return self._files.read(key, start, end)

    def read_tail(self, key: str, n: int) -> bytes:
        """Return the last `n` bytes of one object, or all of it when it is shorter."""
        return self._files.read(key, -n)

    def read_tails(self, keys: Sequence[str], n: int) -> list[bytes | Exception]:
        """Return what `read_tail` returns or raises for each key; remote ones are read at the same time."""
        return self._files.read_tails(keys, n)

    def read_into(self, parts: Sequence[Part]) -> Iterator[tuple[int, Exception | None]]:
        """Fill the buffers of every part: the fastest way to read much of few objects or little of many.

        Neighbours are read together; requests to remote stores run at the same time.

        Yields:
            The position of each part when it is done (while its bytes are still in the processor's cache), in
            any order, with None, or with what reading it alone would have raised. EOFError: the object is
            shorter.
        """
        return self._files.read_into(parts)

    def size(self, key: str) -> int:
        """Return the size of one object in bytes."""
        return self._files.size(key)

    def exists(self, key: str) -> bool:
        """Say whether an object with this key exists."""
        try:
            self._files.size(key)
        except FileNotFoundError:
            return False
        return True

    def create(self, key: str, data: bytes) -> bool:
        """Write an object durably unless the key exists.

        Returns:
            True if this call created it, False if it was there. A server may answer "exists" to the retry
            of a request of ours that had succeeded: who must know reads the object back.

        Raises:
            TransientError: the outcome is unknown, for instance after a timeout.
            EnvironmentProblem: full disk, no permission, store unreachable.
        """
        return self._files.create(key, data)

    def replace(self, key: str, data: bytes) -> None:
        """Write an object durably and atomically, whether it exists or not."""
        self._files.replace(key, data)

    def version(self, key: str) -> str:
        """Return what tells the object's present content from any earlier and later one, for `swap`."""
        return self._files.version(key)

    def swap(self, key: str, data: bytes, version: str) -> bool:
        """Replace an object durably and atomically if nobody has changed it since `version` was asked.

        The comparison and the write are one step on the local disk and on S3 servers that honour `If-Match`;
        elsewhere somebody else's write may fall between the two.

        Returns:
            True if this call replaced it. False says nothing about who did: a server may answer "changed" to
            the retry of a request of ours that had succeeded, so who must know reads the object back.

        Raises:
            FileNotFoundError: no such key.
            TransientError: the outcome is unknown, for instance after a timeout.
        """
        return self._files.swap(key, data, version)

    def known_version(self, key: str) -> str | None:
        """Return `version`, or None when there is no such key."""
        try:
            return self.version(key)
        except FileNotFoundError:
            return None

    def exchange(self, key: str, data: bytes, known: str | None) -> bool:
        """Write an object unless somebody else has since `known_version` was asked.

        An answer that is lost is looked up, so unlike `swap` and `create` this says how it ended.

        Returns:
            True when the object holds `data` now.
        """
        try:
            done = self.create(key, data) if known is None else self.swap(key, data, known)
        except TransientError:
            done = False
        try:
            return done or self.read(key) == data
        except FileNotFoundError:
            return False

    def list(self, prefix: str) -> list[str]:
        """Return the sorted names (files and folders) directly below `prefix`; [] if there are none."""
        return self._files.list(prefix)

    def file_sizes(self, prefix: str) -> dict[str, int]:
        """Return name -> bytes of the objects directly below `prefix`, from one listing."""
        return self._files.file_sizes(prefix)

    def settle(self) -> Conditions:
        """Return which conditional writes this place honours (see `conditions`).

        A remote place is asked once per dataset, which writes a small record and needs permission to write.

        Raises:
            EnvironmentProblem, TransientError: See `create`.
        """
        return self._files.settle()

    def sweep(self) -> None:
        """Remove private temp files of writers that no longer live."""
        self._files.sweep()

    def local_path(self, key: str = "") -> Path | None:
        """Return the path of a key on the local disk, or None for a remote store."""
        return self._folder / key if self._folder is not None else None
