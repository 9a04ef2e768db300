"""A temporary folder that goes away with its owner, even when the owner is killed with SIGKILL.

A shell waits for the end of its standard input, which comes when the owner closes it or dies, and then
removes the folder. It is a grandchild of the owner, because Ray's workers kill their children, and them
alone, when they lose their node. Where the shell was killed too, the next owner on the machine finds that
nobody holds the folder's lock.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from render_jobs.owned_folder import own, remove_abandoned
from storage.errors import EnvironmentProblem

PREFIX = "fpipe-render-"
# The first removal may meet a process of the dead owner that still writes.
_JANITOR = """
trap "" HUP INT TERM
exec 3<&0
{
    read -r _
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        rm -rf -- "$1"
        [ -e "$1" ] || exit
        sleep 0.5
    done
} <&3 &
exec 3<&- <&-
wait
"""


class SweptFolder:
    """A private temporary folder with its janitor; a context manager.

    Args:
        root: Where it is made; None takes the system's temporary folder.
        prefix: Begin of its name; the folders of dead owners that begin so are removed.

    Attributes:
        path: The folder, mode 0700.
    """

    def __init__(self, root: Path | None = None, prefix: str = PREFIX) -> None:
        parent = root or Path(tempfile.gettempdir())
        sweep(parent, prefix)
        try:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            self._lock = own(self.path)
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


def sweep(parent: Path, prefix: str = PREFIX) -> list[Path]:
    """Removes the folders of dead owners; returns them."""
    return remove_abandoned(parent.glob(f"{prefix}*"))
