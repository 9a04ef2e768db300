"""Arrays that a training worker keeps: in memory up to a budget, beyond it in files mapped into memory.

The files lie in the temporary folder (TMPDIR) without a name, so that nothing is left after any kind of end.
The system writes their pages out and drops them when memory is wanted elsewhere; on a folder that is itself
memory (tmpfs) nothing is gained. Their space on the disk is reserved when they are made: a disk that fills
up later would end the process without a word, at a write into the map. Values do not depend on where an
array lies.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import IO, Final

import numpy as np
import numpy.typing as npt

from storage.errors import EnvironmentProblem

LOGGER = logging.getLogger(__name__)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ScratchArrays:
    """Hands out arrays of one worker.

    Args:
        budget_bytes: Memory for all arrays together; None for any amount.
        folder: Where files go; None for the temporary folder.

    Attributes:
        memory_bytes: Bytes handed out from memory.
        file_bytes: Bytes handed out from files.
    """

    def __init__(self, budget_bytes: int | None = None, folder: str | None = None) -> None:
        self._budget = budget_bytes
        self._folder = folder
        self.memory_bytes = 0
        self.file_bytes = 0

    def empty(self, what: str, shape: Sequence[int], dtype: npt.DTypeLike) -> tuple[npt.NDArray, bool]:  # type: ignore[type-arg]  # any dtype
        """Make an array of arbitrary values, as large as it can get: untouched pages take no memory.

        Args:
            what: Its content, for messages.
            shape: Its shape.
            dtype: Its type.

        Returns:
            The array, and whether it lies in a file.

        Raises:
            EnvironmentProblem: The folder has too little space.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if not size or self._budget is None or self.memory_bytes + size <= self._budget:
            self.memory_bytes += size
            return np.empty(shape, dtype), False
        folder = self._folder or tempfile.gettempdir()
        with tempfile.TemporaryFile(dir=folder, prefix="fpipe-") as file:  # the map outlives the open file
            if not _reserve(file, size, folder):
                free = _gib(shutil.disk_usage(folder).free)
                raise EnvironmentProblem(
                    f"{what} take up to {_gib(size)}, more than compute.train_memory_bytes leaves, and"
                    f" {folder} has {free} free: set TMPDIR to a larger disk, raise the setting, or, while"
                    " the training has no checkpoint, use more compute.train_workers"
                )
            self.file_bytes += size
            LOGGER.info("%s: %s in a scratch file in %s", what, _gib(size), folder)
            return np.asarray(np.memmap(file, dtype, "w+", shape=tuple(shape))), True


def _reserve(file: IO[bytes], size: int, folder: str) -> bool:
    """Take space on the disk for a file; whether there is enough.

    Where the system cannot reserve, what is free at the moment has to do. That is looked at first: some file
    systems reserve by writing, until the disk is full.
    """
    if size > shutil.disk_usage(folder).free:
        return False
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            return error.errno not in _FULL
    return True


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.2f} GiB"
