"""Owns what a command computes with: started when the first task needs it, ended with the command.

Nothing is started for a command that has nothing to do.
"""

from __future__ import annotations

import contextlib
import os
from types import TracebackType
from typing import Self

from pipeline.cluster_nodes import described
from pipeline.config import ComputeConfig
from pipeline.executor import Executor, TaskResources
from pipeline.local_executor import LocalExecutor
from pipeline.scratch import Scratch, scratch_folder
from storage.errors import UsageError
from storage.store import Store


def usable_cores() -> int:
    """Returns the cores that this process may use."""
    return len(os.sched_getaffinity(0))


class ComputeSession:
    """The executor of one command, shared by its stages; a context manager.

    Args:
        config: executor, resources.

    Attributes:
        config: as given.
    """

    def __init__(self, config: ComputeConfig) -> None:
        self.config = config
        self._resources = contextlib.ExitStack()
        self._executor: Executor | None = None
        self._scratch: Scratch | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()
        self._executor = None

    @property
    def executor(self) -> Executor:
        """The executor, started at the first use.

        Raises:
            EnvironmentProblem: Ray is not installed, cannot be started or does not answer.
        """
        if self._executor is None:
            scratch = self._scratch = self._resources.enter_context(scratch_folder())
            retry = self.config.retry.policy(self.config.max_attempts)
            if self.config.executor == "local":
                workers = self.config.workers or usable_cores()
                self._executor = LocalExecutor(workers, retry, self.config.grace_s)
            else:
                from pipeline.ray_executor import RayExecutor
                from pipeline.ray_session import ray_session

                self._resources.enter_context(
                    ray_session(self.config.ray_address, scratch.ray, self.config.workers)
                )
                self._executor = RayExecutor(
                    retry, self.config.max_calls, self.wait_for_nodes_s, self.config.grace_s
                )
        return self._executor

    @property
    def wait_for_nodes_s(self) -> float:
        """Seconds to wait for a node that can run the tasks; Ray on this machine never gets another one."""
        return self.config.wait_for_nodes_s if self.config.ray_address is not None else 0.0

    def shared_folder(self, store: Store) -> str:
        """Returns a folder that all nodes see: scratch here, inside the dataset on a cluster."""
        assert self._scratch is not None, "the executor comes first"
        return (
            str(self._scratch.folder / "train")
            if self.config.ray_address is None
            else f"{store.url}/runs/ray-train"
        )

    def planned_workers(self, needs: TaskResources, members: int = 1) -> int:
        """Returns the tasks at a time that shard sizes are planned for.

        They are those of all machines that will work: of every member of a job array, of a whole cluster.

        Args:
            needs: What one task needs.
            members: Commands like this one that share the shards, each on a machine of its own.

        Raises:
            EnvironmentProblem: Ray is not installed or does not answer.
            UsageError: No node of the cluster can run such a task yet, and `--workers` is not given.
        """
        config = self.config
        if config.workers is not None:
            return config.workers * members
        if config.executor == "local" or config.ray_address is None:
            return usable_cores() * members
        assert self.executor.name == "ray"  # connects
        from pipeline.ray_nodes import cluster_places

        if not (found := cluster_places(needs)):
            raise UsageError(
                f"the cluster at {config.ray_address} has no node yet for a task, which needs "
                f"{described(needs)}, and shards are cut for the tasks that will run at a time, once and for "
                "all: give their number with --workers"
            )
        return found
