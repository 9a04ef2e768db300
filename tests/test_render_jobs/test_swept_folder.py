from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from render_jobs.swept_folder import SweptFolder, sweep
from storage.errors import EnvironmentProblem

OWNER = """
import sys, time
from pathlib import Path
from render_jobs.swept_folder import SweptFolder
folder = SweptFolder(Path(sys.argv[1]))
(folder.path / "deep").mkdir()
(folder.path / "deep" / "file").write_bytes(b"x")
print(folder.path, folder._janitor.pid, flush=True)
time.sleep(60)
"""


def _wait_until_gone(path: Path, timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not path.exists()


def _killed_owner(root: Path, *, shell_too: bool = False, janitor_too: bool = False) -> Path:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(root)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    path, janitor = owner.stdout.readline().split()
    assert Path(path).is_dir()
    while not (grandchildren := psutil.Process(int(janitor)).children()):
        time.sleep(0.01)
    if shell_too or janitor_too:
        os.kill(int(janitor), signal.SIGKILL)
    if janitor_too:
        grandchildren[0].kill()
    owner.kill()
    owner.wait()
    owner.stdout.close()
    return Path(path)


def test_the_folder_goes_with_its_owner(tmp_path: Path) -> None:
    with SweptFolder(tmp_path) as folder:
        (folder.path / "file").write_bytes(b"x")
        assert folder.path.stat().st_mode & 0o777 == 0o700
    assert not folder.path.exists()
    folder.close()


def test_the_folder_goes_when_its_owner_is_killed(tmp_path: Path) -> None:
    assert _wait_until_gone(_killed_owner(tmp_path))


def test_the_folder_goes_when_its_owners_children_are_killed_too(tmp_path: Path) -> None:
    """Ray's workers do that to their children when their node is lost."""
    assert _wait_until_gone(_killed_owner(tmp_path, shell_too=True))


def test_the_folder_goes_although_somebody_else_still_writes_into_it(tmp_path: Path) -> None:
    with SweptFolder(tmp_path) as folder:
        assert folder._janitor.stdin is not None
        folder._janitor.stdin.close()  # as if the owner had died
        end = time.monotonic() + 1.0
        for number in itertools.takewhile(lambda _: time.monotonic() < end, itertools.count()):
            with contextlib.suppress(FileNotFoundError):
                (folder.path / str(number)).mkdir()
            time.sleep(0.0005)
        assert _wait_until_gone(folder.path)


def test_what_a_dead_owner_and_a_dead_janitor_left_is_swept_later(tmp_path: Path) -> None:
    left = _killed_owner(tmp_path, janitor_too=True)
    time.sleep(0.2)
    assert left.is_dir()
    assert sweep(tmp_path) == [], "too young to be sure"
    os.utime(left, (time.time() - 3600, time.time() - 3600))
    assert sweep(tmp_path) == [left]
    assert not left.exists()


def test_a_living_owners_folder_is_left_alone(tmp_path: Path) -> None:
    with SweptFolder(tmp_path) as folder:
        os.utime(folder.path, (0, 0))
        assert sweep(tmp_path) == []
        assert folder.path.is_dir()


def test_an_unusable_place_is_an_environment_problem(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="TMPDIR"):
        SweptFolder(tmp_path / "missing")
