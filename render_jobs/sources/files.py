"""The files of a source, on a disk or behind any fsspec URL, seen through as few requests as possible.

Paths are relative to the source's folder, with "/" between the parts. Of a remote folder everything is known
after one recursive listing; of a local one names are cheap and sizes are asked for when they are needed.
Symbolic links are followed on a disk. Names that are not UTF-8 are kept in Python's surrogate form here;
`stored_name` turns them into what JSON can hold.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import quote, unquote_to_bytes

from render_jobs.sources.mesh_cache import MeshCache
from storage.errors import EnvironmentProblem, TransientError, UsageError
from storage.remote_files import RemoteFiles

PARALLEL_REQUESTS = 32
"""Requests under way at once: fetches of small files are latency, not bandwidth."""
SAMPLE_BYTES = 1 << 16
UNREACHABLE_ERRNO = {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT}
"""What a disk or a network folder in trouble answers; it says nothing about the file that was asked for."""
_RAW = "bytes:"

Job = TypeVar("Job")
Answer = TypeVar("Answer")


class SourceFiles:
    """A source's folder.

    Args:
        source: The source's name, for messages.
        url: Local folder or fsspec URL.

    Attributes:
        url: As given.
        local: The folder when it lies on a disk, else None.

    Raises:
        EnvironmentProblem: The URL's protocol needs a package that is not installed.
    """

    def __init__(self, source: str, url: str) -> None:
        self._source = source
        self.url = url
        self.local = local_folder(url)
        self._remote = None if self.local else RemoteFiles(url, {})

    def check_folder(self) -> None:
        """Raises UsageError when there is no such folder."""
        found = self.local.is_dir() if self.local else self._backend.is_folder()
        if not found:
            raise UsageError(f"source {self._source}: {self.url} is not a folder")

    def subfolders(self, relative: str = "") -> list[str]:
        """Returns the sorted names of the folders directly below one; hidden ones are left out."""
        if self.local is None:
            names = self._backend.subfolders(relative)
        else:
            names = [entry.name for entry in _scan(self._place(relative)) if _is_folder(entry)]
        return sorted(name for name in names if not name.startswith("."))

    def find(self, relative: str = "") -> dict[str, int | None]:
        """Returns path → size of all files below a folder, sorted; local sizes are None: not looked at."""
        if self.local is None:
            sizes = self._backend.find(relative)
            return {path: sizes[path] for path in sorted(sizes)}
        return dict.fromkeys(sorted(_walk(self._place(relative), f"{relative}/" if relative else "")))

    def names(self, relative: str = "") -> list[str]:
        """Returns the sorted names directly below a folder; none where there is no folder."""
        if self.local is None:
            return self._backend.list(relative)
        return sorted(entry.name for entry in _scan(self._place(relative)))

    def is_there(self, relative: str) -> bool:
        """Says whether anything of that name is on the disk, a file or not; raises TransientError."""
        try:
            os.lstat(self._place(relative))
        except OSError as error:
            if error.errno in UNREACHABLE_ERRNO:
                raise _unreachable(self._place(relative), error) from error
            return False
        return True

    def provide(
        self,
        location: str,
        fingerprint: str,
        target: Path,
        cache: MeshCache | None,
        fill: Callable[[Path], None],
    ) -> Path:
        """Makes the files of one mesh available on this machine.

        Args:
            location: The mesh.
            fingerprint: Of its content, as planned; with the location it names the cache's entry.
            target: Folder to make, for files from afar.
            cache: Keeps what is fetched from afar; None for no cache.
            fill: Fetches the files into the folder that it is given.

        Returns:
            The source's own folder where it lies on a disk, else `target`.

        Raises:
            FileNotFoundError: The mesh is not there.
            TransientError: The disk or the connection is in trouble.
        """
        if self.local is not None:
            if not self.is_there(location):
                raise FileNotFoundError(f"{location} is not in {self.url}")
            return self.local
        if cache is None:
            fill(target)
        else:
            cache.provide(f"{self.url}\0{location}\0{fingerprint}", target, fill)
        return target

    @contextlib.contextmanager
    def blaming_the_folder(self) -> Iterator[None]:
        """Within it, FileNotFoundError means that a file is missing, not the folder of the whole source.

        Raises:
            EnvironmentProblem, TransientError: See `check_reachable`.
        """
        try:
            yield
        except FileNotFoundError:
            check_reachable(self.url, self._remote)
            raise

    def size(self, relative: str) -> int:
        """Returns the size of a file in bytes; raises FileNotFoundError."""
        return os.stat(self._place(relative)).st_size if self.local else self._backend.size(relative)  # noqa: PTH116 for speed

    def read(self, relative: str, start: int | None = None, end: int | None = None) -> bytes:
        """Returns the bytes [start, end) of a file; raises FileNotFoundError, TransientError."""
        if self.local is None:
            return self._backend.read(relative, start, end)
        with open(self._place(relative), "rb", buffering=0) as file:  # noqa: PTH123
            file.seek(start or 0)
            return file.read(-1 if end is None else max(0, end - (start or 0)))

    def ends(self, relative: str, size: int) -> tuple[bytes, bytes]:
        """Returns the first and the last 64 KiB of a file, which are the same bytes when it is small.

        Nothing of what cannot be read: a listing goes on, and the renderer says what is wrong.
        """
        try:
            if size <= SAMPLE_BYTES:
                whole = self.read(relative) if size else b""
                return whole, whole
            return self.read(relative, 0, SAMPLE_BYTES), self.read(relative, size - SAMPLE_BYTES, size)
        except (FileNotFoundError, IsADirectoryError, PermissionError):
            return b"", b""

    def known_size(self, relative: str, listed: int | None) -> int:
        """Returns the size in bytes as listed, or asks for it; 0 for what is no regular file."""
        if listed is not None:
            return listed
        try:
            status = os.stat(self._place(relative))  # noqa: PTH116 for speed
        except OSError:
            return 0
        return status.st_size if stat.S_ISREG(status.st_mode) else 0

    def in_parallel(self, work: Callable[[Job], Answer], jobs: Sequence[Job]) -> list[Answer]:
        """Does one small job per file, several at a time where each waits for a network; answers in order."""
        if self.local or len(jobs) < 2:  # on a disk, threads cost three times what they save
            return [work(job) for job in jobs]
        with ThreadPoolExecutor(PARALLEL_REQUESTS, thread_name_prefix="source") as pool:
            return list(pool.map(work, jobs))

    def copy(self, relatives: Iterable[str], folder: Path, below: str = "") -> None:
        """Copies files into a local folder, several at a time.

        Args:
            relatives: The files.
            folder: Where they go, under their paths relative to `below`.
            below: A folder that holds them all.

        Raises:
            FileNotFoundError: One of them is not there.
            TransientError: A fault of the connection that may go away.
        """

        def copy_one(relative: str) -> None:
            target = folder / PurePosixPath(relative).relative_to(below)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.read(relative))

        self.in_parallel(copy_one, list(relatives))

    def _place(self, relative: str) -> str:
        assert self.local is not None
        return f"{self.local}/{relative}"

    @property
    def _backend(self) -> RemoteFiles:
        assert self._remote is not None
        return self._remote


def is_local(url: str) -> bool:
    """Says whether a path or URL names a place on this machine's disks."""
    return "://" not in url or url.startswith("file://")


