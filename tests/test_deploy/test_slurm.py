"""The Slurm scripts run for real, with stand-ins for Slurm's own commands (srun, scontrol).

Members of an array have one node; the Ray cluster has two, which are namespaces of this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from storage.store import Store
from storage.views import ViewsStore
from tests.conftest import clean_environment

SCRIPTS = Path(__file__).resolve().parents[2] / "deploy/slurm"
STAND_INS = {
    # "show hostnames" is asked for; everything else is written down.
    "scontrol": '[ "$1" = show ] && printf "10.77.0.1\\n10.77.0.2\\n" || echo "$*" >>"$REQUESTS"',
    # Runs a command on both nodes and waits for both, see two_nodes.sh.
    "srun": """
while [ "${1#-}" != "$1" ]; do shift; done
step=$(mktemp "$SLURM_SUBMIT_DIR/step.XXXXXX")
{ export -p; echo "export SLURM_NODEID=1"; printf "%q " "$@"; } >"$step"
echo "$step" >"$SLURM_SUBMIT_DIR/steps"
SLURM_NODEID=0 "$@"
code=$?
until [ -s "$step.rc" ]; do sleep 0.1; done
cat "$step.log"
exit $code
""",
    "fpipe": f'exec {sys.executable} -m cli.main "$@"',
}
TWO_NODES = Path(__file__).with_name("two_nodes.sh")
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


def start(script: str, environment: dict[str, str], *arguments: str | Path) -> subprocess.Popen[str]:
    return begin(["bash", str(SCRIPTS / script), *map(str, arguments)], environment)


def begin(words: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
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
    for index in range(2):
        process = start("array.sbatch", member(slurm, index, 2), "render", root, "--classes", "car:16", *SIZE)
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said
    views = ViewsStore.open(Store(root))
    assert views.n_shards == 8, "four for each of both members, whose first one made the plan"
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


class Cluster:
    """Two nodes that run the jobs of a test, one after the other; each job sees fresh ones."""

    def __init__(self, slurm: dict[str, str], folder: Path) -> None:
        self.folder = folder
        job = {"SLURM_JOB_ID": "71234567", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "here"}
        self.environment = {**slurm, **job}
        self.jobs: list[subprocess.Popen[str]] = []

    def submit(self, *arguments: str | Path, before: str = "", restarts: int = 0) -> subprocess.Popen[str]:
        """Starts multi-node.sbatch. What a test wants to know of a node, `before` makes it write down."""
        (self.folder / "steps").unlink(missing_ok=True)
        script = f'{before}\nbash {SCRIPTS / "multi-node.sbatch"} "$@"; code=$?; ls /tmp >nodes; exit $code'
        words = [*ALONE, TWO_NODES, self.folder, "bash", "-c", script, "batch", *arguments]
        environment = self.environment | ({"SLURM_RESTART_COUNT": str(restarts)} if restarts else {})
        self.jobs.append(begin(list(map(str, words)), environment))
        return self.jobs[-1]


@pytest.fixture
def cluster(slurm: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    trial = begin([*ALONE, str(TWO_NODES), str(tmp_path), "true"], clean_environment())
    said, _ = trial.communicate(timeout=60)
    if trial.returncode:
        pytest.skip(
            f"two nodes cannot be made here ({said.strip()}); `ray stop` ends other people's Ray else"
        )
    monkeypatch.chdir(tmp_path)
    cluster = Cluster(slurm, tmp_path)
    yield cluster
    for job in cluster.jobs:
        job.kill()  # and with it all that is in its namespaces


def batch_shell(process: subprocess.Popen[str]) -> psutil.Process:
    """The batch script's process, which Slurm would signal (B:)."""
    words = ["bash", str(SCRIPTS / "multi-node.sbatch")]
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if child.cmdline()[:2] == words:
                return child
    raise AssertionError("no batch script")


@pytest.mark.slow
@pytest.mark.bpy
def test_a_cluster_of_two_nodes_is_told_to_stop_and_comes_again(cluster: Cluster, tmp_path: Path) -> None:
    data = tmp_path / "data"
    many = ("render", data, "--classes", "car:60", *SIZE)
    process = cluster.submit(*many)
    wait_for(data / "done/views", process)
    batch_shell(process).send_signal(signal.SIGTERM)
    began = time.monotonic()
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 75, said
    assert time.monotonic() - began < 60, "the other node would take a minute to notice that its head is gone"
    assert (tmp_path / "requests").read_text() == "requeue 71234567\n"
    assert list(tmp_path.glob(".fpipe-job*")) == []
    assert "fpipe-ray" not in (tmp_path / "nodes").read_text()

    # It comes again under its number, to a node on which an attempt was killed.
    listening = "(while sleep 0.5; do ss -Hltn >>listening; done) &"
    process = cluster.submit(*many, before=f"mkdir /tmp/fpipe-ray-71234567-0; {listening}", restarts=1)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    views = ViewsStore.open(Store(str(data)))
    assert views.n_shards == 9, (
        "60 // (4 · 2) objects in each: the script names no --workers, the nodes have two cores"
    )
    assert views.done() == frozenset(range(views.n_shards))
    (run, *_) = sorted((data / "runs/render").iterdir(), reverse=True)
    events = [json.loads(line) for path in run.glob("events-*") for line in path.read_text().splitlines()]
    assert len({event["node"] for event in events if event["event"] == "shard_done"}) == 2, "both nodes work"
    ports = {line.split()[3].rpartition(":")[2] for line in (tmp_path / "listening").read_text().splitlines()}
    port = str(20_000 + 71_234_567 % 20_000)
    assert port in ports and "8265" not in ports, "the cluster is there, its dashboard is not"
    assert list(tmp_path.glob(".fpipe-job*")) == []
