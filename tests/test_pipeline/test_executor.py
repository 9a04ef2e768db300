"""LocalExecutor against real faults; other processes import the tasks from tests.conformance.faults."""

from __future__ import annotations

import time

from pipeline.backlog import RetryPolicy
from pipeline.executor import Task, TaskResources
from pipeline.local_executor import LocalExecutor
from tests.conformance import faults


def run(function, count=3, workers=2, deadline_s=None, attempts=2, **arguments):
    tasks = [Task(shard, {"shard": shard, **arguments}) for shard in range(count)]
    retry = RetryPolicy(attempts, attempts, attempts, attempts)
    outcomes = LocalExecutor(workers, retry).run(function, tasks, TaskResources(deadline_s=deadline_s))
    return {outcome.shard: outcome for outcome in outcomes}


def test_every_task_answers_once():
    outcomes = run(faults.square, count=5)
    assert {shard: outcome.result["value"] for shard, outcome in outcomes.items()} == {
        0: 0,
        1: 1,
        2: 4,
        3: 9,
        4: 16,
    }


def test_an_error_is_reported_with_its_exit_code_and_the_others_go_on():
    outcomes = run(faults.refuse_shard_one)
    assert outcomes[1].failure.kind == "raised"
    assert outcomes[1].failure.exit_code == 4
    assert outcomes[1].attempts == 1
    assert "StoreMismatchError: shard 1 is refused" in outcomes[1].failure.message
    assert outcomes[0].result is not None
    assert outcomes[2].result is not None


def test_a_killed_process_is_tried_again(tmp_path):
    outcomes = run(faults.die_once, folder=str(tmp_path))
    assert all(outcome.result is not None for outcome in outcomes.values())
    assert outcomes[1].attempts == 2


class Watching:
    """Keeps what an executor tells."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def started(self, shard: int, attempt: int) -> None:
        self.told.append((f"attempt {attempt}", shard))

    def waits(self, shard: int) -> None:
        self.told.append(("waits", shard))


def test_whoever_watches_is_told_of_a_shard_that_waits_for_another_attempt(tmp_path):
    tasks = [Task(shard, {"shard": shard, "folder": str(tmp_path)}) for shard in range(3)]
    watching = Watching()
    assert len(list(LocalExecutor(1).run(faults.die_once, tasks, TaskResources(), watching))) == 3
    assert watching.told == [
        ("attempt 1", 0),
        ("attempt 1", 1),
        ("waits", 1),
        ("attempt 1", 2),
        ("attempt 2", 1),
    ]


def test_a_task_that_always_dies_is_given_up():
    outcomes = run(faults.die, count=1)
    assert outcomes[0].failure.kind == "died"
    assert outcomes[0].attempts == 2
    assert "-9" in outcomes[0].failure.message


def test_what_a_task_logs_reaches_the_driver(caplog):
    outcomes = run(faults.warn_and_square, count=3)
    assert sorted(outcome.result["value"] for outcome in outcomes.values()) == [0, 1, 4]
    lines = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    assert sorted(lines) == [("tests.faults", "WARNING", f"shard {shard} at 50% {{}}") for shard in range(3)]


def test_a_hanging_task_ends_itself_at_its_deadline():
    began = time.monotonic()
    outcomes = run(faults.hang, count=1, deadline_s=1.0, attempts=1)
    assert outcomes[0].failure.kind == "timeout"
    assert "deadline of 1 s" in outcomes[0].failure.message
    assert time.monotonic() - began < 60


def test_an_exit_before_the_deadline_is_no_timeout():
    outcomes = run(faults.leave, count=1, deadline_s=60.0, attempts=1)
    assert outcomes[0].failure.kind == "died"
    assert "code 1" in outcomes[0].failure.message


def test_memory_that_ran_out_is_a_class_of_its_own(tmp_path):
    outcomes = run(faults.memory_once, folder=str(tmp_path))
    assert outcomes[1].retried == {"memory": 1}
    assert outcomes[1].attempts == 2
    assert outcomes[0].retried == {}


def test_closing_the_iterator_abandons_what_runs(tmp_path):
    tasks = [Task(shard, {"shard": shard, "folder": str(tmp_path)}) for shard in range(2)]
    outcomes = LocalExecutor(2).run(
        faults.first_answers_second_writes_its_pid_and_hangs, tasks, TaskResources()
    )
    assert next(outcomes).shard == 0
    pid = faults.wait_for_pid(tmp_path)
    outcomes.close()
    assert not faults.is_alive(pid)
