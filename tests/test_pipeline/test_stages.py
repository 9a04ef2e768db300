"""The driver of stages: what is recorded, and what progress is told, when shards end well or not."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pipeline.executor import Task, TaskFailure, TaskFunction, TaskOutcome, TaskResources
from pipeline.run import record_run
from pipeline.stages import MAX_SAID, ShardsFailedError, StageResult, _text, run_shards
from storage.errors import StoreUnusableError
from storage.store import Store


class Listening:
    """Keeps what a stage tells."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def start(self, stage: str, total: int, unit: str, done: int = 0, work_unit: str = "") -> None:
        self.told.append((stage, total, unit, done, work_unit))

    def advance(self, amount: int = 1, work: float | None = None, **figures: Any) -> None:
        self.told.append((amount, work, figures))

    def finish(self) -> None:
        self.told.append(("finish",))

    def say(self, message: str) -> None:
        self.told.append((message,))


class Scripted:
    """Gives every shard the outcome that a test wrote down."""

    name = "scripted"
    grace_s = 0.0

    def __init__(self, outcomes: dict[int, dict[str, Any] | TaskFailure]) -> None:
        self._outcomes = outcomes

    def run(
        self, function: TaskFunction, tasks: Sequence[Task], resources: TaskResources, *_: Any
    ) -> Iterator[TaskOutcome]:
        for task in tasks:
            value = self._outcomes[task.shard]
            is_failure = isinstance(value, TaskFailure)
            yield TaskOutcome(
                task.shard, 1, None if is_failure else value, value if is_failure else None, node="n"
            )


def run_stage(store: Store, outcomes: dict[int, Any], progress: Listening) -> StageResult:
    with record_run(store, "render", {}) as run:
        return run_shards(
            "render",
            Scripted(outcomes),
            lambda **_: {},
            {},
            shards=range(4),
            sizes=dict.fromkeys(range(4), 5),
            done=frozenset({0}),
            resources=TaskResources(),
            progress=progress,
            run=run,
            work_per_object=(160, "views"),
        )


def events(store: Store) -> list[dict[str, Any]]:
    (name,) = store.list("runs/render")
    return [json.loads(line) for line in store.read(f"runs/render/{name}/events-0000.jsonl").splitlines()]


def test_a_lost_shard_is_recorded_and_the_others_go_on(tmp_path):
    store, progress = Store(tmp_path), Listening()
    lost = TaskFailure("died", "the process ended with code -9", 3, "trace")
    with pytest.raises(ShardsFailedError, match=r"1 of 4 shards failed \(--shard 2\)") as error:
        run_stage(store, {1: {"n_ok": 5, "n_failed": 0}, 2: lost, 3: {"n_ok": 4, "n_failed": 1}}, progress)
    assert (error.value.result.done, error.value.result.objects_ok, error.value.exit_code) == (2, 9, 3)
    found = events(store)
    assert [event["event"] for event in found] == ["shard_done", "shard_failed", "shard_done", "error"]
    assert (found[1]["shard"], found[1]["kind"], found[1]["error"]) == (2, "died", lost.message)


def test_the_traceback_of_a_bug_is_said_once_and_not_kept(tmp_path):
    store, progress = Store(tmp_path), Listening()
    bug = TaskFailure("raised", "KeyError: 'x'", 1, "Traceback of it")
    with pytest.raises(ShardsFailedError, match=r"\(--shard 1-3\)") as error:
        run_stage(store, dict.fromkeys((1, 2, 3), bug), progress)
    said = [message for (message,) in (told for told in progress.told if len(told) == 1)]
    assert [message.endswith("Traceback of it") for message in said[:3]] == [True, False, False]
    assert {failure.trace for failure in error.value.result.failed.values()} == {""}
    assert [event.get("trace") for event in events(store)[:3]] == ["Traceback of it"] * 3


def test_the_traceback_of_a_bug_is_said_once(tmp_path):
    progress = Listening()
    bugs = [TaskFailure("raised", f"KeyError: '{name}'", 1, "Traceback of it") for name in "xyx"]
    with pytest.raises(ShardsFailedError):
        run_stage(Store(tmp_path), dict(enumerate(bugs, 1)), progress)
    said = [told[0] for told in progress.told if len(told) == 1 and "KeyError" in told[0]]
    assert [message.endswith("Traceback of it") for message in said] == [True, True, False]


def test_many_failures_cost_little_and_make_a_short_error():
    said: set[str] = set()
    failures = [TaskFailure("died", f"the process of shard {n} ended", 1, "trace") for n in range(100_000)]
    began = time.monotonic()
    shown = sum(_text(failure, said).endswith("trace") for failure in failures)
    assert time.monotonic() - began < 5, "it was minutes when each was compared with all before"
    assert shown == len(said) == MAX_SAID
    every_other = dict(zip(range(0, 200_000, 2), failures, strict=True))
    error = ShardsFailedError(StageResult("render", 200_000, failed=every_other))
    assert str(error) == (
        "render: 100000 of 200000 shards failed (--shard 0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,"
        "30,32,34,36,38,…); shard 0: the process of shard 0 ended"
    )


def test_a_store_that_refuses_this_machine_ends_the_run(tmp_path):
    refused = TaskFailure("raised", "StoreUnusableError: s3://b/k: ExpiredToken: renew", 3, ends_run=True)
    counts = {"n_ok": 2, "n_failed": 0}
    with pytest.raises(StoreUnusableError, match=r"^render: s3://b/k: ExpiredToken: renew$"):
        run_stage(Store(tmp_path), {1: counts, 2: refused, 3: counts}, Listening())
    assert [event["event"] for event in events(Store(tmp_path))] == ["shard_done", "shard_failed", "error"]


def test_progress_is_told_objects_work_and_failures(tmp_path):
    progress = Listening()
    results = {
        1: {"n_ok": 5, "n_failed": 0},
        2: {"n_ok": 3, "n_failed": 2},
        3: {"n_ok": 5, "n_failed": 0, "skipped": True},
    }
    run_stage(Store(tmp_path), results, progress)
    assert progress.told == [
        ("render", 20, "objects", 5, "views"),
        (5, 800, {}),
        (5, 480, {"failed": 2}),
        (5, 0, {"failed": 2}),
        ("finish",),
    ]
