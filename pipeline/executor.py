"""Runs the shards of a stage as independent tasks: the interface of executors, and what runs in a worker.

A task is `function(**arguments) -> dict`, importable by name, idempotent, and owns whole shards. Its process
ends itself when it overruns its deadline, which starts when the task does. A task that fails in a way that
may pass (its process died, its node was lost, the store did not answer) is tried again by the rules of
`pipeline.backlog`; any other failure is reported once and the other tasks go on.
"""

from __future__ import annotations

import faulthandler
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pipeline.backlog import Backlog, FailureKind
from pipeline.drain import NEVER, Drain
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


def ended(outcome: TaskOutcome, backlog: Backlog) -> TaskOutcome:
    """Returns a task's last outcome, with what came of its attempts before."""
    last = None if outcome.failure is None else outcome.failure.kind
    return replace(outcome, retried=backlog.retried(outcome.shard, last))
