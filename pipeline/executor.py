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
from storage.errors import FpipeError, StaleSnapshotError, TransientError
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
    """

    kind: Literal["raised", "transient", "died"]
    message: str
    exit_code: int = 1
    trace: str = ""


@dataclass(frozen=True)
class TaskOutcome:
    """How one task ended, after that many attempts: with a result or a failure; `node` says where."""

    shard: int
    attempts: int
    result: dict[str, Any] | None = None
    failure: TaskFailure | None = None
    node: str = ""


class Executor(Protocol):
    """Runs tasks and yields their outcomes in the order in which they end."""

    name: str

    def run(
        self, function: TaskFunction, tasks: Sequence[Task], resources: TaskResources
    ) -> Iterator[TaskOutcome]:
        """Yields one outcome per task. Closing the iterator abandons what is still running."""
        ...


def run_task(
    function: TaskFunction, deadline_s: float | None, arguments: Mapping[str, Any]
) -> dict[str, Any] | TaskFailure:
    """Calls function(**arguments) in a worker; ends the whole process when it takes longer than deadline_s.

    The watchdog is a C thread of faulthandler, so it works while the interpreter is stuck in native code.
    Every exception becomes a TaskFailure, which any process can unpickle.
    """
    if deadline_s is not None:
        faulthandler.dump_traceback_later(deadline_s, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        return function(**arguments)
    except Exception as error:  # noqa: BLE001 the worker boundary: the driver records it
        return TaskFailure(
            kind="transient" if isinstance(error, (TransientError, StaleSnapshotError)) else "raised",
            message=redact(f"{type(error).__name__}: {error}"),
            exit_code=error.exit_code if isinstance(error, FpipeError) else 1,
            trace=redact(traceback.format_exc()),
        )
    finally:
        if deadline_s is not None:
            faulthandler.cancel_dump_traceback_later()


def may_pass(outcome: TaskOutcome) -> bool:
    """Says whether the task is worth another attempt."""
    return outcome.failure is not None and outcome.failure.kind != "raised"


def to_outcome(task: Task, attempt: int, value: dict[str, Any] | TaskFailure, node: str = "") -> TaskOutcome:
    """Wraps what run_task returned."""
    if isinstance(value, TaskFailure):
        return TaskOutcome(task.shard, attempt, failure=value, node=node)
    return TaskOutcome(task.shard, attempt, result=value, node=node)


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
        self, function: TaskFunction, tasks: Sequence[Task], resources: TaskResources
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
    value: dict[str, Any] | TaskFailure | _LogLine
    try:
        value = connection.recv()
        if isinstance(value, _LogLine):
            logging.getLogger(value.name).log(value.level, "%s", value.text)
            return None
    except (EOFError, OSError):  # OSError: it died in the middle of a message
        process.join()
        value = TaskFailure(
            "died", f"the process of shard {task.shard} ended with code {process.exitcode} without an answer"
        )
    connection.close()
    process.join()
    return to_outcome(task, attempt, value, platform.node())


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
    value = run_task(function, deadline_s, arguments)
    with to_driver.lock or contextlib.nullcontext():
        connection.send(value)


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
