"""Sees whether anything is left: processes that were started below some others, and files.

Processes are remembered while they live, by id and time of their start, so that one is found again when its
parents are dead. Those that were too short-lived to be seen are found by a mark in their environment.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

from pipeline.guardian import processes_of

LOOK_S = 0.3
GONE_WITHIN_S = 30.0
SHARED_MEMORY = Path("/dev/shm")
MARK = "SOAK_MARK"
NOT_OURS = {"ray", f"torchinductor_{getpass.getuser()}"}
"""What Ray (logs of a cluster) and torch (an empty folder) keep in the temporary folder."""
Key = tuple[int, float]


@dataclass
class Leftovers:
    """Watches the processes below this one; a context manager.

    Attributes:
        folder: Where all of them put their temporary files.
        mark: Value of an environment variable that they inherit.
        seen: (id, start) → name, of all that were seen.
    """

    folder: Path
    mark: str = field(default_factory=lambda: f"soak-{secrets.token_hex(8)}")
    seen: dict[Key, str] = field(default_factory=dict)
    _before: frozenset[Key] = frozenset()  # of other work of this process

    def __enter__(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        self._shared = {path.name for path in SHARED_MEMORY.iterdir()}
        self.look()
        self._before, self.seen = frozenset(self.seen), {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="soak-watch")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def environment(self) -> dict[str, str]:
        """What every process is to be started with."""
        return {MARK: self.mark, "TMPDIR": str(self.folder)}

    def processes(self) -> list[str]:
        """Returns those that were seen or carry the mark, and live."""
        found = {pid: name for (pid, start), name in list(self.seen.items()) if _lives(pid, start)}
        for pid in processes_of(self.mark, str(self.folder), os.getpid()):
            with contextlib.suppress(psutil.Error):
                found.setdefault(pid, _name(psutil.Process(pid)))
        return [f"{pid} {name}" for pid, name in sorted(found.items())]

    def files(self, *roots: Path) -> list[str]:
        """Returns what lies in the temporary folder, in shared memory and in the datasets' .tmp.

        Folders that Ray and torch keep are left out.
        """
        here = [path for path in self.folder.glob("*") if path.name not in NOT_OURS]
        here += [path for root in roots for path in (root / ".tmp").glob("*")]
        new = {path.name for path in SHARED_MEMORY.iterdir()} - self._shared
        return sorted(map(str, here)) + [f"{SHARED_MEMORY}/{name}" for name in sorted(new - _held(new))]

    def nothing(self, *roots: Path) -> tuple[list[str], float]:
        """Waits until no process and no file is left.

        Returns:
            What is still there after GONE_WITHIN_S, and the seconds that it took.
        """
        return _wait(lambda: self.processes() + self.files(*roots))

    def orphans(self, workers: set[int], *roots: Path) -> list[str]:
        """Returns what a command leaves on a cluster that goes on, after GONE_WITHIN_S.

        Args:
            workers: Processes that have worked for the command; no other that was seen may have lost its
                parents.
            roots: Datasets.
        """

        def left() -> list[str]:
            self.look()
            owned = {child.pid for child in psutil.Process().children(recursive=True)} - workers
            lost = [text for text in self.processes() if int(text.split()[0]) not in owned]
            return lost + self.files(*roots)

        return [f"left: {text}" for text in _wait(left)[0]]

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Remembers who is there now: children of this process, and of those that are remembered."""
        others = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                others[process.pid] = (process.ppid(), process.create_time(), _name(process))
        below = {os.getpid()} | {
            pid for pid, start in list(self.seen) if pid in others and others[pid][1] == start
        }
        not_ours = {pid for pid, start in self._before if pid in others and others[pid][1] == start}
        candidates = {pid: parent for pid, (parent, *_) in others.items() if pid not in not_ours}
        while new := {pid for pid, parent in candidates.items() if parent in below and pid not in below}:
            below |= new
            self.seen |= {(pid, others[pid][1]): others[pid][2] for pid in new}


def _wait(left: Callable[[], list[str]]) -> tuple[list[str], float]:
    """Asks until there is nothing any more, or time is over."""
    began = time.monotonic()
    while True:
        found, waited = left(), time.monotonic() - began
        if not found or waited > GONE_WITHIN_S:
            return found, waited
        time.sleep(0.1)


def _name(process: psutil.Process) -> str:
    return " ".join(process.cmdline())[:120] or process.name()


def _lives(pid: int, start: float) -> bool:
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() == start and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _held(names: set[str]) -> set[str]:
    """Returns those names in shared memory that some process has mapped: of other programs, or soon to go."""
    found: set[str] = set()
    for path in Path("/proc").glob("[0-9]*/maps") if names else ():
        with contextlib.suppress(OSError):
            lines = path.read_text(errors="replace").splitlines()
            found |= {line.rpartition("/")[2] for line in lines if f" {SHARED_MEMORY}/" in line}
    return found & names


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder with a short path, as Ray's sockets need it."""
    with tempfile.TemporaryDirectory(prefix="s-", dir="/tmp") as name:
        yield Path(name)


@contextlib.contextmanager
def in_environment(values: dict[str, str]) -> Iterator[None]:
    """Sets variables of this process, for those that libraries start."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
