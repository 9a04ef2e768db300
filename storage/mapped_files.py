"""Files of a local disk, mapped into memory: reading from the page cache without the system's copy.

A mapped file that cannot be read ends the process (SIGBUS) instead of raising an error, so files of network
file systems, where that is a matter of course, are not mapped.
"""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

MAPPED_FILES = 128  # address space alone; of files that were not used lately nothing stays in memory
_DISKS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "overlay", "squashfs"}

Identity = tuple[int, int, int, int]


class MappedFiles:
    """The files that were read last. Threads may share it."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, tuple[Identity, memoryview]] = OrderedDict()

    def open(self, path: str) -> memoryview:
        """Return the content of a file as it is now; raises OSError like `os.open`."""
        identity = _identity(os.stat(path))  # noqa: PTH116 - a path object costs more than the rest
        known = self._files.get(path)
        if known is not None and known[0] == identity:  # shard files are never changed, only replaced
            with suppress(KeyError):  # another thread may have dropped it
                self._files.move_to_end(path)
            return known[1]
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            identity = _identity(os.fstat(descriptor))
            content = memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) if identity[-1] else b"")
        finally:
            os.close(descriptor)
        self._files[path] = identity, content
        with suppress(KeyError):
            while len(self._files) > MAPPED_FILES:
                self._files.popitem(last=False)  # unmapped when the last view of it is gone
        return content


def on_a_disk(folder: Path) -> bool:
    """Say whether a folder lies on a file system of this machine, as far as the system tells."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return False
    above = {str(path) for path in (folder, *folder.parents)}
    inside = [(len(where), kind) for where, kind in mounts if where.replace("\\040", " ") in above]
    return bool(inside) and max(inside, key=lambda mount: mount[0])[1] in _DISKS


def _identity(stat: os.stat_result) -> Identity:
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size
