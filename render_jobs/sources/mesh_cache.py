"""A bounded folder of fetched meshes, shared by the processes of one machine.

An entry is a folder that appears whole, by one rename. Whoever needs it gets hard links to its files (copies
where the task's folder lies on another file system), so that an entry may be evicted at any time without
taking anything away from a render, and nobody holds a lock while rendering. A kill at any instant leaves at
most an unfinished folder, whose lock is free and which the next eviction removes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from render_jobs.owned_folder import own, remove_abandoned

LOGGER = logging.getLogger(__name__)

KEEP_FRACTION = 0.9
"""Part of the bound that an eviction leaves, so that not every fetch evicts."""
_LOCK = ".lock"
_TOTAL = "total_bytes"
_UNUSABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EMLINK}


class MeshCache:
    """The cache of this machine.

    Args:
        folder: Where it lies, ~ allowed; made when it is first needed.
        max_bytes: What all entries together may take. One that is larger alone is not kept.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        self._folder = Path(folder).expanduser()
        self._max_bytes = max_bytes
        self._entries = self._folder / "entries"
        self._filling = self._folder / "filling"

    def provide(self, key: str, target: Path, fill: Callable[[Path], None]) -> None:
        """Makes the files of an entry available in a new folder.

        A cache that cannot be written is passed by, with a warning.

        Args:
            key: Names the content: the same key must always mean the same files.
            target: Folder to make; the caller owns and removes it.
            fill: Writes the files into the folder that it is given; called when the entry is not there. What
                it raises is passed on.
        """
        entry = self._entries / hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
        if _link(entry, target):
            return
        try:
            with self._filled(fill) as filled:
                if not _link(filled, target):
                    raise OSError(errno.ENOSPC, "its files can be neither linked nor copied")
                self._keep(filled, entry)
        except OSError as error:
            if error.errno not in _UNUSABLE:
                raise
            LOGGER.warning("mesh cache %s is not used: %s", self._folder, error.strerror)
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            fill(target)

    @contextlib.contextmanager
    def _filled(self, fill: Callable[[Path], None]) -> Iterator[Path]:
        """Yields a private folder with the files; what is left of it afterwards goes away."""
        for folder in (self._entries, self._filling):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        private = Path(tempfile.mkdtemp(dir=self._filling))
        lock = own(private)
        try:
            files = private / "files"
            files.mkdir()
            fill(files)
            yield files
        finally:
            shutil.rmtree(private, ignore_errors=True)
            if lock is not None:
                os.close(lock)

    def _keep(self, filled: Path, entry: Path) -> None:
        n_bytes = _bytes_of(filled)
        if n_bytes > self._max_bytes:
            return
        with _locked(self._folder / _LOCK):
            try:
                filled.rename(entry)
            except OSError as error:
                if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:  # somebody else was faster
                    return
                raise
            total = self._read_total()
            total = self._measure() if total is None else total + n_bytes
            self._write_total(total if total <= self._max_bytes else self._evict())

    def _evict(self) -> int:
        """Removes the entries that were used longest ago, and unfinished ones; returns what is left."""
        found = sorted(self._scan(), key=lambda entry: entry.used)
        total = sum(entry.n_bytes for entry in found)
        for entry in found:
            if total <= KEEP_FRACTION * self._max_bytes:
                break
            # Renamed first: whoever is linking its files meets a missing one, never half an entry.
            gone = Path(tempfile.mkdtemp(dir=self._filling)) / "files"
            entry.path.rename(gone)
            shutil.rmtree(gone.parent, ignore_errors=True)
            total -= entry.n_bytes
            LOGGER.debug("mesh cache: evicted %s, %d bytes", entry.path.name, entry.n_bytes)
        remove_abandoned(self._filling.iterdir())
        return total

    def _scan(self) -> list[_Entry]:
        return [
            _Entry(path, _bytes_of(path), path.stat().st_mtime)
            for path in self._entries.iterdir()
            if path.is_dir()
        ]

    def _measure(self) -> int:
        return sum(entry.n_bytes for entry in self._scan())

    def _read_total(self) -> int | None:
        """Returns the bytes of all entries as last counted; None makes the caller count."""
        try:
            return int((self._folder / _TOTAL).read_text())
        except (OSError, ValueError):
            return None

    def _write_total(self, total: int) -> None:
        (self._folder / _TOTAL).write_text(str(total))


@dataclass(frozen=True)
class _Entry:
    path: Path
    n_bytes: int
    used: float


def _link(entry: Path, target: Path) -> bool:
    """Brings an entry's files into a new folder; False, and no folder, when it is not there (any more)."""
    try:
        os.utime(entry)
        shutil.copytree(entry, target, copy_function=_link_or_copy)
    except (FileNotFoundError, NotADirectoryError):
        shutil.rmtree(target, ignore_errors=True)
        return False
    except shutil.Error as error:
        shutil.rmtree(target, ignore_errors=True)
        LOGGER.debug("mesh cache: %s went away: %s", entry.name, error)
        return False
    return True


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP}:
            raise
        shutil.copyfile(source, target)


def _bytes_of(folder: Path) -> int:
    """Returns what the files below a folder take on the disk, at least one block per file and folder."""
    total = 0
    for path in (folder, *folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            total += max(path.stat().st_size, 4096)
    return total


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for the lock of the cache's bookkeeping; held for a rename, or for an eviction."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
