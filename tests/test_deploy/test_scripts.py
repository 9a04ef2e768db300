"""Shell scripts and Dockerfiles through their linters, and the commands in them and in Ray's cluster file."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy.check_image import is_sent, read_steps
from tests.test_deploy.commands import parse, parse_ray, quoted_commands, shell_commands

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BATCH = sorted((DEPLOY / "slurm").glob("*.sbatch"))
SCRIPTS = [
    *BATCH,
    DEPLOY / "setup.sh",
    DEPLOY / "kuberay/fpipe-job",
    ROOT / ".ci/run",
    Path(__file__).with_name("two_nodes.sh"),
]
DOCKERFILES = sorted(DEPLOY.glob("Dockerfile.*"))
WITH_COMMANDS = [*BATCH, DEPLOY / "ray-cluster.yaml", DEPLOY / "kubernetes/render-indexed-job.yaml"]


def tool(name: str) -> str:
    """A program of this environment."""
    return str(Path(sys.executable).parent / name)


def by_name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", SCRIPTS, ids=by_name)
def test_shellcheck(path: Path) -> None:
    found = subprocess.run([tool("shellcheck"), path], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=by_name)
def test_hadolint(path: Path) -> None:
    found = subprocess.run(
        [tool("hadolint"), "--no-color", path], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=by_name)
def test_the_context_holds_what_the_image_copies_and_nothing_else(path: Path) -> None:
    ignore = (ROOT / ".dockerignore").read_text()
    copied = {
        source
        for name, rest in read_steps(path.read_text())
        if name == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert all(is_sent(source, ignore) and (ROOT / source).exists() for source in copied)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in tracked.stdout.splitlines():
        assert is_sent(name, ignore) == any(name == c or name.startswith(f"{c}/") for c in copied), name
    for stray in (
        ".git/config",
        "cli/__pycache__/main.cpython-311.pyc",
        "store.env",
        "demo-dataset/plan/header.json",
    ):
        assert not is_sent(stray, ignore)


@pytest.mark.parametrize("path", DOCKERFILES, ids=by_name)
def test_images_run_as_nobody_special(path: Path) -> None:
    steps = read_steps(path.read_text())
    assert [rest for name, rest in steps if name == "USER"] == ["1000:1000"]
    last = dict(steps)
    assert "fpipe" in last["ENTRYPOINT"]
    assert "org.opencontainers.image.revision" in last["LABEL"]
    words = ["fpipe", *re.findall(r'"([^"]+)"', last["CMD"])]
    assert parse(words)[0] == "doctor"


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=by_name)
def test_commands_are_understood(path: Path) -> None:
    text = path.read_text()
    found = shell_commands(text)
    for words in found:
        parse(words) if words[0] == "fpipe" else parse_ray(words)
    for rest in re.findall(
        r'fpipe "\$@" (.*) &', text
    ):  # what a script adds; numbers stand for its variables
        parse(shlex.split("fpipe render root " + re.sub(r"\$\(\(.*?\)\)|\$\{.*?\}", "1", rest)))
    for stage, rest in re.findall(r"sbatch [^\n]*\.sbatch (\S+) (.*)", text):
        parse(["fpipe", stage, *shlex.split(rest, comments=True)])
        found.append([stage])
    assert found


@pytest.mark.parametrize("path", [DEPLOY / "docs/runbook.md", DEPLOY / "README.md"], ids=by_name)
def test_commands_of_the_documents_are_understood(path: Path) -> None:
    text = path.read_text()
    found = [*shell_commands(text), *quoted_commands(text)]
    assert len(found) > 1
    for words in found:
        parse(words) if words[0] == "fpipe" else parse_ray(words)
    for name in re.findall(r"`?(?:deploy/)?((?:kuberay|kubernetes|slurm)/[\w.-]+)", text):
        assert (DEPLOY / name).exists(), name


def test_slurm_scripts_stop_in_time_and_may_come_again() -> None:
    for path in BATCH:
        options = re.findall(r"^#SBATCH (.*)$", path.read_text(), flags=re.MULTILINE)
        assert {"--requeue", "--open-mode=append"} <= set(options), path
        (notice,) = (int(o.rpartition("@")[2]) for o in options if o.startswith("--signal=B:TERM@"))
        # compute.grace_s is 20; a cluster has to stop Ray besides, for which the script waits 30 s
        assert notice >= (300 if "--exclusive" in options else 120)
        assert ("--exclusive" in options) == ("--mem=0" in options), "whole nodes, with all their memory"
    # The options that the script gives to symmetric-run are its own or ray start's.
    words = re.search(r"ray symmetric-run (.*?) -- ", BATCH[1].read_text().replace("\\\n", " "))
    assert words is not None
    from ray.scripts.symmetric_run import symmetric_run

    from tests.test_deploy.commands import ray_start_options

    own = {option for parameter in symmetric_run.params for option in parameter.opts}
    for option in re.findall(r"(--[a-z-]+)", words[1]):
        assert option in own or option.removeprefix("--") in ray_start_options(), option
    # What only a head's start takes is not among those of every node.
    assert not re.search("dashboard|temp-dir", words[1])


def test_the_cluster_file_has_rays_schema_and_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())
    validate_config(prepare_config(dict(config)))
    with pytest.raises(Exception, match="head_start_ray_command"):
        validate_config(prepare_config({**config, "head_start_ray_command": []}))
    assert "/home/fpipe/.ray/auth_token" in config["file_mounts"]
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        stop, start = config[key]
        parse_ray(stop.split())
        mode, *words = start.replace("$RAY_HEAD_IP", "host").split()
        assert mode == "RAY_AUTH_MODE=token"
        options = parse_ray(words)
        assert options["head"] is (key == "head_start_ray_commands")
        if options["head"]:
            assert options["num_cpus"] == 0


@pytest.mark.parametrize(("code", "job"), [(0, 0), (42, 0), (75, 75), (3, 3), (130, 130)])
def test_a_ray_job_fails_when_trying_again_helps(code: int, job: int, tmp_path: Path) -> None:
    (tmp_path / "fpipe").write_text(f'#!/bin/sh\n[ "$1 $2" = "render s3://b/a c" ] && exit {code}\nexit 99\n')
    (tmp_path / "fpipe").chmod(0o755)
    done = subprocess.run(
        [DEPLOY / "kuberay/fpipe-job", "render", "s3://b/a c"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=False,
    )
    assert done.returncode == job


def test_the_job_script_is_executable_and_found_by_a_login_shell() -> None:
    assert os.access(DEPLOY / "kuberay/fpipe-job", os.X_OK)
    for path in DOCKERFILES:
        assert "/opt/venv/bin:$PATH' > /etc/profile.d/fpipe.sh" in path.read_text()
    assert shutil.which("bash")
