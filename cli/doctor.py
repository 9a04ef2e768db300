"""`fpipe doctor`: checks that this machine can run every stage, and says what to do where it cannot."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

MIN_SHM_BYTES = 512 * 2**20
MIN_DISK_BYTES = 5 * 2**30


@dataclass(frozen=True)
class Finding:
    """One check's result; `advice` says what to do unless the state is ok."""

    check: str
    state: Literal["ok", "note", "problem"]
    detail: str
    advice: str = ""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(doctor)


def doctor(
    root: Annotated[
        str | None, typer.Argument(help="A dataset or folder (any fsspec URL) that must be reachable.")
    ] = None,
    blender: Annotated[
        bool, typer.Option(help="Without: this machine shall train and fit only, and needs no Blender.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Check versions, Blender, writable folders, memory, disk, GPU and the store."""
    from storage.errors import EnvironmentProblem

    findings: list[Finding] = []
    checks = [_packages, _no_torchvision, _folders, _shared_memory, _disk, _gpu]
    for check in [_python, *checks, _blender] if blender else checks:
        for finding in check():
            if not blender and finding.check == "bpy":
                continue
            findings.append(finding)
            if not as_json:
                _print(finding)
    if root is not None:
        finding = _store(root)
        findings.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        print(json.dumps({"version": 1, "findings": [asdict(finding) for finding in findings]}))
    problems = [finding.check for finding in findings if finding.state == "problem"]
    if problems:
        raise EnvironmentProblem(f"{len(problems)} problem(s) found: {', '.join(problems)}")


def _print(finding: Finding) -> None:
    mark = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}[finding.state]
    advice = f"\n{'':>28}-> {finding.advice}" if finding.advice else ""
    print(f"{mark}  {finding.check:<18} {finding.detail}{advice}")


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] == (3, 11):
        yield Finding("python", "ok", version)
    else:
        yield Finding(
            "python", "note", version, "only Python 3.11 can render: bpy 5.0.1 has wheels for nothing else"
        )


def _pins() -> dict[str, str]:
    """Returns the tested versions of constraints.txt, empty where the source tree is not there."""
    path = Path(__file__).resolve().parents[1] / "constraints.txt"
    if not path.exists():
        return {}
    return dict(line.split("==", 1) for line in path.read_text().split() if "==" in line)


def _packages() -> Iterator[Finding]:
    pins = _pins()
    extras = {"bpy": "render", "torch": "train", "diffusers": "train", "ray": "train"}
    for name in (
        "torch",
        "bpy",
        "numpy",
        "ray",
        "pyarrow",
        "diffusers",
        "zarr",
        "fsspec",
        "s3fs",
        "pydantic",
        "typer",
    ):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            extra = extras.get(name)
            install = f"pip install -c constraints.txt -e '.[{extra}]'" if extra else "make setup"
            yield Finding(name, "problem", "not installed", install)
            continue
        pin = pins.get(name)
        if pin is None or version.split("+")[0] == pin:
            yield Finding(name, "ok", version)
        else:
            yield Finding(
                name, "note", f"{version}, tested with {pin}", "make setup installs the tested versions"
            )


def _no_torchvision() -> Iterator[Finding]:
    if importlib.util.find_spec("torchvision") is None:
        yield Finding("torchvision", "ok", "absent, as it must be")
    else:
        yield Finding(
            "torchvision",
            "problem",
            "installed; it breaks diffusers beside this torch",
            "pip uninstall torchvision",
        )


def _folders() -> Iterator[Finding]:
    home, temporary = Path.home(), Path(tempfile.gettempdir())
    for name, folder, advice in (
        ("HOME", home, "Ray writes a token there: set HOME to a writable folder"),
        ("temporary folder", temporary, "set TMPDIR to a writable folder"),
    ):
        try:
            with tempfile.TemporaryFile(dir=folder):
                yield Finding(name, "ok", f"{folder} is writable")
        except OSError as error:
            yield Finding(name, "problem", f"{folder}: {error.strerror or error}", advice)


def _shared_memory() -> Iterator[Finding]:
    folder = Path("/dev/shm")  # Ray's object store lives there
    if not folder.exists():
        yield Finding(
            "/dev/shm", "note", "not there", "Ray falls back to the temporary folder, slowly; mount a tmpfs"
        )
        return
    free = shutil.disk_usage(folder).free
    if free >= MIN_SHM_BYTES:
        yield Finding("/dev/shm", "ok", f"{free / 2**30:.1f} GiB free")
    else:
        yield Finding(
            "/dev/shm", "note", f"{free / 2**20:.0f} MiB free", "in a container: --shm-size=2g or more"
        )


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    state: Literal["ok", "note"] = "ok" if free >= MIN_DISK_BYTES else "note"
    yield Finding(
        "disk",
        state,
        f"{free / 2**30:.1f} GiB free here",
        "" if state == "ok" else "the demo needs about 1 GiB",
    )


def _gpu() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        yield Finding("GPU", "ok", names)
    else:
        yield Finding("GPU", "note", f"none; everything runs on {os.cpu_count()} CPU cores")


def _blender() -> Iterator[Finding]:
    if importlib.util.find_spec("bpy") is None:
        return
    from render_jobs.self_test import render_cube
    from render_jobs.worker import RenderFailure
    from storage.errors import EnvironmentProblem

    libraries = " ".join(
        (Path(__file__).resolve().parents[1] / "deploy/debian-libraries.txt").read_text().split()
    )
    try:
        version, seconds = render_cube(16)
    except (RenderFailure, EnvironmentProblem) as error:
        advice = f"sudo apt-get install -y --no-install-recommends {libraries}"
        yield Finding("Blender", "problem", " ".join(str(error).split())[:300], advice)
        return
    yield Finding("Blender", "ok", f"{version} renders 16×16 ({seconds:.1f} s with its start)")


def _store(root: str) -> Finding:
    from storage.errors import FpipeError
    from storage.store import Store

    try:
        names = Store(root).list("")
    except (FpipeError, OSError) as error:
        return Finding("store", "problem", str(error), "deploy/docs/s3.md says how stores are configured")
    return Finding("store", "ok", f"{root} answers, {len(names)} entries")
