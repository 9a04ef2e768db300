"""Arrays that a training worker keeps: in memory up to a budget, beyond it in files mapped into memory.

The files lie in the temporary folder (TMPDIR) without a name, so that nothing is left after any kind of end.
The system writes their pages out and drops them when memory is wanted elsewhere; on a folder that is itself
memory (tmpfs) nothing is gained. Values do not depend on where an array lies.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from storage.errors import EnvironmentProblem

LOGGER = logging.getLogger(__name__)


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
        """Make an array of arbitrary values, at first as large as it can get: untouched pages cost nothing.

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
        free = shutil.disk_usage(folder).free
        if size > free:  # a full disk would end the process without a word, at a write into the map
            raise EnvironmentProblem(
                f"{what} take up to {_gib(size)}, more than compute.train_memory_bytes leaves, and {folder} "
                f"has {_gib(free)} free: set TMPDIR to a larger disk, raise the setting, or start training "
                "with more compute.train_workers"
            )
        self.file_bytes += size
        LOGGER.info("%s: up to %s in a scratch file in %s", what, _gib(size), folder)
        with tempfile.TemporaryFile(dir=folder, prefix="fpipe-") as file:  # the map outlives the open file
            return np.asarray(np.memmap(file, dtype, "w+", shape=tuple(shape))), True


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.2f} GiB"
