"""One Blender process as its parent sees it: pipes, deadline, memory, log, and an end that leaves nothing.

The process leads a session of its own and has a private folder, which is its HOME and its temporary folder:
when it ends, whatever it started is killed with it, and whatever it left behind is removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from render_jobs.config import ExecutionLimits
from render_jobs.messages import ChannelClosedError, receive, send
from storage.errors import EnvironmentProblem
from storage.records import Failure

Echo = Callable[[str], None]

CHILD_MODULE = "render_jobs.child"
POLL_S = 0.1
_TAIL_CHARACTERS = 4000
_MAX_LOG_BYTES = 1 << 24
# Memory is looked at ten times a second. Should this process be starved itself, the kernel refuses what goes
# this far beyond: private memory that is not resident yet is about 115 MiB of a Blender process.
_BEYOND_LIMIT_BYTES = 2 << 30
MAX_FILE_BYTES = 1 << 30  # of any file that the process writes, its log included: 2 GB/s were seen
_NO_MEMORY = re.compile(
    r"bad_alloc|MemoryError|[Cc]annot allocate memory|Malloc returns null|[Oo]ut of memory"
)


class EndedError(Exception):
    """The process is over, or has been ended; the failure says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class BlenderProcess:
    """Starts `render_jobs.child` and exchanges messages with it.

    Args:
        parent: Folder in which its private folder is made.
        limits: Memory.
        echo: Gets what the process writes to stdout and stderr, as it comes.

    Attributes:
        pid: Its process id.
        folder: Its private folder.
    """

    def __init__(self, parent: Path, limits: ExecutionLimits, echo: Echo | None = None) -> None:
        self._limits = limits
        self._echo = echo
        self.folder = Path(tempfile.mkdtemp(prefix="child-", dir=parent))
        self._log = self.folder / "blender.log"
        self._echoed = 0
        self._over = False
        self.allow(limits.startup_s)
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._start()
            undo.pop_all()
        self.pid = self._process.pid

    def _start(self) -> None:
        """Starts the process; pipes that it does not get are closed whatever happens."""
        with contextlib.ExitStack() as childs, contextlib.ExitStack() as ours:
            request_read, self._request_fd = os.pipe()
            childs.callback(os.close, request_read)
            ours.callback(os.close, self._request_fd)
            self._answer_fd, answer_write = os.pipe()
            childs.callback(os.close, answer_write)
            ours.callback(os.close, self._answer_fd)
            os.set_blocking(self._request_fd, False)  # a process that hangs reads nothing
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        CHILD_MODULE,
                        str(request_read),
                        str(answer_write),
                        str(os.getpid()),
                        self._limits.device,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(request_read, answer_write),
                    env=_environment(self.folder),
                    cwd=self.folder,
                    start_new_session=True,
                )
            ours.pop_all()

    @property
    def alive(self) -> bool:
        """Whether it runs. It is not reaped here, so that its id stays its own until `close`."""
        if self._over:
            return False
        state = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return state is None

    def bound(self) -> None:
        """Lets the kernel refuse what goes far beyond the limits; for a process that has started."""
        memory_bytes = self._limits.memory_bytes + _BEYOND_LIMIT_BYTES
        for kind, bytes_ in ((resource.RLIMIT_DATA, memory_bytes), (resource.RLIMIT_FSIZE, MAX_FILE_BYTES)):
            with contextlib.suppress(OSError, ValueError):  # a lower hard limit is in force already
                resource.prlimit(self.pid, kind, (bytes_, bytes_))

    def allow(self, seconds: float) -> None:
        """Sets the deadline of what follows."""
        self._allowed_s, self._deadline = seconds, time.monotonic() + seconds

    def clear_log(self) -> None:
        """Forgets what it wrote so far."""
        os.truncate(self._log, 0)
        self._echoed = 0

    def send(self, head: dict[str, Any], body: bytes) -> None:
        """Sends one message; raises EndedError."""
        with self._ended_explained():
            send(self._request_fd, head, body, wait=lambda fd: self._wait(fd, select.POLLOUT))

    def receive(self, max_body_bytes: int) -> tuple[dict[str, Any], bytearray]:
        """Receives one message; raises EndedError, also when the message is none of ours."""
        with self._ended_explained():
            answer = receive(self._answer_fd, max_body_bytes, lambda fd: self._wait(fd, select.POLLIN))
            self._echo_new()
            return answer

    @contextlib.contextmanager
    def _ended_explained(self) -> Any:
        try:
            yield
        except ChannelClosedError:
            raise EndedError(self._post_mortem()) from None
        except (ValueError, RecursionError) as error:
            raise self.end("crash", f"Blender sent what is no answer: {error}") from error

    def end(self, kind: str, reason: str) -> EndedError:
        """Ends it and returns the error that says so."""
        self._kill()
        self._echo_new()
        return EndedError(Failure(kind, reason, self.log_tail()))

    def close(self) -> None:
        """Ends it, with all that it started and left behind; may be called twice. It has nothing to save."""
        self._kill()
        for fd in (self._request_fd, self._answer_fd):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._request_fd = self._answer_fd = -1
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_tail(self) -> str:
        """Returns the end of what it wrote to stdout and stderr."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - 4 * _TAIL_CHARACTERS))
                return log.read().decode(errors="replace")[-_TAIL_CHARACTERS:].strip()
        except OSError:
            return ""

    def _kill(self) -> None:
        """Kills its whole process group. As the leader is reaped last, the id cannot be another's by then."""
        if not self._over:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
            self._over = True

    def _wait(self, fd: int, event: int) -> None:
        """Returns when the pipe is ready; ends the process when it is late or too large."""
        poll = select.poll()  # select() refuses descriptors from 1024 on
        poll.register(fd, event)
        while True:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0.0:
                raise self.end("timeout", f"not finished after {self._allowed_s:g} s")
            lives = self.alive
            if poll.poll(1000 * min(POLL_S, left_s) if lives else 0):
                return
            if not lives:  # something that it started still holds its end of the pipe
                raise ChannelClosedError("the process is gone")
            self._look()

    def _look(self) -> None:
        self._echo_new()
        if self._resident_bytes() > self._limits.memory_bytes:
            limit = self._limits.memory_bytes / 2**20
            raise self.end("out_of_memory", f"Blender needed more than {limit:.0f} MiB of memory")
        if self._log.stat().st_size > _MAX_LOG_BYTES:
            self.clear_log()

    def _resident_bytes(self) -> int:
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def _echo_new(self) -> None:
        if self._echo is not None:
            with contextlib.suppress(OSError), self._log.open("rb") as log:
                log.seek(self._echoed)
                new = log.read(_MAX_LOG_BYTES)
                self._echoed += len(new)
                if new:
                    self._echo(new.decode(errors="replace"))

    def _post_mortem(self) -> Failure:
        deadline = time.monotonic() + 5.0
        while self.alive and time.monotonic() < deadline:
            time.sleep(0.01)
        lives = self.alive
        self._kill()
        self._echo_new()
        tail = self.log_tail()
        if lives:
            return Failure("crash", "Blender closed its pipe and went on", tail)
        code = self._process.returncode
        if code == -signal.SIGKILL:
            reason = "Blender was killed (SIGKILL), as the kernel does when memory runs out"
            return Failure("killed", reason, tail)
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        if code and _NO_MEMORY.search(tail):
            return Failure("out_of_memory", f"Blender {how} when it got no more memory", tail)
        return Failure("crash", f"Blender {how}", tail)


