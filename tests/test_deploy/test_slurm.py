"""The Slurm scripts run for real, with stand-ins for Slurm's own commands (srun, scontrol) on one node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from storage.store import Store
from storage.views import ViewsStore
from tests.conftest import clean_environment, fpipe

SCRIPTS = Path(__file__).resolve().parents[2] / "deploy/slurm"
STAND_INS = {
    # "show hostnames" is asked for; everything else is written down.
    "scontrol": '[ "$1" = show ] && echo 127.0.0.1 || echo "$*" >>"$REQUESTS"',
    "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"',
    "fpipe": f'exec {sys.executable} -m cli.main "$@"',
}
SIZE = ("--views", "3", "--resolution", "32", "--set", "compute.limits.deadline_s=100")
MANY = ("--classes", "car:300", *SIZE)
ALONE = ("unshare", "--pid", "--net", "--mount-proc", "--fork", "--kill-child")
"""Ray's stop ends every Ray process that it sees, so it sees none but its own."""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a batch script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    scratch = tmp_path / "node"
    scratch.mkdir()
    environment = {
        "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(SCRIPTS.parents[1]),
        "REQUESTS": str(tmp_path / "requests"),
        "SLURM_TMPDIR": str(scratch),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_CPUS_ON_NODE": "1",
    }
    return clean_environment(**environment)


def member(slurm: dict[str, str], index: int, count: int) -> dict[str, str]:
    numbers = {
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": str(index),
        "SLURM_ARRAY_TASK_COUNT": str(count),
    }
    return {**slurm, **numbers}


def start(
    script: str, environment: dict[str, str], *arguments: str | Path, alone: bool = False
) -> subprocess.Popen[str]:
    prefix = (*ALONE, "bash", "-c", 'ip link set lo up && exec bash "$@"', "bash") if alone else ("bash",)
    return subprocess.Popen(
        [*prefix, SCRIPTS / script, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Waits until a driver has written something, which is before its first shard is done."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.bpy
def test_the_members_of_an_array_do_all_shards_between_them(slurm: dict[str, str], tmp_path: Path) -> None:
    root = tmp_path / "data"
    planned = fpipe("render", root, "--classes", "car:3", *SIZE, "--workers", "1", "--shard", "0")
    assert planned.code == 0, planned.err
    for index in range(2):
        process = start("array.sbatch", member(slurm, index, 2), "render", root)
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said
    views = ViewsStore.open(Store(root))
    assert views.n_shards > 2
    assert views.done() == frozenset(range(views.n_shards))
    assert not (tmp_path / "requests").exists()


@pytest.mark.bpy
def test_a_member_that_is_told_to_stop_asks_to_be_queued_again(slurm: dict[str, str], tmp_path: Path) -> None:
    process = start("array.sbatch", member(slurm, 0, 2), "render", tmp_path / "data", *MANY)
    wait_for(tmp_path / "data/views.zarr", process)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert (tmp_path / "requests").read_text() == "requeue 7_0\n"
    assert list((tmp_path / "node").iterdir()) == []


@pytest.mark.parametrize("script", ["array.sbatch", "multi-node.sbatch"])
def test_a_script_without_a_stage_says_how_it_is_used(slurm: dict[str, str], script: str) -> None:
    process = start(script, slurm)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.startswith("usage: sbatch")


@pytest.mark.slow
@pytest.mark.bpy
def test_a_cluster_of_the_job_that_is_told_to_stop(slurm: dict[str, str], tmp_path: Path) -> None:
    if subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("namespaces cannot be made here; without them `ray stop` would end other people's Ray")
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "here"}
    environment = {**slurm, **job}
    data = tmp_path / "data"
    process = start("multi-node.sbatch", environment, "render", data, *MANY, alone=True)
    wait_for(data / "views.zarr", process)
    batch = psutil.Process(process.pid).children()[0]
    batch.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert (tmp_path / "requests").read_text() == f"requeue {os.getpid()}\n"
    assert list(tmp_path.glob(".fpipe-job*")) == []
    assert not Path(f"/tmp/fpipe-ray-{os.getpid()}").exists()
