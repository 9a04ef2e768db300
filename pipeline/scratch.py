"""Owns the private scratch of one driver, and the guardian process that removes it whatever happens.

Temporary files of the driver and of everything that it starts (Ray, Blender) go into one folder below the
user's `TMPDIR`: `TMPDIR` points there, so that code which knows nothing of fpipe follows. Only what Ray keeps
for itself (sockets, logs) lies elsewhere where that path is too long for sockets. Limits: processes on other
nodes clean up after themselves.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from storage.errors import EnvironmentProblem

TOKEN_VARIABLE = "FPIPE_DRIVER_TOKEN"
MAX_BASE_LENGTH = 28
"""Of 107 bytes, Ray's session folder and socket names take 63 and the folder's own name 16."""
SHORT_BASE = "/tmp"


@dataclass(frozen=True)
class Scratch:
    """Private folders of one driver.

    Attributes:
        folder: For everything, in the user's temporary folder.
        ray: For Ray's sockets, whose paths may have 107 bytes at most: the same, or one in /tmp where the
            user's is too long (as the node disks of many clusters are).
    """

    folder: Path
    ray: Path


@contextlib.contextmanager
def scratch_folder() -> Iterator[Scratch]:
    """Yields fresh private folders; they and all processes that use them go when the block or driver ends.

    Raises:
        EnvironmentProblem: the temporary folder is not writable.
    """
    usual = tempfile.gettempdir()
    try:
        folder = Path(tempfile.mkdtemp(prefix="fpipe-", dir=usual))
        is_long = len(usual) > MAX_BASE_LENGTH and os.access(SHORT_BASE, os.W_OK)
        ray = Path(tempfile.mkdtemp(prefix="fpipe-", dir=SHORT_BASE)) if is_long else folder
    except OSError as error:
        raise EnvironmentProblem(
            f"no temporary folder could be made in {usual} ({error}); set TMPDIR to a writable folder"
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
            *([str(ray)] if is_long else []),
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
            yield Scratch(folder, ray)
    finally:
        assert guardian.stdin is not None
        guardian.stdin.close()
        guardian.wait()


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
