"""What produced a result: versions, hardware and the commit of the source tree."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("torch", "bpy", "numpy", "ray", "diffusers", "zarr", "fsspec", "s3fs", "pydantic", "typer")


def versions() -> dict[str, str | None]:
    """Returns the versions of Python and of the packages that decide results, None where missing."""
    found: dict[str, str | None] = {"python": platform.python_version(), "fpipe": _version("fpipe")}
    return found | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def hardware() -> dict[str, Any]:
    """Returns CPU model, usable cores, memory in bytes and the operating system."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
    }


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def git_revision() -> str | None:
    """Returns the commit of the source tree, with "+" when files differ from it.

    Outside a checkout it is what FPIPE_REVISION says, as in the images, else None.
    """
    tree = Path(__file__).resolve().parents[1]
    if not (tree / ".git").exists():
        said = os.environ.get("FPIPE_REVISION", "")
        return None if said in {"", "unknown"} else said
    try:
        head = subprocess.run(
            ["git", "-C", str(tree), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        changes = subprocess.run(
            ["git", "-C", str(tree), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if changes.stdout.strip() else "")
