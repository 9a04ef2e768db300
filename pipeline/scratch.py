"""Owns the private scratch folder of one driver, and the guardian process that removes it whatever happens.

Temporary files of the driver and of everything that it starts (Ray, Blender) go into one folder: `TMPDIR`
points there, so that code which knows nothing of fpipe follows. Limits: processes on other nodes clean up
after themselves.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from storage.errors import EnvironmentProblem

TOKEN_VARIABLE = "FPIPE_DRIVER_TOKEN"
MAX_BASE_LENGTH = 28
"""Of 107 bytes, Ray's session folder and socket names take 63 and the folder's own name 16."""
SHORT_BASE = "/tmp"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yields a fresh private folder; it and all processes that use it go when the block or driver ends.

    The path is short, because Ray puts Unix sockets below it and their paths may have 107 bytes at most.

    Raises:
        EnvironmentProblem: the temporary folder is not writable.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="fpipe-", dir=_short_base()))
    except OSError as error:
        raise EnvironmentProblem(
            f"no temporary folder could be made in {tempfile.gettempdir()} ({error}); "
            "set TMPDIR to a writable folder"
        ) from error
    token = f"fpipe-{secrets.token_hex(12)}"
    guardian = subprocess.Popen(
        [
            sys.executable,
            "-I",
            str(Path(__file__).with_name("guardian.py")),
            token,
            str(folder),
            str(os.getpid()),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    temporary = folder / "t"
    temporary.mkdir()
    try:
        with _environment({TOKEN_VARIABLE: token, "TMPDIR": str(temporary)}):
            yield folder
    finally:
        assert guardian.stdin is not None
        guardian.stdin.close()
        guardian.wait()


def _short_base() -> str:
    """Returns the temporary folder, or /tmp where its path is too long for sockets (as on many clusters)."""
    usual = tempfile.gettempdir()
    is_long = len(usual) > MAX_BASE_LENGTH and Path(SHORT_BASE).is_dir() and os.access(SHORT_BASE, os.W_OK)
    return SHORT_BASE if is_long else usual


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Sets environment variables, and the folder that tempfile remembers, for the length of a block."""
    before = {name: os.environ.get(name) for name in values}
    remembered, tempfile.tempdir = tempfile.tempdir, None
    os.environ.update(values)
    try:
        yield
    finally:
        tempfile.tempdir = remembered
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