def _environment(folder: Path) -> dict[str, str]:
    """Returns an environment in which Blender finds no user's settings, add-ons or start-up scripts."""
    inherited = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("BLENDER_", "CYCLES_", "OMP_", "PYTHONSTARTUP"))
    }
    package_root = str(Path(__file__).resolve().parent.parent)
    paths = [package_root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    private = str(folder)
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONFAULTHANDLER": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONUSERBASE": site.getuserbase(),  # keeps what pip --user installed visible under the new HOME
        "HOME": private,
        "XDG_CONFIG_HOME": private,
        "XDG_CACHE_HOME": private,
        "TMPDIR": private,
        "BLENDER_USER_RESOURCES": private,
    }


def start_message(failure: Failure) -> str:
    """Says why Blender did not start, and what to do."""
    if failure.kind == "timeout":
        return f"Blender did not start: {failure.reason}"
    last = failure.detail.splitlines()[-1] if failure.detail else failure.reason
    hint = "install the render extra (pip install -e '.[render]') and the libraries that fpipe doctor names"
    return f"Blender did not start ({last}); {hint}"


def start(parent: Path, limits: ExecutionLimits, echo: Echo | None = None) -> BlenderProcess:
    """Starts Blender and waits until it is ready.

    Raises:
        EnvironmentProblem: It does not start.
    """
    try:
        process = BlenderProcess(parent, limits, echo)
    except OSError as error:
        raise EnvironmentProblem(f"Blender cannot be started in {parent}: {error}") from error
    try:
        process.receive(0)
    except EndedError as error:
        process.close()
        raise EnvironmentProblem(start_message(error.failure)) from error
    process.bound()
    return process
