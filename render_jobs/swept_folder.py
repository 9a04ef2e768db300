"""A temporary folder that goes away with its owner, even when the owner is killed with SIGKILL.

A shell waits for the end of its standard input, which comes when the owner closes it or dies, and then
removes the folder. Where the shell was killed too, the next owner on the machine finds that nobody holds the
folder's lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from storage.errors import EnvironmentProblem

PREFIX = "fpipe-render-"
_LOCK_NAME = "owner.lock"
# Between making a folder and locking it lie microseconds; a folder younger than this is never taken for a
# dead one.
_MIN_AGE_S = 60.0
_JANITOR = 'trap "" HUP INT TERM; read -r _; rm -rf -- "$1"'


class SweptFolder:
    """A private temporary folder with its janitor; a context manager.

    Attributes:
        path: The folder, mode 0700.
    """

    def __init__(self, root: Path | None = None) -> None:
        parent = root or Path(tempfile.gettempdir())
        sweep(parent)
        try:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            self._lock = _lock(self.path)
        except OSError as error:
            raise EnvironmentProblem(
                f"no temporary folder could be made in {parent} ({error}); set TMPDIR to a writable folder"
            ) from error
        assert self._lock is not None
        self._janitor = subprocess.Popen(
            ["/bin/sh", "-c", _JANITOR, "janitor", str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def __enter__(self) -> SweptFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes the folder; may be called twice."""
        assert self._janitor.stdin is not None
        shutil.rmtree(self.path, ignore_errors=True)
        self._janitor.stdin.close()
        self._janitor.wait()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def sweep(parent: Path) -> list[Path]:
    """Removes the folders of dead owners; returns them. Ignores faults: it may be another user's."""
    removed = []
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime < _MIN_AGE_S:
                continue
            lock = _lock(folder)
            if lock is None:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
            removed.append(folder)
    return removed


def _lock(folder: Path) -> int | None:
    """Takes the folder's lock, which the kernel frees when its holder dies; None when somebody has it."""
    fd = os.open(folder / _LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd
