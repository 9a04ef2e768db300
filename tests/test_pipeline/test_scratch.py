"""The guardian against a driver that is killed: its processes end, its folder goes, strangers are spared."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pipeline.scratch import TOKEN_VARIABLE, scratch_folder
from tests.conformance.faults import is_alive

DRIVER = """
import subprocess, sys, time
from pipeline.scratch import scratch_folder
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
with scratch_folder() as scratch:
    folder = scratch.folder
    (folder / "file").write_text("x")
    plain = subprocess.Popen(sleep, start_new_session=True)
    # Like Ray's processes: no readable environment, but a file of the folder open.
    log = open(scratch.ray / "log", "w")
    bare = subprocess.Popen(sleep, start_new_session=True, env={}, stdout=log)
    print(folder, scratch.ray, plain.pid, bare.pid, flush=True)
    time.sleep(600)
"""


def wait_until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.1)


@pytest.fixture
def stranger():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("is_long", [False, True])
def test_a_killed_driver_leaves_nothing(stranger, short_folder, is_long):
    base = short_folder / ("x" * 60 if is_long else "x")
    base.mkdir()
    environment = {**os.environ, "TMPDIR": str(base)}
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True, env=environment
    ) as driver:
        folder, ray, *pids = driver.stdout.readline().split()
        assert (Path(folder) / "file").exists()
        assert Path(ray).is_relative_to("/tmp")
        assert (ray == folder) == (not is_long)
        assert all(is_alive(int(pid)) for pid in pids)
        driver.send_signal(signal.SIGKILL)
    wait_until(lambda: not Path(folder).exists() and not Path(ray).exists())
    wait_until(lambda: not any(is_alive(int(pid)) for pid in pids))
    assert is_alive(stranger.pid)
    assert list(base.iterdir()) == []


def test_the_folder_lives_as_long_as_the_block_and_takes_temporary_files():
    before = tempfile.gettempdir()
    with scratch_folder() as scratch:
        folder = scratch.folder
        assert TOKEN_VARIABLE in os.environ
        assert Path(tempfile.mkdtemp()).is_relative_to(folder)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(str(scratch.ray)) < 40, "Ray's sockets need a short path"
    assert not folder.exists()
    assert TOKEN_VARIABLE not in os.environ
    assert tempfile.gettempdir() == before


def test_a_long_temporary_folder_is_used_for_all_but_rays_sockets(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 60)  # as a Slurm node's disk: /localscratch/user.1234567.0
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with scratch_folder() as scratch:
        assert scratch.folder.parent == long
        assert Path(os.environ["TMPDIR"]).is_relative_to(scratch.folder)
        assert len(str(scratch.ray)) < 30
        assert scratch.ray.stat().st_mode & 0o777 == 0o700
        child = [sys.executable, "-c", "import tempfile; print(tempfile.mkdtemp())"]
        made = subprocess.run(child, capture_output=True, text=True, check=True).stdout.strip()
        assert Path(made).is_relative_to(scratch.folder), "children write there, too"
    assert not scratch.ray.exists()
    assert list(long.iterdir()) == []


def test_the_driver_survives_the_end_of_the_block_with_a_file_of_the_folder_open():
    with scratch_folder() as scratch:
        log = (scratch.folder / "log").open("w")
    log.close()
    assert not scratch.folder.exists()
