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
with scratch_folder() as folder:
    (folder / "file").write_text("x")
    plain = subprocess.Popen(sleep, start_new_session=True)
    # Like Ray's processes: no readable environment, but a file of the folder open.
    log = open(folder / "log", "w")
    bare = subprocess.Popen(sleep, start_new_session=True, env={}, stdout=log)
    print(folder, plain.pid, bare.pid, flush=True)
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


def test_a_killed_driver_leaves_nothing(stranger, short_folder):
    environment = {**os.environ, "TMPDIR": str(short_folder)}
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True, env=environment
    ) as driver:
        folder, *pids = driver.stdout.readline().split()
        assert (Path(folder) / "file").exists()
        assert all(is_alive(int(pid)) for pid in pids)
        driver.send_signal(signal.SIGKILL)
    wait_until(lambda: not Path(folder).exists())
    wait_until(lambda: not any(is_alive(int(pid)) for pid in pids))
    assert is_alive(stranger.pid)
    assert list(short_folder.iterdir()) == []


def test_the_folder_lives_as_long_as_the_block_and_takes_temporary_files():
    before = tempfile.gettempdir()
    with scratch_folder() as folder:
        assert TOKEN_VARIABLE in os.environ
        assert Path(tempfile.mkdtemp()).is_relative_to(folder)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(str(folder)) < 40, "Ray's sockets need a short path"
    assert not folder.exists()
    assert TOKEN_VARIABLE not in os.environ
    assert tempfile.gettempdir() == before


def test_a_long_temporary_folder_is_left_for_a_short_one(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with scratch_folder() as folder:
        assert len(str(folder)) < 30
        assert list(long.iterdir()) == []


def test_the_driver_survives_the_end_of_the_block_with_a_file_of_the_folder_open():
    with scratch_folder() as folder:
        log = (folder / "log").open("w")
    log.close()
    assert not folder.exists()
