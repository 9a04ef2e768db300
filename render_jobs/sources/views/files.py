"""Files of a folder of views, on a disk or behind any fsspec URL, none of them outside its object's folder.

What a local file names may be a link, a pipe or a device: links that leave the object's folder are refused,
and only regular files are opened.
"""

from __future__ import annotations

import errno
import os
import stat
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from render_jobs.sources.files import check_reachable, local_folder, path_of_stored, stored_name
from storage.errors import EnvironmentProblem
from storage.remote_files import RemoteFiles

_NO_SUCH_NAME = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


class UnsafeReferenceError(ValueError):
    """A file's name leads out of its object's folder."""


class Listing(NamedTuple):
    """Names directly below a folder, sorted, hidden ones left out; pipes and the like count as files."""

    files: tuple[str, ...]
    folders: tuple[str, ...]


class ViewsFolder:
    """A folder that holds objects.

    Args:
        path: Local folder or fsspec URL.

    Attributes:
        path: As given, without a slash at its end.
        local: The folder when it lies on a disk, else None.

    Raises:
        EnvironmentProblem: The URL's protocol needs a package that is not installed.
    """

    def __init__(self, path: str) -> None:
        self.path = path.rstrip("/")
        self.local = local_folder(path)
        self._remote = None if self.local else RemoteFiles(path, {})

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    def list(self, relative: str = "") -> Listing | None:
        """Returns what lies directly in a folder, None where there is none (or an empty remote one)."""
        if self._remote is not None:
            names, folders = set(self._remote.list(relative)), set(self._remote.subfolders(relative))
            return _listing(names - folders, folders) if names else None
        assert self.local is not None
        try:
            found = [*(self.local / relative).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:  # leaving a folder out in silence would lose objects
            raise EnvironmentProblem(f"{self.local / relative} cannot be listed: {error.strerror}") from error
        folders = {path.name for path in found if os.path.isdir(path)}  # noqa: PTH112 False for a link in a loop
        return _listing({path.name for path in found} - folders, folders)

    def object(self, location: str) -> ObjectFolder:
        """Returns the folder of one object; its location may be in `stored_name`'s form."""
        return ObjectFolder(self, "" if location == "." else path_of_stored(location))

    def check_reachable(self) -> None:
        """Raises EnvironmentProblem, TransientError when the whole folder is gone, not a file in it."""
        check_reachable(self.path or "/", self._remote)

    def read_remote(self, relative: str) -> bytes:
        """Returns the bytes of a remote file."""
        assert self._remote is not None
        return self._remote.read(relative)

    def remote_sizes(self, relative: str) -> dict[str, int]:
        """Returns name → bytes of all files below a remote folder: one listing instead of many requests."""
        assert self._remote is not None
        found = self._remote.find(relative)
        return {name.removeprefix(f"{relative}/"): size for name, size in found.items()}


def _listing(files: set[str], folders: set[str]) -> Listing:
    shown = [tuple(sorted(name for name in names if not name.startswith("."))) for names in (files, folders)]
    return Listing(*shown)


class ObjectFolder:
    """The files of one object; made by `ViewsFolder.object`.

    Attributes:
        location: Its place below the folder of all objects as it can be stored, "." for that folder itself.
    """

    def __init__(self, folder: ViewsFolder, relative: str) -> None:
        self.location = stored_name(relative) or "."
        self._folder = folder
        self._relative = relative

    def size(self, name: str) -> int | None:
        """Returns the size of a file in bytes, None where there is no such file.

        Raises:
            UnsafeReferenceError: The name leads out of the object's folder.
        """
        name = checked_reference(name)
        if self._folder.local is None:
            return self._remote_sizes.get(name)
        try:
            status = self._local_path(name).stat()
        except OSError as error:
            if error.errno in _NO_SUCH_NAME:
                return None
            raise
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def read(self, name: str, max_bytes: int) -> bytes:
        """Returns the bytes of a file.

        Raises:
            FileNotFoundError: There is no such file.
            UnsafeReferenceError: See `size`.
            ValueError: It is larger than max_bytes.
        """
        size = self.size(name)
        if size is None:
            raise FileNotFoundError(f"{name} is not in {self.location}")
        if size > max_bytes:
            raise ValueError(f"{name} has {size} bytes, at most {max_bytes} are read")
        name = checked_reference(name)
        if self._folder.local is None:
            return self._folder.read_remote(f"{self._relative}/{name}".lstrip("/"))
        return self._local_path(name).read_bytes()

    @cached_property
    def _remote_sizes(self) -> dict[str, int]:
        return self._folder.remote_sizes(self._relative)

    @cached_property
    def _local_root(self) -> Path:
        assert self._folder.local is not None
        return (self._folder.local / self._relative).resolve()

    def _local_path(self, name: str) -> Path:
        path = Path(os.path.realpath(self._local_root / name))
        if not path.is_relative_to(self._local_root):
            raise UnsafeReferenceError(f"{name} is a link that leads out of {self.location}")
        return path


def checked_reference(name: str) -> str:
    """Returns the plain form of a relative name.

    Raises:
        UnsafeReferenceError: It is absolute, a URL, or climbs with "..".
    """
    plain = name.replace("\\", "/")
    parts = PurePosixPath(plain).parts
    if not parts or "\0" in plain:
        raise UnsafeReferenceError(f"{name!r} names no file")
    if plain.startswith("/") or ".." in parts or ":" in parts[0]:
        raise UnsafeReferenceError(f"{name} leads out of its folder")
    return "/".join(parts)
