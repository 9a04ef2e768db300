"""Files below a local folder, written so that a kill at any instant leaves nothing half-written.

A new file is written without a name (O_TMPFILE), synced, then linked to its final name, which fails if
the name exists: the kernel frees unlinked files of dead processes, so no temp file can survive.
File systems without O_TMPFILE, and overwriting, use a named temp file in the hidden folder `.tmp`, whose
name says which process owns it; `sweep` removes those of dead owners.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .conditions import HONOURED, Conditions
from .errors import EnvironmentProblem, StoreUnusableError, TransientError
from .mapped_files import MappedFiles, on_a_disk
from .parts import Part, fill_from_file, fill_from_memory, in_order

TEMP_FOLDER = ".tmp"
FOREIGN_TEMP_AGE_S = 24 * 3600.0  # a commit takes seconds; a day-old temp file of another host is dead

_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL, errno.ENOSYS}
_AGAIN = "then run the same command again: what is committed is kept"
_ENVIRONMENT = {
    errno.ENOSPC: f"no space left on the disk: make room, {_AGAIN}",
    errno.EDQUOT: f"disk quota exceeded: make room or raise the quota, {_AGAIN}",
    errno.EFBIG: f"larger than files may be here: raise the limit (ulimit -f), {_AGAIN}",
    errno.EROFS: f"read-only file system: mount it writable, {_AGAIN}",
    errno.EACCES: "permission denied: give this user the right to write there, or choose another root",
    errno.EPERM: "operation not permitted by the file system: choose another root",
    errno.ENOTDIR: "a file is in the way of a folder: choose another root",
}
_ABOUT_A_FOLDER = {errno.EACCES, errno.EPERM, errno.ENOTDIR}
_TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN}


class LocalFiles:
    """The `Files` of one local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._mapped = MappedFiles() if on_a_disk(root) else None

    def read(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes [start, end) of one file; a negative start counts from the end."""
        with _clear_errors(self.root / key), _reading(key), (self.root / key).open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            begin = 0 if start is None else max(0, size + start) if start < 0 else min(start, size)
            stop = size if end is None else min(end, size)
            return _read_exactly(file.fileno(), begin, stop - begin)

    def read_tails(self, keys: Sequence[str], n: int) -> list[bytes | Exception]:
        """Return the last `n` bytes of each file, or why they cannot be read."""
        found: list[bytes | Exception] = []
        for key in keys:
            try:
                found.append(self.read(key, -n))
            except OSError as error:
                found.append(error)
        return found

    def read_into(self, parts: Sequence[Part]) -> Iterator[tuple[int, Exception | None]]:
        """Fill the buffers of parts from the page cache; yields each part's position when it is filled."""
        for position in in_order(parts):
            part = parts[position]
            try:
                path = f"{self.root}/{part.key}"
                if self._mapped is None:
                    fill_from_file(path, part)
                else:
                    fill_from_memory(self._mapped.open(path), part)
            except (OSError, EOFError) as error:
                yield position, _clear(error, self.root / part.key)
            else:
                yield position, None

    def size(self, key: str) -> int:
        """Return the size of one file in bytes."""
        with _clear_errors(self.root / key), _reading(key):
            path = self.root / key
            if path.is_dir():
                raise FileNotFoundError(errno.ENOENT, "is a folder", str(path))
            return path.stat().st_size

    def create(self, key: str, data: bytes) -> bool:
        """Write the file durably unless the name exists, and say whether that happened."""
        path = self.root / key
        with _clear_errors(self.root / key), _folder(path.parent) as folder:
            created = not path.exists() and self._link_new(folder, path, data)
            os.fsync(folder)  # also when another writer linked it: it may have died before its own fsync
            return created

    def replace(self, key: str, data: bytes) -> None:
        """Write the file durably and atomically; a file that already has this content stays as it is."""
        path = self.root / key
        with _clear_errors(self.root / key):
            if self._content(key) == data or self.create(key, data):
                return
            with _folder(path.parent) as folder, self._named_temp(data) as temp:
                temp.replace(path)
                os.fsync(folder)

    def version(self, key: str) -> str:
        """Return inode, time of change and size of one file: every replacement is a new inode."""
        with _clear_errors(self.root / key), _reading(key):
            stat = (self.root / key).stat()
            return f"{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_size}"

    def swap(self, key: str, data: bytes, version: str) -> bool:
        """Replace one file unless it changed; swaps exclude each other by a lock on the folder."""
        path = self.root / key
        with _clear_errors(self.root / key), _folder(path.parent) as folder, self._named_temp(data) as temp:
            with suppress(OSError):  # some network file systems cannot lock a folder
                fcntl.flock(folder, fcntl.LOCK_EX)  # ends with the descriptor
            if self.version(key) != version:
                return False
            temp.replace(path)
            os.fsync(folder)
            return True

    def list(self, prefix: str) -> list[str]:
        """Return the sorted names directly below a folder."""
        try:
            names = os.listdir(self.root / prefix)  # noqa: PTH208 a hundred thousand names: no object for each
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if name != TEMP_FOLDER)

    def file_sizes(self, prefix: str) -> dict[str, int]:
        """Return name -> bytes of the files directly below `prefix`."""
        found = {}
        with (
            _clear_errors(self.root / prefix),
            suppress(FileNotFoundError, NotADirectoryError),
            os.scandir(self.root / prefix) as entries,
        ):
            for entry in entries:
                with suppress(FileNotFoundError):  # replaced at this moment
                    if entry.is_file():
                        found[entry.name] = entry.stat().st_size
        return found

    def settle(self) -> Conditions:
        """Both kinds of conditional writes are decided by the file system."""
        return HONOURED

    def sweep(self) -> None:
        """Remove temp files of dead processes of this machine, and day-old ones of others."""
        folder = self.root / TEMP_FOLDER
        for name in self.list(TEMP_FOLDER):
            with suppress(FileNotFoundError):
                if _temp_is_dead(folder / name):
                    (folder / name).unlink()

    def _content(self, key: str) -> bytes | None:
        try:
            return self.read(key)
        except FileNotFoundError:
            return None

    def _link_new(self, folder: int, path: Path, data: bytes) -> bool:
        try:
            descriptor = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno in _NO_TMPFILE:
                return self._link_named(folder, path, data)
            raise
        try:
            _write_durably(descriptor, data)
            # Only linkat() follows the /proc link, and Python calls linkat() only when given a folder.
            os.link(f"/proc/self/fd/{descriptor}", path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except FileExistsError:
            return False
        except FileNotFoundError:  # no /proc
            return self._link_named(folder, path, data)
        finally:
            os.close(descriptor)
        return True

    def _link_named(self, folder: int, path: Path, data: bytes) -> bool:
        with self._named_temp(data) as temp:
            try:
                os.link(temp, path.name, dst_dir_fd=folder)
            except FileExistsError:
                return False
            return True

    @contextmanager
    def _named_temp(self, data: bytes) -> Iterator[Path]:
        temp = self.root / TEMP_FOLDER / f"{process_tag()}.{uuid.uuid4().hex}"
        temp.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temp, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        try:
            try:
                _write_durably(descriptor, data)
            finally:
                os.close(descriptor)
            yield temp
        finally:
            temp.unlink(missing_ok=True)


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """Turn operating system errors about a file of the store into ours, except FileNotFoundError."""
    try:
        yield
    except OSError as error:
        if isinstance(error, TransientError):
            raise
        if error.errno in _ENVIRONMENT:
            where = error.filename if error.errno in _ABOUT_A_FOLDER else path  # the temp file's is no help
            raise StoreUnusableError(f"{where or path}: {_ENVIRONMENT[error.errno]}") from error
        if error.errno in _TRANSIENT:
            raise TransientError(f"{path}: {error.strerror}") from error
        raise


def _clear(error: Exception, path: Path) -> Exception:
    """Return what a read raises for an error of the operating system."""
    try:
        with _clear_errors(path), _reading(str(path)):
            raise error
    except (OSError, EOFError, EnvironmentProblem) as clear:
        return clear


@contextmanager
def _reading(key: str) -> Iterator[None]:
    """A folder, or something below a file, is no object, as on S3."""
    try:
        yield
    except (IsADirectoryError, NotADirectoryError) as error:
        raise FileNotFoundError(errno.ENOENT, "no such object", key) from error


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    """Make a folder durably and yield its open descriptor."""
    if not path.is_dir():
        _make_folder(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _make_folder(path: Path) -> None:
    if path.parent != path and not path.parent.is_dir():
        _make_folder(path.parent)
    try:
        path.mkdir(exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "is a file", str(path)) from error
    except FileNotFoundError as error:  # the folder above is there: /proc and the like answer so
        raise EnvironmentProblem(f"{path}: no folder can be made there ({error.strerror})") from error
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _write_durably(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.fsync(descriptor)


def _read_exactly(descriptor: int, start: int, n: int) -> bytes:
    if n <= 0:
        return b""
    data = os.pread(descriptor, n, start)
    if len(data) == n:
        return data
    parts, have = [data], len(data)
    while data and have < n:  # pread returns at most 2 GiB at once
        data = os.pread(descriptor, n - have, start + have)
        parts.append(data)
        have += len(data)
    return b"".join(parts)


def _process_start(pid: int) -> str:
    """Start time of a process in clock ticks since boot, '' when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _machine_tag() -> str:
    """Host, boot and pid namespace: only with all three equal does a pid mean the same process."""
    boot = namespace = "0"
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    with suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").stat().st_ino)
    return f"{socket.gethostname()}~{boot}~{namespace}"


def process_tag() -> str:
    """Return what names this process among all of all machines, for `process_is_dead`."""
    return f"{_machine_tag()}~{os.getpid()}~{_process_start(os.getpid())}"


def process_is_dead(tag: str) -> bool | None:
    """Say whether the process of a tag has ended; None when it is one of another machine."""
    rest, _, start = tag.rpartition("~")
    machine, _, pid = rest.rpartition("~")
    if machine == _machine_tag() and pid.isdigit():
        return _process_start(int(pid)) != start
    return None


def _temp_is_dead(temp: Path) -> bool:
    dead = process_is_dead(temp.name.rpartition(".")[0])
    return time.time() - temp.stat().st_mtime > FOREIGN_TEMP_AGE_S if dead is None else dead
