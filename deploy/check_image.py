r"""Runs the steps of a Dockerfile in a bare Debian root, without a engine, then what the image is for.

The steps are read from the file itself. Every stage starts from the same archive of a bare root, RUN goes
through chroot in namespaces of its own, COPY obeys .dockerignore, and the entry point runs as the image's
user in a read-only root with temporary /tmp, HOME and /dev/shm. Needs root, Linux and an archive from
`mmdebstrap --variant=minbase bookworm base.tar`:

    python deploy/check_image.py deploy/Dockerfile.render base.tar /scratch/render --volume data=/data \
        --then 'fpipe render /data/one --classes car:1 --views 4 --resolution 64'

PIP_* of the environment reaches the build steps, as do the certificates that PIP_CERT names.
Not covered: what an engine adds (layers, labels, cgroups, capabilities), and the pulled base image itself.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

INSTRUCTION = re.compile(r"[A-Z]+")
BUILD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOT_IN_THE_IMAGE = ("gcc", "cc", "make", "pip", "pip3", "git")


def read_steps(text: str) -> list[tuple[str, str]]:
    """Returns the instructions of a Dockerfile as (name, rest), with continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    steps = []
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        name, _, rest = line.strip().partition(" ")
        if name:
            assert INSTRUCTION.fullmatch(name), f"not an instruction: {line}"
            steps.append((name, rest.strip()))
    return steps


def is_sent(path: str, ignore: str) -> bool:
    """Says whether .dockerignore lets a path of the context through; the last match decides."""
    sent = True
    parents = [Path(path), *Path(path).parents]
    for pattern in (line.strip() for line in ignore.splitlines()):
        if not pattern or pattern.startswith("#"):
            continue
        wanted = pattern.removeprefix("!")
        anywhere = wanted.startswith("**/")
        found = [parent.name if anywhere else str(parent) for parent in parents]
        if any(fnmatch(name, wanted.removeprefix("**/")) for name in found):
            sent = pattern.startswith("!")
    return sent


