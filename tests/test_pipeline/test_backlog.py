"""Which task comes next, and when a failed one gives up."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.backlog import Backlog, FailureKind, RetryConfig, RetryPolicy
from pipeline.config import load_config
from pipeline.executor import Task, TaskFailure, TaskOutcome

QUICK = RetryPolicy(pause_s=0.0)


def failed(shard: int, attempt: int, kind: FailureKind) -> TaskOutcome:
    return TaskOutcome(shard, attempt, failure=TaskFailure(kind, "something"))


def attempts_until_given_up(policy: RetryPolicy, kinds: list[FailureKind]) -> int:
    """Fails in that order, the last class again and again."""
    backlog = Backlog([Task(7, {})], policy)
    for number in range(1, 1000):
        task, attempt = backlog.pop()
        assert attempt == number
        if not backlog.again(task, failed(7, attempt, kinds[min(number, len(kinds)) - 1])):
            return number
    raise AssertionError("it is never given up")


@pytest.mark.parametrize(
    ("kinds", "attempts"),
    [
        (["raised"], 1),
        (["transient"], 3),
        (["timeout"], 3),
        (["died"], 3),
        (["memory"], 3),
        (["node_lost"], 20),
        # Lost nodes leave the other tries as they are: 10 + 3.
        (["node_lost"] * 10 + ["died"], 13),
        # Each class is counted for itself: died, transient, died, transient, died.
        (["died", "transient", "died", "transient", "died"], 5),
    ],
)
def test_every_class_of_failure_has_its_own_tries(kinds, attempts):
    assert attempts_until_given_up(QUICK, kinds) == attempts


def test_a_shard_says_what_was_tried_again():
    backlog = Backlog([Task(7, {})], QUICK)
    for number, kind in enumerate(["node_lost", "died", "died"], 1):
        task, _ = backlog.pop()
        assert backlog.again(task, failed(7, number, kind))
    task, _ = backlog.pop()
    assert not backlog.again(task, failed(7, 4, "died"))
    assert backlog.retried(7, "died") == {"node_lost": 1, "died": 2}
    assert backlog.retried(7, None) == {}, "it is forgotten"


@pytest.mark.parametrize(("failures", "pause_s"), [(1, 0.5), (2, 1.0), (3, 2.0), (20, 30.0), (5000, 30.0)])
def test_pauses_double_up_to_a_bound(failures, pause_s):
    assert RetryPolicy().longest_pause_s(failures) == pause_s


def test_shards_that_failed_together_come_back_one_by_one():
    tasks = [Task(shard, {}) for shard in range(200)]
    backlog = Backlog(tasks, RetryPolicy(pause_s=100.0, max_pause_s=100.0), random.Random(0))
    for task in tasks:
        assert backlog.pop() == (task, 1)
        assert backlog.again(task, failed(task.shard, 1, "transient"))
    pauses = []
    while len(backlog):
        pauses.append(backlog.wait_s())
        backlog.pop()
    assert pauses == sorted(pauses), "the first that may begin comes first"
    assert 49 < pauses[0] < 55
    assert 95 < pauses[-1] <= 100
    assert len({round(pause) for pause in pauses}) > 40


class Made(Sequence[Task]):
    """Makes tasks, and keeps none."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __len__(self) -> int:
        return 5

    def __getitem__(self, position: Any) -> Any:
        self.made.append(position)
        return Task(10 + position, {})


def test_a_task_is_made_when_its_turn_comes_and_tried_again_as_it_is():
    tasks = Made()
    backlog = Backlog(tasks, QUICK)
    first, _ = backlog.pop()
    assert (tasks.made, len(backlog), backlog.wait_s()) == ([0], 4, 0.0)
    assert backlog.again(first, failed(first.shard, 1, "died"))
    shards = [backlog.pop()[0].shard for _ in range(4)]
    assert shards == [11, 12, 13, 14], "new ones come first"
    again, attempt = backlog.pop()
    assert again is first
    assert (attempt, len(backlog), tasks.made) == (2, 0, [0, 1, 2, 3, 4])


def test_the_configured_numbers_are_used():
    settings = ["compute.max_attempts=5", "compute.retry.timeout=1", "compute.retry.node_lost=50"]
    compute = load_config({}, settings=settings).compute
    policy = compute.retry.policy(compute.max_attempts)
    assert policy == RetryPolicy(5, 1, 5, 5, 50)
    assert RetryConfig().policy(3) == RetryPolicy()
