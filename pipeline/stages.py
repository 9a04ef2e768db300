"""Drives the stages that consist of independent shards: choose what is left, run it, record it.

A shard that is done is skipped, so that every command is also the command that resumes it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.executor import Executor, Task, TaskFailure, TaskFunction, TaskResources
from pipeline.progress import Progress
from pipeline.run import Run
from storage.errors import FpipeError, StoreUnusableError

FAILED_OBJECTS_EXIT_CODE = 42
MAX_NAMED = 20
"""Failed shards that an error names; the events of the run have all."""
MAX_SAID = 1000
"""Different bugs whose traceback is shown; the events of the run have all."""


@dataclass
class StageResult:
    """What a command did in one stage.

    Attributes:
        stage: name of the stage.
        shards: shards that were asked for.
        skipped: those that were done before.
        done: those done now.
        failed: shard → failure, for those that could not be done.
        objects_ok: objects completed now.
        objects_failed: objects of the shards that were asked for which are recorded as failed; while the
            stage runs, those of the shards done now.
        seconds: wall time.
        left: shards of the whole stage that are not done yet.
    """

    stage: str
    shards: int
    skipped: int = 0
    done: int = 0
    failed: dict[int, TaskFailure] = field(default_factory=dict)
    objects_ok: int = 0
    objects_failed: int = 0
    seconds: float = 0.0
    left: int = 0

    def as_json(self) -> dict[str, Any]:
        """Returns the result as plain JSON values."""
        return {
            "stage": self.stage,
            "shards": self.shards,
            "skipped": self.skipped,
            "done": self.done,
            "failed": {str(shard): failure.message for shard, failure in self.failed.items()},
            "objects_ok": self.objects_ok,
            "objects_failed": self.objects_failed,
            "seconds": round(self.seconds, 3),
            "left": self.left,
        }

    @property
    def exit_code(self) -> int:
        """0, or 42 when objects of these shards are recorded as failed."""
        return FAILED_OBJECTS_EXIT_CODE if self.objects_failed else 0


class ShardsFailedError(FpipeError, RuntimeError):
    """Shards of a stage could not be done; what is committed stays. Carries the stage's result."""

    def __init__(self, result: StageResult) -> None:
        shard, failure = next(iter(result.failed.items()))
        numbers = sorted(result.failed)
        more = f" and {len(numbers) - MAX_NAMED} more" if len(numbers) > MAX_NAMED else ""
        names = ",".join(map(str, numbers[:MAX_NAMED]))
        super().__init__(
            f"{result.stage}: {len(numbers)} of {result.shards} shards failed (--shard {names}{more}); "
            f"shard {shard}: {failure.message}"
        )
        self.result = result
        self.exit_code = failure.exit_code


def new_attempt() -> str:
    """Returns an id that tells one writer of a shard from all others."""
    return secrets.token_hex(8)


def run_shards(
    stage: str,
    executor: Executor,
    function: TaskFunction,
    arguments: Mapping[str, Any],
    shards: Sequence[int],
    sizes: Mapping[int, int],
    done: frozenset[int],
    resources: TaskResources,
    progress: Progress,
    run: Run,
    work_per_object: tuple[int, str] = (1, "objects"),
) -> StageResult:
    """Runs function(shard=…, attempt=…, **arguments) for the shards that are not done.

    Args:
        stage: name for progress and records.
        executor: where the tasks run.
        function: does one shard; its result holds `n_ok` and `n_failed`.
        arguments: given to every task.
        shards: those asked for.
        sizes: objects per shard.
        done: shards that are complete.
        resources: per task.
        progress: told about every shard.
        run: gets an event per shard.
        work_per_object: what the rate is shown in, e.g. (160, "views") per object.

    Raises:
        ShardsFailedError: some shards could not be done; the others are.
        StoreUnusableError: the store refuses this machine or is full; the other tasks were abandoned.
    """
    began = time.monotonic()
    progress = run.watched(progress)
    left = [shard for shard in shards if shard not in done]
    result = StageResult(stage, shards=len(shards), skipped=len(shards) - len(left))
    n_done = sum(sizes[shard] for shard in shards if shard in done)
    per_object, work_unit = work_per_object
    progress.start(stage, sum(sizes[shard] for shard in shards), "objects", n_done, work_unit)
    tasks = [Task(shard, {"shard": shard, "attempt": new_attempt(), **arguments}) for shard in left]
    said: set[str] = set()
    outcomes = executor.run(function, tasks, resources, run.live)
    try:
        for outcome in outcomes:
            run.live.ended(outcome)
            usage: dict[str, Any] = {} if outcome.usage is None else {"usage": asdict(outcome.usage)}
            if outcome.retried:
                usage["retried"] = dict(outcome.retried)
            if outcome.result is None:
                assert outcome.failure is not None
                progress.say(f"{stage}: shard {outcome.shard} failed: {_said(outcome.failure, said)}")
                result.failed[outcome.shard] = outcome.failure
                failure = {
                    "kind": outcome.failure.kind,
                    "error": outcome.failure.message,
                    "trace": outcome.failure.trace,
                }
                run.event(
                    "shard_failed",
                    shard=outcome.shard,
                    attempts=outcome.attempts,
                    node=outcome.node,
                    **usage,
                    **failure,
                )
                if outcome.failure.ends_run:
                    raise StoreUnusableError(f"{stage}: {outcome.failure.message.partition(': ')[2]}")
                continue
            result.done += 1
            result.objects_ok += int(outcome.result["n_ok"])
            result.objects_failed += int(outcome.result["n_failed"])
            run.event(
                "shard_done",
                attempts=outcome.attempts,
                node=outcome.node,
                **{"shard": outcome.shard, **outcome.result, **usage},
            )
            figures = {"failed": result.objects_failed} if result.objects_failed else {}
            work = 0 if outcome.result.get("skipped") else per_object * int(outcome.result["n_ok"])
            progress.advance(sizes[outcome.shard], work, **figures)
    finally:
        getattr(outcomes, "close", lambda: None)()  # abandons what is still running
        progress.finish()
        result.seconds = time.monotonic() - began
        run.summary = result.as_json()
    if result.failed:
        raise ShardsFailedError(result)
    return result


def _said(failure: TaskFailure, said: set[str]) -> str:
    """Returns the message, with its traceback when it is a bug (exit code 1) that was not said; adds it."""
    if failure.exit_code != 1 or failure.message in said or len(said) >= MAX_SAID:
        return failure.message
    said.add(failure.message)
    return f"{failure.message}\n{failure.trace}".rstrip()
