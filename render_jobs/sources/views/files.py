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

import fsspec

from storage.errors import EnvironmentProblem
from storage.remote_files import translated

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

    Raises:
        EnvironmentProblem: The URL's protocol needs a package that is not installed.
    """

    def __init__(self, path: str) -> None:
        self.path = path.rstrip("/")
        try:
            self._files, self._root = fsspec.core.url_to_fs(path)
        except (ImportError, ValueError) as error:
            raise EnvironmentProblem(f"{path} cannot be opened: {error}") from error
        protocol = self._files.protocol
        self.is_local = "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    def list(self, relative: str = "") -> Listing | None:
        """Returns what lies directly in a folder, None where there is no such folder."""
        place = self._join(relative)
        try:
            if not self._files.isdir(place):
                return None
            found = self._files.ls(place, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise translated(error, f"{self.path}/{relative}") from error
        names: dict[bool, list[str]] = {True: [], False: []}
        for entry in found:
            name = entry["name"].rstrip("/").rsplit("/", 1)[-1]
            if not name.startswith(".") and entry["name"].strip("/") != place.strip("/"):
                is_folder = entry["type"] == "directory" or (self.is_local and Path(entry["name"]).is_dir())
                names[is_folder].append(name)
        return Listing(tuple(sorted(names[False])), tuple(sorted(names[True])))

    def object(self, location: str) -> ObjectFolder:
        """Returns the folder of one object."""
        return ObjectFolder(self, location)

    def _join(self, relative: str) -> str:
        return f"{self._root.rstrip('/')}/{relative}".rstrip("/")

    def _sizes(self, location: str) -> dict[str, int]:
        """Sizes of all files of one remote object, by name: one listing instead of a request per image."""
        place = self._join(location)
        try:
            found = self._files.find(place, detail=True)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise translated(error, f"{self.path}/{location}") from error
        inside = place.strip("/") + "/"
        return {
            name.strip("/").removeprefix(inside): int(entry["size"] or 0) for name, entry in found.items()
        }

    def _read(self, relative: str) -> bytes:
        try:
            return bytes(self._files.cat_file(self._join(relative)))
        except OSError as error:
            raise translated(error, f"{self.path}/{relative}") from error


class ObjectFolder:
    """The files of one object; made by `ViewsFolder.object`.

    Attributes:
        location: Its place below the folder of all objects, "." for that folder itself.
    """

    def __init__(self, folder: ViewsFolder, location: str) -> None:
        self.location = location
        self._folder = folder
        self._relative = "" if location == "." else location

    def size(self, name: str) -> int | None:
        """Returns the size of a file in bytes, None where there is no such file.

        Raises:
            UnsafeReferenceError: The name leads out of the object's folder.
        """
        name = checked_reference(name)
        if not self._folder.is_local:
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
        if self._folder.is_local:
            return self._local_path(name).read_bytes()
        return self._folder._read(f"{self._relative}/{name}".lstrip("/"))

    @cached_property
    def _remote_sizes(self) -> dict[str, int]:
        return self._folder._sizes(self._relative)

    @cached_property
    def _local_root(self) -> Path:
        return Path(self._folder._join(self._relative)).resolve()

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
