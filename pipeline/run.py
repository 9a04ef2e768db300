"""Records what a run of a stage did: runs/<stage>/<run>/run.json and events.jsonl in the dataset.

The record holds the resolved config, versions, hardware, git revision and a summary. Credentials never reach
it: only named facts are written, never an environment, and texts go through storage.redaction.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from storage.layout import run_folder
from storage.redaction import redacted
from storage.store import Store

PACKAGES = ("torch", "bpy", "numpy", "ray", "diffusers", "zarr", "fsspec", "s3fs", "pydantic", "typer")
FLUSH_S = 5.0
"""Seconds between two writes of the event log: object stores cannot append, so the file is written whole."""


class Run:
    """One run of a stage; made by record_run."""

    def __init__(self, store: Store, stage: str, config: dict[str, Any]) -> None:
        now = datetime.datetime.now(datetime.UTC)
        self.run_id = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        self.stage = stage
        self.summary: dict[str, Any] = {}
        self._store = store
        self._config = config
        self._started = now
        self._clock = time.monotonic()
        self._events: list[str] = []
        self._flushed = 0.0

    def event(self, kind: str, /, **fields: Any) -> None:
        """Appends one event; its `at_s` are seconds since the start of the run."""
        at_s = round(time.monotonic() - self._clock, 3)
        self._events.append(json.dumps({"at_s": at_s, "event": kind, **redacted(fields)}))
        if at_s - self._flushed >= FLUSH_S:
            self._flush_events()
            self._flushed = at_s

    def write(self, state: str) -> None:
        """Writes run.json with this state ("running", "done", "failed") and the events so far."""
        record = {
            "version": 1,
            "stage": self.stage,
            "run_id": self.run_id,
            "state": state,
            "started": self._started.isoformat(timespec="seconds"),
            "ended": None
            if state == "running"
            else datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._clock, 3),
            "config": self._config,
            "versions": versions(),
            "hardware": hardware(),
            "git_revision": git_revision(),
            "summary": self.summary,
        }
        self._store.replace(self._key("run.json"), json.dumps(redacted(record), indent=1).encode())
        self._flush_events()

    def _key(self, name: str) -> str:
        return f"{run_folder(self.stage, self.run_id)}/{name}"

    def _flush_events(self) -> None:
        if self._events:
            text = "\n".join(self._events) + "\n"
            self._store.replace(self._key("events.jsonl"), text.encode())


@contextlib.contextmanager
def record_run(store: Store, stage: str, config: dict[str, Any]) -> Iterator[Run]:
    """Yields a Run whose record is written at the start and at the end ("failed" if the block raises)."""
    run = Run(store, stage, config)
    run.write("running")
    try:
        yield run
    except BaseException as error:
        run.event("error", error=f"{type(error).__name__}: {error}")
        run.write("failed")
        raise
    run.write("done")


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
    """Returns the commit of the source tree, with "+" when files differ from it, None outside a checkout."""
    tree = Path(__file__).resolve().parents[1]
    if not (tree / ".git").exists():
        return None
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
