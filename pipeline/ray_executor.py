"""Runs the shards of a stage as Ray tasks, on this machine or on a cluster.

Only a bounded window of tasks is in Ray's hands at a time (10⁶ queued ones cost gigabytes in the driver).
Retries are the driver's decision: Ray's own are off, so that an attempt is counted once.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray.exceptions import RayError, TaskUnschedulableError

from pipeline.executor import (
    Started,
    Task,
    TaskAnswer,
    TaskFailure,
    TaskFunction,
    TaskOutcome,
    TaskResources,
    may_pass,
    nobody,
    retry_pause_s,
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


@dataclass
class RayExecutor:
    """Runs tasks on the Ray cluster that this process is connected to (see ray_session).

    Attributes:
        max_attempts: tries per task, for failures that may pass.
    """

    max_attempts: int = 3
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
        """
        remote = ray.remote(_run_task_on_node).options(
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            memory=resources.memory_bytes or None,
            max_retries=0,
            scheduling_strategy="SPREAD",
        )
        shared_function = ray.put(function)
        waiting: collections.deque[tuple[float, int, Task]] = collections.deque(
            (0.0, 1, task) for task in tasks
        )
        running: dict[Any, tuple[Task, int]] = {}
        begun: set[tuple[int, int]] = set()
        while waiting or running:
            places = slots(resources)
            window = WINDOW_PER_SLOT * places
            while waiting and len(running) < window and waiting[0][0] <= time.monotonic():
                _, attempt, task = waiting.popleft()
                reference = remote.remote(shared_function, resources.deadline_s, dict(task.arguments))
                running[reference] = (task, attempt)
            for task, attempt in itertools.islice(running.values(), places):
                if (task.shard, attempt) not in begun:
                    begun.add((task.shard, attempt))
                    started(task.shard, attempt)
            if not running:
                time.sleep(0.1)
                continue
            ready, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
            for reference in ready:
                task, attempt = running.pop(reference)
                begun.discard((task.shard, attempt))
                outcome = _receive(reference, task, attempt)
                if may_pass(outcome) and attempt < self.max_attempts:
                    assert outcome.failure is not None
                    LOGGER.warning(
                        "shard %d, attempt %d: %s; trying again",
                        task.shard,
                        attempt,
                        outcome.failure.message,
                    )
                    waiting.append((time.monotonic() + retry_pause_s(attempt), attempt + 1, task))
                else:
                    yield outcome


def _run_task_on_node(
    function: TaskFunction, deadline_s: float | None, arguments: dict[str, Any]
) -> tuple[TaskAnswer, str]:
    """Body of a task: run_task's answer, and the node that gave it: host name and the start of Ray's id."""
    node = f"{platform.node()}/{ray.get_runtime_context().get_node_id()[:8]}"
    return run_task(function, deadline_s, arguments), node


def slots(resources: TaskResources) -> int:
    """Returns how many such tasks the cluster can run at once, at least 1."""
    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    by_cpu = total.get("CPU", 0.0) // resources.cpus if resources.cpus else 1
    by_gpu = total.get("GPU", 0.0) // resources.gpus if resources.gpus else by_cpu
    return max(1, int(min(by_cpu, by_gpu)))


def _receive(reference: Any, task: Task, attempt: int) -> TaskOutcome:
    """Fetches a task's answer; what Ray itself raises (crash, lost node, memory) counts as a death."""
    try:
        answer, node = ray.get(reference)
        return to_outcome(task, attempt, answer, node)
    except TaskUnschedulableError as error:
        raise EnvironmentProblem(f"no node of the cluster can ever run this task: {error}") from error
    except RayError as error:
        message = " ".join(str(error).split())[:500] or type(error).__name__
        died = TaskFailure("died", f"{type(error).__name__}: {message}")
        return to_outcome(task, attempt, TaskAnswer(died))
