"""What a stage opens on its machine while it runs: ports, Ray's authentication, folders."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.conftest import clean_environment, command

KEYS_OF_THE_CLUSTER = """
import sys
from ray._raylet import GcsClient
print(GcsClient(address=sys.argv[1]).internal_kv_keys(b"", namespace=b"session", timeout=10))
"""


@contextmanager
def running_render(folder: Path, *options: str, umask: int = 0o022) -> Iterator[psutil.Process]:
    """A render of many objects, from the moment in which a Blender process is at work."""
    folder.mkdir(exist_ok=True)
    (folder / "home").mkdir(mode=0o755, exist_ok=True)
    process = subprocess.Popen(
        command(
            "render", folder / "data", "--classes", "car:500", "--views", 40, "--resolution", 64, *options
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        umask=umask,
        env=clean_environment(HOME=str(folder / "home")),
    )
    try:
        driver = psutil.Process(process.pid)
        wait_for_blender(driver)
        yield driver
    finally:
        process.terminate()
        _, err = process.communicate(timeout=120)
        assert process.returncode == 75, err


def wait_for_blender(driver: psutil.Process) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert driver.is_running() and driver.status() != psutil.STATUS_ZOMBIE, "the render has ended"
        if any("render_jobs.child" in line for line in lines_of(driver)):
            return
        time.sleep(0.2)
    pytest.fail("no Blender process was started")


def family(driver: psutil.Process) -> list[psutil.Process]:
    try:
        return [driver, *driver.children(recursive=True)]
    except psutil.NoSuchProcess:  # it has just ended
        return []


def lines_of(driver: psutil.Process) -> list[str]:
    lines = []
    for process in family(driver):
        try:
            lines.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return lines


def listening(driver: psutil.Process) -> dict[tuple[str, int], str]:
    """Returns the addresses that the driver and all that it started listen on, with the process."""
    found = {}
    for process in family(driver):
        try:
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    found[connection.laddr] = " ".join(process.cmdline())[:80]
        except psutil.Error:
            continue
    return {(address.ip, address.port): name for address, name in found.items()}


def scratch_of(driver: psutil.Process) -> Path:
    """Returns the driver's scratch folder: its guardian is told about it."""
    for line in lines_of(driver):
        if "guardian.py" in line:
            return Path(line.split()[-2])
    raise AssertionError("no guardian")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.bpy
def test_ray_of_one_machine_is_reached_from_this_machine_and_with_its_token_only(tmp_path: Path) -> None:
    with running_render(tmp_path, "--executor", "ray", "--workers", "1") as driver:
        found = listening(driver)
        assert found, "Ray's processes were not found"
        outside = {
            address: name
            for address, name in found.items()
            if address[0].removeprefix("::ffff:") not in {"127.0.0.1", "::1"}
        }
        assert outside == {}
        # Ray always starts this process; without a dashboard it serves no pages.
        assert all(
            "--disable-frontend" in line for line in lines_of(driver) if "dashboard/dashboard.py" in line
        )
        assert 8265 not in {port for _, port in found}

        gcs = next(line for line in lines_of(driver) if "--gcs-address=" in line or "--gcs_address=" in line)
        address = gcs.replace("gcs_address", "gcs-address").partition("--gcs-address=")[2].split()[0]
        token = tmp_path / "home/.ray/auth_token"
        assert keys(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token)).returncode == 0
        for stranger in (
            {"RAY_AUTH_MODE": "disabled"},
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "guessed"},
        ):
            refused = keys(address, **stranger)
            assert refused.returncode != 0
            assert "nauthenticated" in refused.stderr or "UNAUTHENTICATED" in refused.stderr, refused.stderr

        assert mode(token.parent) == 0o700
        scratch = scratch_of(driver)
        assert mode(scratch) == 0o700
        assert scratch.stat().st_uid == os.getuid()
    assert not scratch.exists()


@pytest.mark.slow
def test_a_training_of_one_rank_opens_no_port_to_others(tiny_dataset: Path, tmp_path: Path) -> None:
    """Torch's process group would: its store listens on every interface."""
    root = tmp_path / "data"
    shutil.copytree(tiny_dataset, root)
    process = subprocess.Popen(
        command("train-shared", root, "--set", "train.seed=9"),
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    driver, ranks, outside = psutil.Process(process.pid), set(), set()
    while process.poll() is None:
        ranks |= {line for line in lines_of(driver) if line.startswith("ray::RayTrainWorker")}
        outside |= {
            ip for ip, _ in listening(driver) if ip.removeprefix("::ffff:") not in {"127.0.0.1", "::1"}
        }
        time.sleep(0.5)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert ranks, "no rank was seen at work"
    assert outside == set()


def keys(address: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Asks the cluster's key-value store, as whoever has that environment."""
    return subprocess.run(
        [sys.executable, "-c", KEYS_OF_THE_CLUSTER, address],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=clean_environment(**environment),
    )


@pytest.mark.bpy
def test_without_ray_nothing_listens_and_a_loose_mask_changes_nothing(tmp_path: Path) -> None:
    with running_render(tmp_path, "--executor", "local", "--workers", "1", umask=0) as driver:
        assert listening(driver) == {}
        scratch = scratch_of(driver)
        assert mode(scratch) == 0o700
        loose = [path for path in scratch.iterdir() if path.is_dir() and path.stat().st_uid != os.getuid()]
        assert loose == []


def test_an_open_ray_folder_in_home_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.ray_session import _keep_token_private

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    (tmp_path / ".ray").mkdir(mode=0o755)
    (tmp_path / ".ray/auth_token").write_text("a")
    _keep_token_private()
    assert mode(tmp_path / ".ray") == 0o700


def test_switching_authentication_off_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from pipeline.ray_session import _keep_token_private

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    _keep_token_private()
    assert "authentication off" in caplog.text
    assert not (tmp_path / ".ray").exists()
