"""Runs the shards of a stage as Ray tasks, on this machine or on a cluster.

Only a bounded window of tasks is in Ray's hands at a time (10⁶ queued ones cost gigabytes in the driver).
Retries are the driver's decision: Ray's own are off, so that an attempt is counted once. Nodes may come and
go: the window follows what they offer, and a cluster without a suitable node is waited for.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import platform
import random
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    TaskUnschedulableError,
)
from ray.experimental import internal_kv

from pipeline.backlog import Backlog, FailureKind, RetryPolicy
from pipeline.cluster_nodes import described, offered, places
from pipeline.executor import (
    Started,
    Task,
    TaskAnswer,
    TaskFailure,
    TaskFunction,
    TaskOutcome,
    TaskResources,
    ended,
    nobody,
    overran,
    overrun,
    run_task,
    to_outcome,
)
from storage.errors import EnvironmentProblem

LOGGER = logging.getLogger(__name__)

WINDOW_PER_SLOT = 3
"""Tasks submitted per task that can run at once: enough to hide the submission, few enough to stay small."""


@contextlib.contextmanager
def ray_session(address: str | None, scratch: Path, cpus: int | None = None) -> Iterator[None]:
    """Connects to a cluster, or starts Ray on this machine with everything it writes below scratch.

    Args:
        address: a cluster's address, "auto" for the one of this machine, None to start one.
        scratch: private folder, short (Ray puts Unix sockets into it).
        cpus: cores that a started Ray may use, None for all.

    Raises:
        EnvironmentProblem: the cluster cannot be reached, or HOME is not writable.
    """
    if ray.is_initialized():  # a caller (a test, a notebook) brought its own
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # CPU tasks still see a GPU of their node
    _keep_token_private()
    # One line about token authentication at every start is noise to people who never leave this machine.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    common: dict[str, Any] = {"configure_logging": False, "log_to_driver": False}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        if address is None:
            with _loopback_only():
                ray.init(num_cpus=cpus, include_dashboard=False, _temp_dir=str(scratch / "r"), **common)
        else:
            ray.init(address=address, **common)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = "Ray could not be started here" if address is None else f"no Ray cluster answers at {address}"
        raise EnvironmentProblem(f"{where}: {error}") from error
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():  # Ray puts a handler of its own that aborts on SIGTERM
            signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _keep_token_private() -> None:
    """Closes ~/.ray to others before Ray, which makes it with the usual mask, writes its token there.

    Whoever holds the token may run code as this user; homes of shared machines are often readable.

    Raises:
        EnvironmentProblem: HOME is not writable.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        LOGGER.warning("RAY_AUTH_MODE switches Ray's authentication off: who reaches its ports is this user")
        return
    folder = Path.home() / ".ray"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid == os.getuid() and folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
            return  # the token is given, so that Ray writes none
        raise EnvironmentProblem(
            f"{folder}: {error.strerror}; Ray keeps its token there: set HOME to a writable folder"
        ) from error


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Makes the Ray that is started in the block listen on the loopback interface alone.

    Ray does so on macOS and Windows, where it has no clusters; on Linux it would listen on every interface,
    although nobody but this machine is meant to reach it (`_node_ip_address` is overruled there).
    """
    if "RAY_ADDRESS" in os.environ:  # Ray starts nothing then, but connects to that cluster
        yield
        return
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, is_set = ray_constants.ENABLE_RAY_CLUSTER, name in os.environ
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ.setdefault(name, "0")  # for the processes that Ray starts
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if not is_set:
            del os.environ[name]


KINDS: tuple[tuple[type[RayError], FailureKind], ...] = (
    (OutOfMemoryError, "memory"),
    (NodeDiedError, "node_lost"),
    (LocalRayletDiedError, "node_lost"),
    (ObjectLostError, "node_lost"),
)
"""What Ray raises for a task, where it is not its process that died."""
LOOK_S = 1.0
"""Seconds between two looks at the cluster's nodes."""
SAY_S = 60.0
"""Seconds between two lines that say that there is no node."""
NOTES = "fpipe"
"""Namespace of Ray's key-value store: where and when each attempt has begun, for as long as it runs."""


@dataclass
class RayExecutor:
    """Runs tasks on the Ray cluster that this process is connected to (see ray_session).

    Attributes:
        retry: attempts per task, and the pauses between them.
        max_calls: tasks after which a worker process is replaced, on average; 0 for never.
        wait_for_nodes_s: seconds to wait for a node that can run the tasks while there is none.
    """

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    max_calls: int = 0
    wait_for_nodes_s: float = 0.0
    name: str = "ray"

    def run(
        self,
        function: TaskFunction,
        tasks: Sequence[Task],
        resources: TaskResources,
        started: Started = nobody,
    ) -> Iterator[TaskOutcome]:
        """See pipeline.executor.Executor.

        Ray does not say when a task begins: the oldest of those in its hands, as many as have a place, count
        as begun.

        Abandoned tasks end with the connection to Ray: it kills the workers of a driver that has left. They
        are not cancelled one by one, because Ray 2.60 aborts the driver where a cancel meets the answer of
        a task that has just ended (ray-project/ray#54798 closed one such race of several).

        Raises:
            EnvironmentProblem: no node can run such a task, and none has come in time.
        """
        remotes = _Remotes(resources, self.max_calls)
        shared_function = ray.put(function)
        backlog = Backlog(tasks, self.retry)
        nodes = _Nodes(resources, self.wait_for_nodes_s)
        running: dict[Any, _Attempt] = {}
        begun: set[_Attempt] = set()
        while backlog or running:
            window = WINDOW_PER_SLOT * max(1, nodes.places())  # tasks that wait make a cluster grow
            while backlog and len(running) < window and not backlog.wait_s():
                task, number = backlog.pop()
                attempt = _Attempt(task.shard, number, task, secrets.token_hex(8))
                reference = remotes.draw().remote(
                    shared_function, resources.deadline_s, dict(task.arguments), attempt.note
                )
                running[reference] = attempt
            for attempt in itertools.islice(running.values(), nodes.places()):
                if attempt not in begun:
                    begun.add(attempt)
                    started(attempt.shard, attempt.number)
            if not running:
                time.sleep(min(backlog.wait_s(), 0.1))
                continue
            ready, _ = ray.wait(list(running), num_returns=1, timeout=LOOK_S)
            for reference in ready:
                attempt = running.pop(reference)
                begun.discard(attempt)
                outcome = _receive(reference, attempt, resources.deadline_s)
                if not backlog.again(attempt.task, outcome):
                    yield ended(outcome, backlog)


