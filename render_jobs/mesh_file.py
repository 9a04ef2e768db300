"""The mesh file before Blender sees it: what a source hands over, and files that are none.

Nothing here trusts a file: what is no regular file is never opened for reading, and no read is longer than
the limit.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from render_jobs.normalize import Axis

_HEAD_BYTES = 4096
_FILE_TYPES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class MeshInput:
    """One mesh on the local disk, as `fetch` returns it and Blender gets it.

    Attributes:
        path: The mesh file.
        root: Folder that holds everything the mesh may refer to; materials and textures outside it are
            refused.
        up: The file's axis that points up.
        front: The file's axis that points to the front of the object.
        info: What the source knows about the object, JSON values; recorded with the object, not used.
    """

    path: Path
    root: Path
    up: Axis = "y"
    front: Axis = "-z"
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FileLimits:
    """How large a file may be that Blender gets.

    Attributes:
        mesh_bytes: Largest mesh, material or texture file, and largest sum of a glTF's buffers, in bytes.
        texture_pixels: Largest texture, in pixels.
    """

    mesh_bytes: int = 1 << 30
    texture_pixels: int = 1 << 26


class MeshError(ValueError):
    """A mesh that cannot be rendered.

    Attributes:
        kind: Class under which the failure is recorded, such as "missing_file", "html_page", "no_faces".
        picture: What the render looked like, as a data URI; empty where there is none.
    """

    def __init__(self, kind: str, reason: str, picture: str = "") -> None:
        super().__init__(reason)
        self.kind = kind
        self.picture = picture


def read_mesh_file(path: Path, max_bytes: int) -> bytes:
    """Reads a file that may be anything.

    Raises:
        MeshError: kinds missing_file, not_a_file, too_large, empty_file, html_page, lfs_pointer.
    """
    content = read_regular_file(path, max_bytes)
    problem = foreign_content(content[:_HEAD_BYTES])
    if problem is not None:
        raise MeshError(problem[0], f"{path.name} {problem[1]}")
    return content


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Reads a regular file of bounded size.

    Raises:
        MeshError: kinds missing_file, not_a_file, too_large.
    """
    with open_regular_file(path, max_bytes) as file:
        try:
            return file.read(max_bytes)
        except OSError as error:
            raise _unreadable(path, error) from error


def write_new_file(path: Path, content: bytes) -> None:
    """Writes a file of ours; never into one that is there, or through a link: that may be somebody else's.

    Raises:
        FileExistsError: Something of that name is there.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)


def open_regular_file(path: Path, max_bytes: int) -> BinaryIO:
    """Opens a file that may be anything; opening a named pipe does not wait for its writer.

    Raises:
        MeshError: kinds missing_file, not_a_file, too_large.
    """
    try:
        _require_regular(path, path.stat())  # a device may act when it is opened
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    status = os.fstat(file.fileno())
    try:
        _require_regular(path, status)  # it may have been replaced in between
        if status.st_size > max_bytes:
            reason = f"{path.name} has {status.st_size} bytes; compute.limits.mesh_bytes is {max_bytes}"
            raise MeshError("too_large", reason)
    except MeshError:
        file.close()
        raise
    return file


def _unreadable(path: Path, error: OSError) -> MeshError:
    return MeshError("missing_file", f"{path.name} cannot be read: {error.strerror or error}")


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        what = _FILE_TYPES.get(stat.S_IFMT(status.st_mode), "no regular file")
        raise MeshError("not_a_file", f"{path.name} is {what}, not a file")


def foreign_content(head: bytes) -> tuple[str, str] | None:
    """Recognises what stands in a file's place when a download went wrong.

    Returns:
        Kind of failure and the end of a sentence, or None.
    """
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not text:
        return "empty_file", "is empty"
    if text.startswith(b"version https://git-lfs"):
        return "lfs_pointer", "is a Git LFS pointer, not the file: fetch it with git lfs pull"
    if text[:1] == b"<" and (b"<html" in text.lower() or b"<!doctype" in text.lower()):
        return "html_page", "is an HTML page: the download failed"
    return None