def local_folder(url: str) -> Path | None:
    """Returns the folder that a path or file:// URL names, None for other URLs."""
    return Path(url.removeprefix("file://")) if is_local(url) else None


def check_reachable(url: str, remote: RemoteFiles | None) -> None:
    """Tells a source that is gone as a whole from a file that is missing in it.

    A folder that is empty counts as gone: so a place looks where something is not mounted.

    Args:
        url: The source's folder.
        remote: Its files, where it is on no disk.

    Raises:
        EnvironmentProblem: There is nothing at the source's folder, or it cannot be listed.
        TransientError: The disk or the connection is in trouble.
    """
    folder = local_folder(url)
    if folder is not None:
        found = bool(_scan(str(folder)))
    else:
        assert remote is not None
        found = remote.is_folder()
    if not found:
        raise EnvironmentProblem(
            f"{url}, where the objects come from, is not there or empty: moved, or not mounted here?"
        )


def _unreachable(path: str, error: OSError) -> TransientError:
    return TransientError(f"{path}: {error.strerror}")


def stored_name(path: str) -> str:
    """Returns a path as JSON can hold it: unchanged, or its raw bytes when it is no UTF-8 or looks so."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return _RAW + quote(os.fsencode(path), safe="/")
    return _RAW + quote(path, safe="/") if path.startswith(_RAW) else path


def path_of_stored(name: str) -> str:
    """Returns the path that `stored_name` was given."""
    return os.fsdecode(unquote_to_bytes(name.removeprefix(_RAW))) if name.startswith(_RAW) else name


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:  # leaving a folder out in silence would lose objects
        if error.errno in UNREACHABLE_ERRNO:
            raise _unreachable(folder, error) from error
        raise EnvironmentProblem(f"{folder} cannot be listed: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Says whether a name leads to a folder; a link that cannot be followed leads to none."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno in UNREACHABLE_ERRNO:
            raise _unreachable(entry.path, error) from error
        return False


def _walk(folder: str, prefix: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yields all files below a folder; a link to a folder is followed, unless it leads back up."""
    for entry in _scan(folder):
        path = prefix + entry.name
        if not _is_folder(entry):
            yield path
        elif not entry.is_symlink():
            yield from _walk(entry.path, path + "/", above)
        elif (real := os.path.realpath(entry.path)) not in above and not _holds(real, entry.path):
            yield from _walk(entry.path, path + "/", (*above, real))


def _holds(folder: str, path: str) -> bool:
    inside = os.path.realpath(os.path.dirname(path))  # noqa: PTH120 strings, for speed
    return f"{inside}/".startswith(f"{folder.rstrip('/')}/")
