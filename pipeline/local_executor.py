"""Runs tasks in processes of this machine, without Ray."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.backlog import Backlog, RetryPolicy
from pipeline.drain import NEVER, SIGNALS, Drain
from pipeline.executor import (
    NOBODY,
    WATCHDOG_CODE,
    Task,
    TaskAnswer,
    TaskFailure,
    TaskFunction,
    TaskOutcome,
    TaskResources,
    Watcher,
    ended,
    overran,
    overrun,
    run_task,
    to_outcome,
)
from pipeline.gpus import VARIABLE as CUDA_VISIBLE_DEVICES
from pipeline.gpus import gpu_slots, visible_gpus


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
