"""Runs the shards of a stage as independent tasks: the interface, and an executor on this machine.

A task is `function(**arguments) -> dict`, importable by name, idempotent, and owns whole shards. Its process
ends itself when it overruns its deadline, which starts when the task does. A task that fails in a way that
may pass (its process died, its node was lost, the store did not answer) is tried again; any other failure is
reported once and the other tasks go on.
"""

from __future__ import annotations

import collections
import contextlib
import faulthandler
import logging
import multiprocessing
import multiprocessing.connection
import os
import platform
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

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
        deadline_s: seconds after which the task's process ends itself, None for never.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int = 0
    deadline_s: float | None = None


@dataclass(frozen=True)
class TaskFailure:
    """Why a task failed.

    Attributes:
        kind: "raised" for an error of the input or the code, "transient" for one that may pass, "died" when
            the process or its node was lost.
        message: one line.
        exit_code: the process exit code that the error asks for (see storage.errors), 1 for unknown errors.
        trace: traceback, where there is one.
        ends_run: whether every other task would fail likewise: credentials, room.
    """

    kind: Literal["raised", "transient", "died"]
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

    `usage` is that of the last attempt, None where its process died.
    """

    shard: int
    attempts: int
    result: dict[str, Any] | None = None
    failure: TaskFailure | None = None
    node: str = ""
    usage: TaskUsage | None = None


Started = Callable[[int, int], None]
"""Is told (shard, attempt) when an attempt begins."""


def nobody(shard: int, attempt: int) -> None:
    """A `Started` that tells nobody."""


class Executor(Protocol):
    """Runs tasks and yields their outcomes in the order in which they end."""

    name: str

    def run(
        self,
        function: TaskFunction,
        tasks: Sequence[Task],
        resources: TaskResources,
        started: Started = nobody,
    ) -> Iterator[TaskOutcome]:
        """Yields one outcome per task. Closing the iterator abandons what is still running.

        `started` is told of every attempt that begins.
        """
        ...


MAY_PASS = (TransientError, StaleSnapshotError, MemoryError)
"""Errors that are worth another attempt: memory is there again when the neighbours are done."""


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
            kind="transient" if isinstance(error, MAY_PASS) else "raised",
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


def may_pass(outcome: TaskOutcome) -> bool:
    """Says whether the task is worth another attempt."""
    return outcome.failure is not None and outcome.failure.kind != "raised"


def to_outcome(task: Task, attempt: int, answer: TaskAnswer, node: str = "") -> TaskOutcome:
    """Wraps what run_task returned."""
    result, failure = (None, answer.value) if isinstance(answer.value, TaskFailure) else (answer.value, None)
    return TaskOutcome(task.shard, attempt, result, failure, node, answer.usage)


def retry_pause_s(attempt: int) -> float:
    """Returns the pause before attempt + 1: 0.5 s, doubled each time, at most 30 s."""
    return float(min(0.5 * 2 ** (attempt - 1), 30.0))


@dataclass
class LocalExecutor:
    """Runs every task in a process of its own on this machine, `workers` at a time, without Ray.

    Attributes:
        workers: processes at a time.
        max_attempts: tries per task, for failures that may pass.
    """

    workers: int
    max_attempts: int = 3
    name: str = "local"

    def run(
        self,
        function: TaskFunction,
        tasks: Sequence[Task],
        resources: TaskResources,
        started: Started = nobody,
    ) -> Iterator[TaskOutcome]:
        """See Executor."""
        context = multiprocessing.get_context("spawn")
        waiting: collections.deque[tuple[float, int, Task]] = collections.deque(
            (0.0, 1, task) for task in tasks
        )
        slots = gpu_slots(resources.gpus, visible_gpus() if resources.gpus else (), self.workers)
        running: dict[multiprocessing.connection.Connection, tuple[Task, int, Any, str | None]] = {}
        try:
            while waiting or running:
                while waiting and slots and waiting[0][0] <= time.monotonic():
                    _, attempt, task = waiting.popleft()
                    receiver, sender = context.Pipe(duplex=False)
                    gpus, arguments = slots.pop(), dict(task.arguments)
                    process = context.Process(
                        target=_run_in_process,
                        args=(sender, function, resources.deadline_s, arguments, os.getpid(), gpus),
                    )
                    process.start()
                    sender.close()
                    started(task.shard, attempt)
                    running[receiver] = (task, attempt, process, gpus)
                for ready in multiprocessing.connection.wait(list(running), timeout=0.2):
                    assert isinstance(ready, multiprocessing.connection.Connection)
                    task, attempt, process, gpus = running[ready]
                    outcome = _receive(ready, process, task, attempt)
                    if outcome is None:
                        continue
                    del running[ready]
                    slots.append(gpus)
                    if may_pass(outcome) and attempt < self.max_attempts:
                        waiting.append((time.monotonic() + retry_pause_s(attempt), attempt + 1, task))
                    else:
                        yield outcome
                if not running and waiting:
                    time.sleep(max(0.0, min(waiting[0][0] - time.monotonic(), 0.2)))
        finally:
            for connection, (_, _, process, _) in running.items():
                process.kill()
                process.join()
                connection.close()


def _receive(
    connection: multiprocessing.connection.Connection, process: Any, task: Task, attempt: int
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
        process.join()
        message = f"the process of shard {task.shard} ended with code {process.exitcode} without an answer"
        answer = TaskAnswer(TaskFailure("died", message))
    connection.close()
    process.join()
    return to_outcome(task, attempt, answer, platform.node())


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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides
    to_driver = _ToDriver(connection)
    logging.basicConfig(level=logging.WARNING, handlers=[to_driver])
    answer = run_task(function, deadline_s, arguments)
    with to_driver.lock or contextlib.nullcontext():
        connection.send(answer)


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
