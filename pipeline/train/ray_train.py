"""Runs train-shared under Ray Train: one worker per rank, restarted from the dataset's own checkpoints.

Ray Train's checkpoint store is not used: `ray.train.report` may return before a checkpoint is registered,
and a run name reused with another config resumes silently. The dataset's checkpoints know their config's
hash.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import ray
import ray.train
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer

from pipeline.executor import TaskResources
from pipeline.progress import Progress
from pipeline.ray_nodes import await_nodes
from pipeline.train.job import TrainResources, train_rank
from storage.errors import FpipeError, StaleSnapshotError, TransientError

POLL_S = 1.0
"""Seconds between two looks of the driver at the workers' progress."""


class TrainingFailedError(FpipeError, RuntimeError):
    """The training could not be finished, restarts included."""


def train_with_ray(
    root_url: str,
    train: dict[str, Any],
    total_steps: int,
    workers: int,
    resources: TrainResources,
    needs: TaskResources,
    wait_for_nodes_s: float,
    storage_path: str,
    max_attempts: int,
    progress: Progress,
    monitor: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Trains on the connected Ray cluster and returns the summary of train_rank.

    Args:
        root_url: the dataset; every worker must see it.
        train: the train section of the config, as plain values.
        total_steps: for the progress.
        workers: ranks.
        resources: what a rank computes with.
        needs: what Ray gives a rank.
        wait_for_nodes_s: seconds to wait while no node can run a rank.
        storage_path: where Ray Train keeps its own records; all nodes must see it.
        max_attempts: starts of the worker group, for failures that may pass.
        progress: told about steps and losses.
        monitor: what rank 0 records on the way (MonitorConfig).

    Raises:
        EnvironmentProblem: no node can run a rank, and none has come in time.
        FpipeError: what a worker raised, when it is the project's own.
        TrainingFailedError: any other failure that restarts did not mend.
    """
    await_nodes(needs, wait_for_nodes_s)
    board = _Board.remote()  # type: ignore[attr-defined]  # ray.remote adds it
    amounts = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": needs.memory_bytes} | dict(needs.custom)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "root_url": root_url,
            "train": train,
            "resources": resources,
            "board": board,
            "monitor": monitor,
        },
        # Objects and flags travel between the ranks' CPUs, gradients between their devices.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if needs.gpus else "gloo")
        if workers > 1
        else _OneRank(),
        scaling_config=ray.train.ScalingConfig(  # type: ignore[call-arg]
            num_workers=workers,
            use_gpu=needs.gpus > 0,
            resources_per_worker={name: amount for name, amount in amounts.items() if amount},
            # mypy reads the class of Ray Train's first version, which has no labels
            label_selector=dict(needs.labels) or None,
        ),
        run_config=ray.train.RunConfig(
            name=f"train-{time.time_ns()}",
            storage_path=storage_path,
            failure_config=ray.train.FailureConfig(max_failures=max_attempts - 1),
        ),
    )
    progress.start("train-shared", total_steps, "steps")
    try:
        with _watched(board, progress):
            trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _permanent(board) or _cause(error) from error
    finally:
        progress.finish()
    summary: dict[str, Any] = ray.get(board.summary.remote())
    return summary


class _OneRank(TorchConfig):
    """Sets the device up, and no process group.

    One rank needs nobody, but torch's group would open a port on every interface all the same, and its store
    asks nobody for a token.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        return Backend


@ray.remote(num_cpus=0)
class _Board:
    """Where the workers leave their progress and the driver reads it."""

    def __init__(self) -> None:
        self._step = 0
        self._figures: dict[str, Any] = {}
        self._summary: dict[str, Any] = {}
        self._failure: tuple[str, int] | None = None

    def post(self, step: int, figures: dict[str, Any]) -> None:
        self._step, self._figures = step, figures

    def finish(self, summary: dict[str, Any]) -> None:
        self._summary = summary

    def look(self) -> tuple[int, dict[str, Any]]:
        return self._step, self._figures

    def fail(self, message: str, exit_code: int) -> None:
        self._failure = self._failure or (message, exit_code)

    def failure(self) -> tuple[str, int] | None:
        return self._failure

    def summary(self) -> dict[str, Any]:
        return self._summary


def _worker(config: dict[str, Any]) -> None:
    """Body of one rank."""
    context = ray.train.get_context()
    rank, board = context.get_world_rank(), config["board"]
    if failed := _permanent(board):
        raise failed  # Ray Train starts the group again whatever the failure was
    posted = 0.0

    def on_step(step: int, figures: dict[str, Any]) -> None:
        nonlocal posted
        if time.monotonic() - posted >= POLL_S / 2:
            posted = time.monotonic()
            board.post.remote(step, figures)

    world, resources, monitor = context.get_world_size(), config["resources"], config["monitor"]
    try:
        summary = train_rank(config["root_url"], config["train"], rank, world, resources, on_step, monitor)
    except FpipeError as error:
        if not isinstance(error, (TransientError, StaleSnapshotError)):
            ray.get(board.fail.remote(f"{type(error).__name__}: {error}", error.exit_code))
        raise
    if rank == 0:
        ray.get([board.post.remote(summary["steps"], {}), board.finish.remote(summary)])


@contextlib.contextmanager
def _watched(board: Any, progress: Progress) -> Iterator[None]:
    """Moves the progress along while the block runs."""
    ended = threading.Event()
    seen = 0

    def look() -> None:
        nonlocal seen
        step, figures = ray.get(board.look.remote())
        if step > seen:
            # The first step that is seen may be that of a checkpoint; the workers' start is not work, either.
            progress.advance(step - seen, 0 if not seen else None, **figures)
            seen = step

    def watch() -> None:
        while not ended.wait(POLL_S):
            look()

    watcher = threading.Thread(target=watch, daemon=True, name="fpipe-train-watch")
    watcher.start()
    try:
        yield
        look()
    finally:
        ended.set()
        watcher.join(timeout=5.0)


def _permanent(board: Any) -> FpipeError | None:
    """Returns what a worker has found that no other attempt would mend."""
    failure: tuple[str, int] | None = ray.get(board.failure.remote())
    if failure is None:
        return None
    error = TrainingFailedError(f"train-shared: {failure[0]}")
    error.exit_code = failure[1]
    return error


def _cause(error: BaseException) -> FpipeError:
    """Returns the project's own error of a worker if there is one."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, FpipeError):
            return cause
    lines = [line for line in str(error).splitlines() if line.strip()]
    return TrainingFailedError(f"train-shared: {lines[-1] if lines else type(error).__name__}")