@dataclass(frozen=True)
class _Attempt:
    """A task in Ray's hands: number of the attempt from 1, and the key of its note."""

    shard: int
    number: int
    task: Task = field(compare=False)
    note: str


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
            "label_selector": dict(resources.labels) or None,
            "max_retries": 0,
            "scheduling_strategy": "SPREAD",
        }
        self._usual = ray.remote(max_calls=2 * max_calls)(_run_task_on_node).options(**options)
        self._last = ray.remote(max_calls=1)(_run_task_on_node).options(**options)
        self._chance = 1 / max_calls if max_calls else 0.0

    def draw(self) -> Any:
        """Returns the remote function for one task."""
        return self._last if random.random() < self._chance else self._usual


class _Nodes:
    """Looks now and then at what the cluster offers to tasks of one kind."""

    def __init__(self, needs: TaskResources, wait_s: float) -> None:
        self._needs, self._wait_s = needs, wait_s
        self._looked = self._said = -float("inf")
        self._places = 0
        self._without_since: float | None = None

    def places(self) -> int:
        """Returns how many tasks can run at once, 0 while there is no node for them.

        Raises:
            EnvironmentProblem: there has been no node for longer than is waited.
        """
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            nodes = ray.nodes()  # type: ignore[no-untyped-call]
            self._places = places(nodes, self._needs)
            if self._places:
                self._without_since = None
            else:
                self._none(nodes, now)
        return self._places

    def _none(self, nodes: Sequence[dict[str, Any]], now: float) -> None:
        """Tells, now and then, that no node can run a task."""
        self._without_since = now if self._without_since is None else self._without_since
        left_s = self._wait_s - (now - self._without_since)
        problem = (
            f"no node of the cluster can run a task, which needs {described(self._needs)}; "
            f"nodes: {offered(nodes, self._needs)}"
        )
        if left_s <= 0:
            waited = f" (waited {self._wait_s:g} s for one, compute.wait_for_nodes_s)" * bool(self._wait_s)
            raise EnvironmentProblem(
                f"{problem}{waited}. Add such a node, or ask for less: compute.render_*, fit_* or train_* "
                "(cpus, gpus, memory, labels)"
            )
        if now - self._said >= SAY_S:
            self._said = now
            LOGGER.warning("%s. Waiting %.0f s for one", problem, left_s)


def cluster_places(needs: TaskResources) -> int:
    """Returns how many such tasks the cluster's nodes of now can run at once."""
    return places(ray.nodes(), needs)  # type: ignore[no-untyped-call]


def await_nodes(needs: TaskResources, wait_s: float) -> None:
    """Returns when a node of the cluster can run such a task.

    Raises:
        EnvironmentProblem: no node can, and none has come within wait_s.
    """
    nodes = _Nodes(needs, wait_s)
    while not nodes.places():
        time.sleep(LOOK_S)


def _run_task_on_node(
    function: TaskFunction, deadline_s: float | None, arguments: dict[str, Any], note: str
) -> tuple[TaskAnswer, str]:
    """Body of a task: run_task's answer, and the node that gave it: host name and the start of Ray's id.

    While it runs, a note in Ray's key-value store holds the node and the time of the start: a process that
    dies leaves nothing else from which the driver could tell a deadline from a crash.
    """
    node = f"{platform.node()}/{ray.get_runtime_context().get_node_id()[:8]}"
    internal_kv._internal_kv_put(note, f"{time.time()} {node}", namespace=NOTES)
    try:
        return run_task(function, deadline_s, arguments), node
    finally:
        internal_kv._internal_kv_del(note, namespace=NOTES)


def _receive(reference: Any, attempt: _Attempt, deadline_s: float | None) -> TaskOutcome:
    """Fetches a task's answer, or says why there is none."""
    try:
        answer, node = ray.get(reference)
    except TaskUnschedulableError as error:
        raise EnvironmentProblem(f"no node of the cluster can ever run this task: {error}") from error
    except RayError as error:
        failure, node = _death(error, attempt, deadline_s)
        answer = TaskAnswer(failure)
    return to_outcome(attempt.task, attempt.number, answer, node)


def _death(error: RayError, attempt: _Attempt, deadline_s: float | None) -> tuple[TaskFailure, str]:
    """Returns why a task's process gave no answer, and its node, "" where it had not begun."""
    note = internal_kv._internal_kv_get(attempt.note, namespace=NOTES) or b""
    internal_kv._internal_kv_del(attempt.note, namespace=NOTES)
    began, _, node = note.decode().partition(" ")
    kind: FailureKind = next((kind for errors, kind in KINDS if isinstance(error, errors)), "died")
    if kind == "died" and began and overran(time.time() - float(began), deadline_s):
        return overrun(deadline_s), node
    message = " ".join(str(error).split())[:500] or type(error).__name__
    return TaskFailure(kind, f"{type(error).__name__}: {message}"), node
