from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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


def _killed_owner(root: Path, *, janitor_too: bool) -> Path:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(root)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    path, janitor = owner.stdout.readline().split()
    assert Path(path).is_dir()
    if janitor_too:
        os.kill(int(janitor), signal.SIGKILL)
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
    assert _wait_until_gone(_killed_owner(tmp_path, janitor_too=False))


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
