"""Runs the shards of a stage as Ray tasks, on this machine or on a cluster.

Only a bounded window of tasks is in Ray's hands at a time (10⁶ queued ones cost gigabytes in the driver).
Retries are the driver's decision: Ray's own are off, so that an attempt is counted once. Nodes may come and
go: the window follows what they offer, and a cluster without a suitable node is waited for.
"""

from __future__ import annotations

import platform
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    TaskUnschedulableError,
)

from pipeline.backlog import Backlog, FailureKind, RetryPolicy
from pipeline.drain import NEVER, Drain
from pipeline.executor import (
    NOBODY,
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
from pipeline.ray_nodes import LOOK_S, ClusterNodes
from pipeline.ray_notes import Notes, forbid_note, notes, read_note, write_note
from pipeline.ray_session import own_ray_ends
from storage.errors import EnvironmentProblem

WINDOW_PER_SLOT = 3
"""Tasks submitted per task that can run at once: enough to hide the submission, few enough to stay small."""

KINDS: tuple[tuple[type[RayError], FailureKind], ...] = (
    (OutOfMemoryError, "memory"),
    (NodeDiedError, "node_lost"),
    (LocalRayletDiedError, "node_lost"),
    (ObjectLostError, "node_lost"),
)
"""What Ray raises for a task, where it is not its process that died."""
LARGE_WINDOW = 256
"""Tasks in Ray's hands from which on all that have ended are taken at once."""
SETTLE_S = 0.5
"""Seconds in which a Ray that got the same signal as the driver ends."""


@dataclass
class RayExecutor:
    """Runs tasks on the Ray cluster that this process is connected to (see ray_session).

    Attributes:
        retry: attempts per task, and the pauses between them.
        max_calls: tasks after which a worker process is replaced, on average; 0 for never.
        wait_for_nodes_s: seconds to wait for a node that can run the tasks while there is none.
        grace_s: see pipeline.executor.Executor.
    """

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    max_calls: int = 0
    wait_for_nodes_s: float = 0.0
    grace_s: float = 0.0
    name: str = "ray"

    def run(
        self,
        function: TaskFunction,
        tasks: Sequence[Task],
        resources: TaskResources,
        watcher: Watcher = NOBODY,
        drain: Drain = NEVER,
    ) -> Iterator[TaskOutcome]:
        """See pipeline.executor.Executor.

        Ray does not say when a task begins: the oldest of those in its hands, as many as have a place, count
        as begun.

        Abandoned tasks end with the connection to Ray: it kills the workers of a driver that has left. They
        are not cancelled one by one, because Ray 2.60 aborts the driver where a cancel meets the answer of
        a task that has just ended (ray-project/ray#54798 closed one such race of several). In a drain, those
        that wait for their turn find when it comes that they must not begin, and answer so.

        Raises:
            EnvironmentProblem: no node can run such a task, and none has come in time.
        """
        backlog = Backlog(tasks, self.retry, waits=watcher.waits)
        nodes = ClusterNodes(resources, self.wait_for_nodes_s)
        with notes() as of_attempts:
            hands = _Hands(function, resources, self.max_calls, of_attempts)
            while hands.running or (backlog and not drain.asked):
                if drain.asked:
                    if not drain.has_begun:
                        drain.begin(hands.begun_shards())
                        time.sleep(SETTLE_S)
                        if not own_ray_ends():
                            hands.forbid_others()
                    if drain.is_over or own_ray_ends() or not nodes.places():  # those that wait never answer
                        return
                places = nodes.places()
                window = WINDOW_PER_SLOT * max(1, places)  # tasks that wait make a cluster grow
                while backlog and len(hands.running) < window and not drain.asked and not backlog.wait_s():
                    hands.submit(*backlog.pop())
                if not drain.asked:
                    for attempt in hands.begun(places):
                        watcher.started(attempt.shard, attempt.number)
                if not hands.running:
                    time.sleep(min(backlog.wait_s(), 0.1))
                    continue
                for attempt, outcome in hands.ended():
                    if outcome is None:
                        drain.did_not_run(attempt.shard)
                    elif not backlog.again(attempt.task, outcome):
                        yield ended(outcome, backlog)


@dataclass(frozen=True)
class _Attempt:
    """A task in Ray's hands: number of the attempt from 1, and the key of its note."""

    shard: int
    number: int
    task: Task = field(compare=False)
    note: str


class _Hands:
    """The tasks that are in Ray's hands.

    Attributes:
        running: those that have not answered, the oldest first.
    """

    def __init__(self, function: TaskFunction, resources: TaskResources, max_calls: int, keys: Notes) -> None:
        self.running: dict[Any, _Attempt] = {}
        self._waiting: dict[_Attempt, None] = {}  # those of them that do not count as begun, in their order
        self._function, self._deadline_s, self._keys = function, resources.deadline_s, keys
        self._remotes = _Remotes(resources, max_calls)

    def submit(self, task: Task, number: int) -> None:
        """Hands a task to Ray."""
        attempt = _Attempt(task.shard, number, task, self._keys.new_key())
        # The function goes along by its name: as an object in Ray's store it would cost more per task.
        reference = self._remotes.draw().remote(
            self._function, self._deadline_s, dict(task.arguments), attempt.note
        )
        self.running[reference] = attempt
        self._waiting[attempt] = None

    def begun(self, places: int) -> Iterator[_Attempt]:
        """Yields those that count as begun from now on, where so many have a place."""
        while self._waiting and len(self.running) - len(self._waiting) < places:
            attempt = next(iter(self._waiting))
            del self._waiting[attempt]
            yield attempt

    def begun_shards(self) -> list[int]:
        """Returns the shards of those that count as begun."""
        return [attempt.shard for attempt in self.running.values() if attempt not in self._waiting]

    def forbid_others(self) -> None:
        """Keeps those that have not begun from beginning."""
        for attempt in self.running.values():
            forbid_note(attempt.note)

    def ended(self) -> Iterator[tuple[_Attempt, TaskOutcome | None]]:
        """Yields all that have ended, without an outcome those that were kept from beginning.

        Waits for the first, but not longer than LOOK_S.
        """
        for reference in self._ready():
            attempt = self.running.pop(reference)
            self._waiting.pop(attempt, None)
            outcome = _receive(reference, attempt, self._deadline_s)
            self._keys.ended(attempt.note)
            yield attempt, outcome

    def _ready(self) -> list[Any]:
        """One in a small window, all in a large one: to look through 3000 takes a millisecond or two."""
        references = list(self.running)
        ready, others = ray.wait(references, num_returns=1, timeout=LOOK_S)
        if ready and len(others) >= LARGE_WINDOW:
            ready += ray.wait(others, num_returns=len(others), timeout=0)[0]
        return list(ready)


class _Remotes:
    """The remote function of a stage, in two kinds: after one of them its worker process ends.

    Native code leaks memory, so that workers have to be replaced now and then, and not all at once. Ray
    counts calls per function and fixes the number with the function; so each task is drawn, one in max_calls
    as the last of its process, and the other function ends the process that is never drawn.
    """

    def __init__(self, resources: TaskResources, max_calls: int) -> None:
        options: dict[str, Any] = {
            "num_cpus": resources.cpus,
            "num_gpus": resources.gpus,
            "memory": resources.memory_bytes or None,
            "resources": dict(resources.custom) or None,
            "label_selector": dict(resources.labels) or None,
            "max_retries": 0,
            "scheduling_strategy": "SPREAD",
        }
        self._usual = ray.remote(max_calls=2 * max_calls, **options)(_run_task_on_node)
        self._last = ray.remote(max_calls=1, **options)(_run_task_on_node)
        self._chance = 1 / max_calls if max_calls else 0.0

    def draw(self) -> Any:
        """Returns the remote function for one task."""
        return self._last if random.random() < self._chance else self._usual


def _run_task_on_node(
    function: TaskFunction, deadline_s: float | None, arguments: dict[str, Any], note: str
) -> tuple[TaskAnswer | None, str]:
    """Body of a task: run_task's answer, and the node that gave it: host name and the start of Ray's id.

    Its note stays for a driver that gets no answer. The answer is None where the driver has forbidden the
    task to begin.
    """
    node = f"{platform.node()}/{ray.get_runtime_context().get_node_id()[:8]}"
    return (run_task(function, deadline_s, arguments) if write_note(note, node) else None), node


def _receive(reference: Any, attempt: _Attempt, deadline_s: float | None) -> TaskOutcome | None:
    """Fetches a task's answer, or says why there is none; None where it did not begin."""
    try:
        answer, node = ray.get(reference)
    except TaskUnschedulableError as error:
        raise EnvironmentProblem(f"no node of the cluster can ever run this task: {error}") from error
    except RayError as error:
        failure, node = _death(error, attempt, deadline_s)
        answer = TaskAnswer(failure)
    if answer is None:
        return None
    return to_outcome(attempt.task, attempt.number, answer, node)


def _death(error: RayError, attempt: _Attempt, deadline_s: float | None) -> tuple[TaskFailure, str]:
    """Returns why a task's process gave no answer, and its node, "" where it had not begun."""
    began, node = read_note(attempt.note)
    kind: FailureKind = next((kind for errors, kind in KINDS if isinstance(error, errors)), "died")
    if kind == "died" and began is not None and overran(time.time() - began, deadline_s):
        return overrun(deadline_s), node
    message = " ".join(str(error).split())[:500] or type(error).__name__
    return TaskFailure(kind, f"{type(error).__name__}: {message}"), node
