"""Runs the shards of a stage as independent tasks: the interface, and an executor on this machine.

A task is `function(**arguments) -> dict`, importable by name, idempotent, and owns whole shards. Its process
ends itself when it overruns its deadline, which starts when the task does. A task that fails in a way that
may pass (its process died, its node was lost, the store did not answer) is tried again by the rules of
`pipeline.backlog`; any other failure is reported once and the other tasks go on.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import platform
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pipeline.backlog import Backlog, FailureKind, RetryPolicy
from pipeline.drain import NEVER, SIGNALS, Drain
from pipeline.gpus import VARIABLE as CUDA_VISIBLE_DEVICES
from pipeline.gpus import gpu_slots, visible_gpus
from storage.errors import FpipeError, StaleSnapshotError, StoreUnusableError, TransientError
from storage.redaction import redact

TaskFunction = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """One shard's work."""

    shard: int
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class TaskResources:
    """What one task needs, and how long it may take.

    Attributes:
        cpus: cores per task.
        gpus: GPUs per task, fractions allowed.
        memory_bytes: memory that Ray reserves per task, 0 for none.
        labels: Ray's label selector: label of a node → value that it must have, "!value", "in(a,b)" or
            "!in(a,b)".
        custom: amounts of resources that nodes were given names for (`ray start --resources`).
        deadline_s: seconds after which the task's process ends itself, None for never.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    custom: Mapping[str, float] = field(default_factory=dict)
    deadline_s: float | None = None


@dataclass(frozen=True)
class TaskFailure:
    """Why a task failed.

    Attributes:
        kind: class of the failure, which decides whether it is worth another attempt.
        message: one line.
        exit_code: the process exit code that the error asks for (see storage.errors), 1 for unknown errors.
        trace: traceback, where there is one.
        ends_run: whether every other task would fail likewise: credentials, room.
    """

    kind: FailureKind
    message: str
    exit_code: int = 1
    trace: str = ""
    ends_run: bool = False


@dataclass(frozen=True)
class TaskUsage:
    """What an attempt took.

    Attributes:
        seconds: Wall time of the task itself, without waiting for a place.
        cpu_seconds: Of its process and the processes that it started and that have ended.
        peak_rss_bytes: Most resident memory of its process or of one that it started. Where an executor uses
            a process for several tasks: of all of them so far.
    """

    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int


@dataclass(frozen=True)
class TaskAnswer:
    """What came of one attempt, and what it took."""

    value: dict[str, Any] | TaskFailure
    usage: TaskUsage | None = None


@dataclass(frozen=True)
class TaskOutcome:
    """How one task ended, after that many attempts: with a result or a failure; `node` says where.

    `usage` is that of the last attempt, None where its process died. `retried` counts the attempts before it
    by the class of their failure.
    """

    shard: int
    attempts: int
    result: dict[str, Any] | None = None
    failure: TaskFailure | None = None
    node: str = ""
    usage: TaskUsage | None = None
    retried: Mapping[str, int] = field(default_factory=dict)


class Watcher(Protocol):
    """Is told what an executor does with its tasks, beside the outcomes that it yields."""

    def started(self, shard: int, attempt: int) -> None:
        """An attempt begins."""

    def waits(self, shard: int) -> None:
        """An attempt has failed, and the shard waits for another one."""


class Nobody:
    """A `Watcher` that forgets everything."""

    def started(self, shard: int, attempt: int) -> None:
        """See Watcher."""

    def waits(self, shard: int) -> None:
        """See Watcher."""


NOBODY = Nobody()


class Executor(Protocol):
    """Runs tasks and yields their outcomes in the order in which they end.

    Attributes:
        name: as in compute.executor.
        grace_s: seconds that running tasks are given to end when the command is asked to stop.
    """

    name: str
    grace_s: float

    def run(
        self,
        function: TaskFunction,
        tasks: Sequence[Task],
        resources: TaskResources,
        watcher: Watcher = NOBODY,
        drain: Drain = NEVER,
    ) -> Iterator[TaskOutcome]:
        """Yields one outcome per task. Closing the iterator abandons what is still running.

        `watcher` is told of every attempt that begins, and of every shard that waits for another one. None
        begins once `drain` is asked for: the iterator ends when none runs any more, or abandons those that do
        when the time of the drain is over.
        """
        ...


KINDS: tuple[tuple[type[Exception], FailureKind], ...] = (
    (TransientError, "transient"),
    (StaleSnapshotError, "transient"),
    (MemoryError, "memory"),
)
"""Errors that are worth another attempt: memory is there again when the neighbours are done."""


WATCHDOG_CODE = 1
"""With which faulthandler ends a process whose time is over."""


def run_task(function: TaskFunction, deadline_s: float | None, arguments: Mapping[str, Any]) -> TaskAnswer:
    """Calls function(**arguments) in a worker; ends the whole process when it takes longer than deadline_s.

    The watchdog is a C thread of faulthandler, so it works while the interpreter is stuck in native code.
    Every exception becomes a TaskFailure, which any process can unpickle.
    """
    if deadline_s is not None:
        faulthandler.dump_traceback_later(deadline_s, exit=True, file=sys.__stderr__ or sys.stderr)
    began, cpu_began = time.monotonic(), _cpu_seconds()
    value: dict[str, Any] | TaskFailure
    try:
        value = function(**arguments)
    except Exception as error:  # noqa: BLE001 the worker boundary: the driver records it
        value = TaskFailure(
            kind=next((kind for errors, kind in KINDS if isinstance(error, errors)), "raised"),
            message=redact(f"{type(error).__name__}: {error}"),
            exit_code=error.exit_code if isinstance(error, FpipeError) else 1,
            trace=redact(traceback.format_exc()),
            ends_run=isinstance(error, StoreUnusableError),
        )
    finally:
        if deadline_s is not None:
            faulthandler.cancel_dump_traceback_later()
    usage = TaskUsage(time.monotonic() - began, _cpu_seconds() - cpu_began, _peak_rss_bytes())
    return TaskAnswer(value, usage)


_WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def _cpu_seconds() -> float:
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, _WHO))


def _peak_rss_bytes() -> int:
    return 1024 * max(resource.getrusage(who).ru_maxrss for who in _WHO)


def overran(seconds: float, deadline_s: float | None) -> bool:
    """Says whether a process that ended without an answer, after that time, had passed its deadline.

    One part in a hundred is allowed for clocks of two machines that differ.
    """
    return deadline_s is not None and seconds >= 0.99 * deadline_s


def overrun(deadline_s: float | None) -> TaskFailure:
    """Returns the failure of a task that its watchdog ended."""
    return TaskFailure("timeout", f"the task was not done within its deadline of {deadline_s:g} s")


def to_outcome(task: Task, attempt: int, answer: TaskAnswer, node: str = "") -> TaskOutcome:
    """Wraps what run_task returned."""
    result, failure = (None, answer.value) if isinstance(answer.value, TaskFailure) else (answer.value, None)
    return TaskOutcome(task.shard, attempt, result, failure, node, answer.usage)


@dataclass
class LocalExecutor:
    """Runs every task in a process of its own on this machine, `workers` at a time, without Ray.

    Attributes:
        workers: processes at a time.
        retry: attempts per task, and the pauses between them.
        grace_s: see Executor.
    """

    workers: int
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    grace_s: float = 0.0
    name: str = "local"

    def run(
        self,
        function: TaskFunction,
        tasks: Sequence[Task],
        resources: TaskResources,
        watcher: Watcher = NOBODY,
        drain: Drain = NEVER,
    ) -> Iterator[TaskOutcome]:
        """See Executor."""
        context = multiprocessing.get_context("spawn")
        backlog = Backlog(tasks, self.retry, waits=watcher.waits)
        slots = gpu_slots(resources.gpus, visible_gpus() if resources.gpus else (), self.workers)
        running: dict[multiprocessing.connection.Connection, _Attempt] = {}
        try:
            while running or (backlog and not drain.asked):
                if drain.asked:
                    drain.begin([attempt.task.shard for attempt in running.values()])
                    if drain.is_over:
                        return
                while backlog and slots and not drain.asked and not backlog.wait_s():
                    task, number = backlog.pop()
                    receiver, sender = context.Pipe(duplex=False)
                    gpus, arguments = slots.pop(), dict(task.arguments)
                    process = context.Process(
                        target=_run_in_process,
                        args=(sender, function, resources.deadline_s, arguments, os.getpid(), gpus),
                    )
                    _start(process)
                    sender.close()
                    watcher.started(task.shard, number)
                    running[receiver] = _Attempt(task, number, process, gpus, time.monotonic())
                for ready in multiprocessing.connection.wait(list(running), timeout=0.2):
                    assert isinstance(ready, multiprocessing.connection.Connection)
                    attempt = running[ready]
                    outcome = _receive(ready, attempt, resources.deadline_s)
                    if outcome is None:
                        continue
                    del running[ready]
                    slots.append(attempt.gpus)
                    if not backlog.again(attempt.task, outcome):
                        yield ended(outcome, backlog)
                if not running and backlog and not drain.asked:
                    time.sleep(min(backlog.wait_s(), 0.2))
        finally:
            for connection, attempt in running.items():
                attempt.process.kill()
                attempt.process.join()
                connection.close()


@dataclass(frozen=True)
class _Attempt:
    """A task that runs in a process of its own: its number from 1, its GPUs, when it was started."""

    task: Task
    number: int
    process: Any
    gpus: str | None
    began: float


def _start(process: Any) -> None:
    """Starts a process that a signal to the whole group (Ctrl-C, a scheduler's) does not end.

    It ignores them itself, but needs a second until it is so far.
    """
    multiprocessing.resource_tracker.ensure_running()  # its start would unblock them (Python before 3.12)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ended(outcome: TaskOutcome, backlog: Backlog) -> TaskOutcome:
    """Returns a task's last outcome, with what came of its attempts before."""
    last = None if outcome.failure is None else outcome.failure.kind
    return replace(outcome, retried=backlog.retried(outcome.shard, last))


def _receive(
    connection: multiprocessing.connection.Connection, attempt: _Attempt, deadline_s: float | None
) -> TaskOutcome | None:
    """Reads what a task's process sent: its answer, or (None) a line to log.

    A process that died without answering gives a failure.
    """
    answer: TaskAnswer | _LogLine
    try:
        answer = connection.recv()
        if isinstance(answer, _LogLine):
            logging.getLogger(answer.name).log(answer.level, "%s", answer.text)
            return None
    except (EOFError, OSError):  # OSError: it died in the middle of a message
        attempt.process.join()
        answer = TaskAnswer(_death(attempt, deadline_s))
    connection.close()
    attempt.process.join()
    return to_outcome(attempt.task, attempt.number, answer, platform.node())


def _death(attempt: _Attempt, deadline_s: float | None) -> TaskFailure:
    """Returns why a process has ended without an answer."""
    code = attempt.process.exitcode
    if code == WATCHDOG_CODE and overran(time.monotonic() - attempt.began, deadline_s):
        return overrun(deadline_s)
    shard = attempt.task.shard
    return TaskFailure("died", f"the process of shard {shard} ended with code {code} without an answer")


def _run_in_process(
    connection: multiprocessing.connection.Connection,
    function: TaskFunction,
    deadline_s: float | None,
    arguments: dict[str, Any],
    parent: int,
    gpus: str | None,
) -> None:
    """Body of a task's process."""
    if gpus is not None:
        os.environ[CUDA_VISIBLE_DEVICES] = gpus
    _end_with_parent(parent)
    for number in SIGNALS:  # they reach the whole group; the driver decides
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    to_driver = _ToDriver(connection)
    logging.basicConfig(level=logging.WARNING, handlers=[to_driver])
    answer = run_task(function, deadline_s, arguments)
    with to_driver.lock or contextlib.nullcontext():
        connection.send(answer)
    _end_now()


def _end_now() -> None:
    """Ends this process: with torch and diffusers the interpreter takes a CPU-second to clear itself away."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(0)


@dataclass(frozen=True)
class _LogLine:
    """A line that a task logged."""

    name: str
    level: int
    text: str


class _ToDriver(logging.Handler):
    """Sends what a task logs to the driver, whose progress bar a line written here would tear."""

    def __init__(self, connection: multiprocessing.connection.Connection) -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # the driver is gone, and this process ends soon
            self._connection.send(_LogLine(record.name, record.levelno, record.getMessage()))


def _end_with_parent(parent: int) -> None:
    """Ends this process when its parent is gone, SIGKILL included: it looks twice a second."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="fpipe-parent-watch").start()
