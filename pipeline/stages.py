"""Drives the stages that consist of independent shards: choose what is left, run it, record it.

A shard that is done is skipped, so that every command is also the command that resumes it.
"""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, overload

from pipeline.drain import Drain
from pipeline.executor import Executor, Task, TaskFailure, TaskFunction, TaskOutcome, TaskResources
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.shard_spec import shards_text
from storage.errors import FpipeError, StoreUnusableError

FAILED_OBJECTS_EXIT_CODE = 42
MAX_NAMED = 20
"""Shards, or ranges of them, that a message names; the events of the run have all."""
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
        failed: shard → failure without its trace, for those that could not be done.
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
        names = shards_text(result.failed, MAX_NAMED)
        super().__init__(
            f"{result.stage}: {len(result.failed)} of {result.shards} shards failed (--shard {names}); "
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

    The first SIGTERM or Ctrl-C begins a drain (see `pipeline.drain`); at its end the signal does what the
    caller's handler makes of it.

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
    tasks = _Tasks(left, arguments)
    said: set[str] = set()
    with Drain(executor.grace_s, lambda drain: _tell_drain(drain, stage, progress, run)) as drain:
        outcomes = executor.run(function, tasks, resources, run.live, drain)
        try:
            for outcome in outcomes:
                run.live.ended(outcome)
                drain.running.discard(outcome.shard)
                if outcome.result is None:
                    _take_failure(stage, outcome, result, progress, run, said)
                    continue
                _take_done(outcome, outcome.result, result, run)
                figures = {"failed": result.objects_failed} if result.objects_failed else {}
                work = 0 if outcome.result.get("skipped") else per_object * int(outcome.result["n_ok"])
                progress.advance(sizes[outcome.shard], work, **figures)
        finally:
            getattr(outcomes, "close", lambda: None)()  # abandons what is still running
            progress.finish()
            result.seconds = time.monotonic() - began
            run.summary = result.as_json()
    if drain.asked:
        _tell_drained(drain, stage, progress, run)
        drain.act()
    if result.failed:
        raise ShardsFailedError(result)
    return result


class _Tasks(Sequence[Task]):
    """The tasks of shards, each made when its turn comes: a million of them would take half a gigabyte.

    Whoever asks for one again gets another attempt.
    """

    def __init__(self, shards: Sequence[int], arguments: Mapping[str, Any]) -> None:
        self._shards, self._arguments = shards, arguments

    def __len__(self) -> int:
        return len(self._shards)

    @overload
    def __getitem__(self, position: int) -> Task: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[Task]: ...
    def __getitem__(self, position: int | slice) -> Task | Sequence[Task]:
        """Makes the task of one shard, or says which tasks of some are to be made."""
        if isinstance(position, slice):
            return _Tasks(self._shards[position], self._arguments)
        shard = self._shards[position]
        return Task(shard, {"shard": shard, "attempt": new_attempt(), **self._arguments})


def _take_failure(
    stage: str, outcome: TaskOutcome, result: StageResult, progress: Progress, run: Run, said: set[str]
) -> None:
    """Counts and records a shard that could not be done.

    Raises:
        StoreUnusableError: no other shard could be done either.
    """
    failure = outcome.failure
    assert failure is not None
    progress.say(f"{stage}: shard {outcome.shard} failed: {_text(failure, said)}")
    result.failed[outcome.shard] = replace(failure, trace="")  # it is in the event
    run.event(
        "shard_failed",
        shard=outcome.shard,
        kind=failure.kind,
        error=failure.message,
        trace=failure.trace,
        **_attempts(outcome),
    )
    if failure.ends_run:
        raise StoreUnusableError(f"{stage}: {failure.message.partition(': ')[2]}")


def _take_done(outcome: TaskOutcome, counts: Mapping[str, Any], result: StageResult, run: Run) -> None:
    """Counts and records a shard that is done."""
    result.done += 1
    result.objects_ok += int(counts["n_ok"])
    result.objects_failed += int(counts["n_failed"])
    run.event("shard_done", **{"shard": outcome.shard, **counts, **_attempts(outcome)})


def _attempts(outcome: TaskOutcome) -> dict[str, Any]:
    """Returns what an event says of a shard's attempts."""
    facts: dict[str, Any] = {"attempts": outcome.attempts, "node": outcome.node}
    if outcome.usage is not None:
        facts["usage"] = asdict(outcome.usage)
    if outcome.retried:
        facts["retried"] = dict(outcome.retried)
    return facts


def _tell_drain(drain: Drain, stage: str, progress: Progress, run: Run) -> None:
    """Says, in the terminal and in the run's records, that the run was asked to stop."""
    assert drain.number is not None
    name = "Ctrl-C" if drain.number == signal.SIGINT else drain.number.name
    progress.say(
        f"{stage}: draining, {drain.n_running} shards running, up to {drain.grace_s:g} s; "
        f"{name} again to stop now"
    )
    run.event("drain", signal=drain.number.name, shards=sorted(drain.running), grace_s=drain.grace_s)
    run.live.draining(drain.grace_s)
    run.beat_soon()


def _tell_drained(drain: Drain, stage: str, progress: Progress, run: Run) -> None:
    """Says what came of the shards that were running; those whose attempt failed are left, too."""
    abandoned = sorted(drain.running)
    names = f" ({shards_text(abandoned, MAX_NAMED)})" * bool(abandoned)
    ended = drain.n_running - len(abandoned)
    progress.say(
        f"{stage}: drained: {ended} shards that were running ended, {len(abandoned)} abandoned{names}"
    )
    run.event("drained", ended=ended, abandoned=abandoned)


def _text(failure: TaskFailure, said: set[str]) -> str:
    """Returns the message, with its traceback when it is a bug (exit code 1) that was not said; adds it."""
    if failure.exit_code != 1 or failure.message in said or len(said) >= MAX_SAID:
        return failure.message
    said.add(failure.message)
    return f"{failure.message}\n{failure.trace}".rstrip()
