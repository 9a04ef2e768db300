"""Folders that belong to a process: locked by it, and removed by others once it is gone.

The kernel frees a lock when its holder dies, whatever it died of.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

LOCK_NAME = "owner.lock"
MIN_AGE_S = 60.0
"""Between making a folder and locking it lie microseconds: a younger one is never taken for abandoned."""


def own(folder: Path) -> int | None:
    """Locks a folder; returns the descriptor that holds the lock, None when somebody else has it.

    Raises:
        OSError: The folder is gone, or cannot be written.
    """
    fd = os.open(folder / LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def remove_abandoned(folders: Iterable[Path]) -> list[Path]:
    """Removes the folders whose owner is dead; returns them. Ignores faults: it may be another user's."""
    removed = []
    for folder in folders:
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime < MIN_AGE_S:
                continue
            lock = own(folder)
            if lock is None:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
            removed.append(folder)
    return removed
