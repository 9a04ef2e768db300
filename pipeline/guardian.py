"""Cleans up after a driver that may die at any moment: its processes and its scratch folders.

Started by `pipeline.scratch` as a process of its own session, with nothing but the standard library.
It waits for the end of its standard input, which comes when the driver closes it or dies (SIGKILL included),
then ends every process of this machine that belongs to the driver and removes the scratch folders.

A process belongs to the driver when its environment carries the driver's token or when it holds a file of
a scratch folder open. Both are looked at, because Ray's processes overwrite their environment with their
title.

The driver itself is left alone: when it closes the pipe on purpose it lives on.

Usage: python -I guardian.py TOKEN FOLDER DRIVER_PID [FURTHER_FOLDER...]
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

GRACE_S = 2.0
"""Time in which processes may end by themselves (Ray's notice the loss of their head within a second)."""


def processes_of(token: str, folder: str, driver: int, *further: str) -> list[int]:
    """Returns the live processes, the driver apart, that carry the token or have a file of a folder open."""
    spared = {os.getpid(), driver}
    return [
        pid
        for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit())  # noqa: PTH208 names, not paths
        if pid not in spared and (_has_token(pid, token) or _holds_file(pid, (folder, *further)))
    ]


def _has_token(pid: int, token: str) -> bool:
    try:
        return token.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def _holds_file(pid: int, folders: tuple[str, ...]) -> bool:
    inside = tuple(f"{folder}/" for folder in folders)
    try:
        names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 names, not paths
    except OSError:
        return False
    for name in names:
        try:
            if os.readlink(f"/proc/{pid}/fd/{name}").startswith(inside):  # noqa: PTH115 a link to compare, not follow
                return True
        except OSError:
            continue
    return False


def end_processes(token: str, folder: str, driver: int, *further: str) -> None:
    """Kills the driver's processes, again until none is found: a dying one may have started another."""
    for _ in range(20):
        pids = processes_of(token, folder, driver, *further)
        if not pids:
            return
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        time.sleep(0.2)


def main() -> None:
    """Waits for the driver's end, then cleans up."""
    token, folder, driver, *further = sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(4096):
        pass
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and processes_of(token, folder, driver, *further):
        time.sleep(0.1)
    end_processes(token, folder, driver, *further)
    for scratch in (folder, *further):
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