@dataclass
class Stage:
    """One root that is being built, and what its instructions have set so far."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": BUILD_PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    entry: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def expanded(self, text: str) -> str:
        """Returns text with $NAME and ${NAME} of ARG and ENV put in."""
        values = self.arguments | self.environment
        return re.sub(r"\$\{?(\w+)\}?", lambda match: values.get(match[1], ""), text)


class Image:
    """Builds the stages of one Dockerfile below a scratch folder."""

    def __init__(
        self, base: Path, scratch: Path, context: Path, given: dict[str, str], wheels: Sequence[str]
    ) -> None:
        self._base, self._scratch, self._context, self._given = base, scratch, context, given
        self._volumes = [(Path(folder), folder) for folder in wheels]
        self._ignore = (context / ".dockerignore").read_text()
        self._names: dict[str, Stage] = {}
        self.stage = Stage(scratch)

    def step(self, name: str, rest: str) -> None:
        """Does one instruction."""
        stage = self.stage
        match name:
            case "FROM":
                self._start(rest.split()[-1])
            case "RUN":
                run(stage, ["/bin/sh", "-c", rest], build=True, volumes=self._volumes)
            case "COPY":
                self._copy(shlex.split(rest))
            case "ARG":
                key, _, default = rest.partition("=")
                stage.arguments[key] = self._given.get(key, default.strip('"'))
            case "ENV":
                pairs = [word.split("=", 1) for word in shlex.split(rest)]
                stage.environment |= {key: stage.expanded(value) for key, value in pairs}
            case "WORKDIR":
                stage.folder = rest
                (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "USER":
                stage.user = rest
            case "ENTRYPOINT":
                stage.entry = json.loads(rest)
            case "CMD":
                stage.command = json.loads(rest)
            case "LABEL":
                pass
            case _:
                sys.exit(f"{name} is not understood here: teach deploy/check_image.py, or leave it out")

    def _start(self, name: str) -> None:
        self.stage = Stage(self._scratch / re.sub(r"\W", "_", name))
        self._names[name] = self.stage
        self.stage.root.mkdir(parents=True)
        subprocess.run(["tar", "-xf", self._base, "-C", self.stage.root, "--exclude=./dev/*"], check=True)

    def _copy(self, words: list[str]) -> None:
        source_root = self._context
        if words[0].startswith("--from="):
            source_root = self._names[words.pop(0).removeprefix("--from=")].root
        *sources, target = (self.stage.expanded(word) for word in words)
        where = self.stage.root / str(Path(self.stage.folder) / target).lstrip("/")
        for source in sources:
            found = source_root / source.lstrip("/")
            into = where / found.name if target.endswith("/") else where
            into.parent.mkdir(parents=True, exist_ok=True)
            if source_root == self._context and not is_sent(source, self._ignore):
                sys.exit(f"COPY {source}: .dockerignore keeps it out of the context")
            if found.is_dir():
                left_out = self._left_out if source_root == self._context else None
                shutil.copytree(found, into, symlinks=True, dirs_exist_ok=True, ignore=left_out)
            else:
                shutil.copy2(found, into)

    def _left_out(self, folder: str, names: list[str]) -> set[str]:
        below = Path(folder).relative_to(self._context)
        return {name for name in names if not is_sent(str(below / name), self._ignore)}


def run(stage: Stage, command: Sequence[str], build: bool, volumes: Sequence[tuple[Path, str]] = ()) -> str:
    """Runs a command in a root, in mount and process namespaces of its own; returns its standard output.

    Args:
        stage: The root, its user, folder and environment.
        command: Words.
        build: As root in a writable root, with pip's settings; else as the image's user, read-only.
        volumes: Folders of this machine that are seen at a path of the root.
    """
    root, certificates = stage.root, os.environ.get("PIP_CERT", "")
    environment = stage.environment | {"HOME": stage.environment.get("HOME", "/root")}
    mounts = [f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev"]
    if build:
        environment = stage.arguments | environment | {"DEBIAN_FRONTEND": "noninteractive"}
        environment |= {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        if certificates:
            shutil.copy(certificates, root / "run/certificates.crt")
            environment |= {"PIP_CERT": "/run/certificates.crt"}
    for path, where in volumes:
        mounts += [f"mkdir -p {root}{where}", f"mount --bind {path} {root}{where}"]
    if not build:
        mounts += [
            f"mount --bind {root} {root}.ro",
            f"mount -o remount,bind,ro {root}.ro",
            *(f"mount --rbind {root}/{name} {root}.ro/{name}" for name in ("proc", "dev")),
            *(f"mount --bind {root}{where} {root}.ro{where}" for _, where in volumes),
            f"mount -t tmpfs -o size=2g,mode=1777 tmpfs {root}.ro/dev/shm",
            f"mount -t tmpfs -o mode=1777 tmpfs {root}.ro/tmp",
            f"mount -t tmpfs -o mode=0700,uid=1000,gid=1000 tmpfs {root}.ro{environment['HOME']}",
        ]
        Path(f"{root}.ro").mkdir(exist_ok=True)
        root = Path(f"{root}.ro")
    words = [f"{key}={value}" for key, value in environment.items()]
    inside = ["env", "-i", *words, "/bin/sh", "-c", 'cd "$0" && exec "$@"', stage.folder, *command]
    chroot = ["chroot", f"--userspec={stage.user}", str(root), *inside]
    script = " && ".join([*mounts, f"exec {shlex.join(chroot)}"])
    print(f"-- {shlex.join(command)[:160]}", file=sys.stderr, flush=True)
    began = time.monotonic()
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    print(done.stdout, end="")
    print(f"   exit {done.returncode}, {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    if done.returncode:
        sys.exit(f"{shlex.join(command)[:160]} ended with {done.returncode}")
    return done.stdout


def folder_mb(folder: Path) -> float:
    """Returns what a folder takes on the disk, in megabytes."""
    found = subprocess.run(["du", "-sxB1", folder], capture_output=True, text=True, check=True)
    return int(found.stdout.split()[0]) / 1e6


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """Reads options of the form NAME=VALUE."""
    return dict(text.split("=", 1) for text in texts)


def main() -> None:
    """Builds the root, looks for what must not be in it, and runs the entry point and the given commands."""
    parser = argparse.ArgumentParser(description="Runs a Dockerfile's steps in a bare Debian root.")
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("base", type=Path, help="archive of a bare Debian root")
    parser.add_argument("scratch", type=Path, help="folder to build in; made, and left for a look")
    repeated: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("--build-arg", **repeated, metavar="NAME=VALUE")
    parser.add_argument("--wheels", **repeated, metavar="FOLDER", help="seen by build steps at the same path")
    parser.add_argument("--volume", **repeated, metavar="FOLDER=PATH", help="seen by the image, writable")
    parser.add_argument("--then", **repeated, metavar="COMMAND", help="what runs after the entry point")
    options = parser.parse_args()
    context = Path(__file__).resolve().parents[1]
    image = Image(options.base, options.scratch, context, pairs(options.build_arg), options.wheels)
    for name, rest in read_steps(options.dockerfile.read_text()):
        image.step(name, rest)
    stage = image.stage
    print(
        f"image: {folder_mb(stage.root):.0f} MB, of it /opt/venv {folder_mb(stage.root / 'opt/venv'):.0f} MB"
    )
    volumes = [(Path(folder).resolve(), path) for folder, path in pairs(options.volume).items()]
    for folder, _ in volumes:
        folder.mkdir(exist_ok=True)
        os.chown(folder, *map(int, stage.user.split(":")))
    absent = f"for name in {' '.join(NOT_IN_THE_IMAGE)}; do ! command -v $name || exit 1; done; id"
    run(stage, ["/bin/sh", "-c", absent], build=False)
    # The way in which KubeRay starts Ray: a login shell, whose PATH is not the image's.
    run(stage, ["/bin/bash", "-lc", "command -v fpipe ray python wget"], build=False)
    run(stage, [*stage.entry, *stage.command], build=False, volumes=volumes)
    for command in options.then:
        run(stage, shlex.split(command), build=False, volumes=volumes)


if __name__ == "__main__":
    main()
