"""Owns the tasks that wait for their turn, and the rules by which a failed one gets another.

Failures are counted per shard and class (`pipeline.executor.TaskFailure.kind`), each against a bound of its
own: a shard whose nodes are taken away again and again has done nothing wrong, and keeps the tries that it
has for failures of its own.
"""

from __future__ import annotations

import collections
import heapq
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from pipeline.executor import Task, TaskOutcome

LOGGER = logging.getLogger(__name__)

FailureKind = Literal["raised", "transient", "timeout", "died", "memory", "node_lost"]
"""Why an attempt failed: an error of the input or the code · the store did not answer · the deadline passed ·
the process ended without an answer · memory ran out · the node went away."""

LOST_NODES = 20
"""Nodes that a shard may lose: spot nodes live for hours and a shard takes minutes, so that twenty in a row
say that the shard itself brings them down."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often a shard may fail, and how long it waits before the next attempt.

    Attributes:
        transient: attempts that may end with a store that does not answer.
        timeout: attempts that may overrun the deadline.
        died: attempts whose process may end without an answer.
        memory: attempts that may run out of memory.
        node_lost: attempts that may be lost with their node.
        pause_s: pause after the first failure of a class, doubled with every further one.
        max_pause_s: the longest pause.
    """

    transient: int = 3
    timeout: int = 3
    died: int = 3
    memory: int = 3
    node_lost: int = LOST_NODES
    pause_s: float = 0.5
    max_pause_s: float = 30.0

    def tries(self, kind: FailureKind) -> int:
        """Returns how many attempts of a shard may end so; the last of them is the shard's."""
        return 1 if kind == "raised" else int(getattr(self, kind))

    def longest_pause_s(self, failures: int) -> float:
        """Returns the bound of the pause after that many failures of one class."""
        return float(min(self.pause_s * 2 ** min(failures - 1, 60), self.max_pause_s))


class RetryConfig(BaseModel):
    """Attempts per shard and class of failure, and the pauses between them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    transient: int | None = Field(
        default=None, ge=1, description="Tries where the store does not answer; unset: compute.max_attempts."
    )
    timeout: int | None = Field(
        default=None, ge=1, description="Tries where the deadline passes; unset: compute.max_attempts."
    )
    died: int | None = Field(
        default=None, ge=1, description="Tries where the process ends; unset: compute.max_attempts."
    )
    memory: int | None = Field(
        default=None, ge=1, description="Tries where memory runs out; unset: compute.max_attempts."
    )
    node_lost: int = Field(
        default=LOST_NODES, ge=1, description="Tries that may be lost with their node; the others stay."
    )
    pause_s: float = Field(
        default=0.5, ge=0, description="Pause in seconds after a failure; doubled with every further one."
    )
    max_pause_s: float = Field(default=30.0, ge=0, description="The longest pause in seconds.")

    def policy(self, max_attempts: int) -> RetryPolicy:
        """Returns the numbers, max_attempts for those that are unset."""
        values = self.model_dump()
        return RetryPolicy(
            **{name: max_attempts if value is None else value for name, value in values.items()}
        )


@dataclass
class Backlog:
    """Tasks in the order in which they may begin: new ones first, then failed ones when their pause is over.

    Args:
        tasks: new ones; each is asked for once, so that they may be made when they are asked for.
        policy: when a failed one gets another attempt.
        draw: gives numbers in [0, 1) for the pauses.
        waits: is told the shard of every failed one that gets another attempt.
    """

    tasks: Sequence[Task]
    policy: RetryPolicy
    draw: random.Random = field(default_factory=random.Random)
    waits: Callable[[int], None] = lambda shard: None

    def __post_init__(self) -> None:
        self._next = 0  # new task
        # A heap of failed ones; the second entry is unique, so that tasks are never compared.
        self._waiting: list[tuple[float, int, int, Task]] = []
        self._number = 0
        self._failures: dict[int, collections.Counter[FailureKind]] = {}

    def __len__(self) -> int:
        return len(self.tasks) - self._next + len(self._waiting)

    def wait_s(self) -> float:
        """Returns the seconds until a task may begin, 0 where one may now; there must be one."""
        if self._next < len(self.tasks):
            return 0.0
        return max(0.0, self._waiting[0][0] - time.monotonic())

    def pop(self) -> tuple[Task, int]:
        """Returns the next task and the number of its attempt, from 1."""
        if self._next < len(self.tasks):
            self._next += 1
            return self.tasks[self._next - 1], 1
        _, _, attempt, task = heapq.heappop(self._waiting)
        return task, attempt

    def again(self, task: Task, outcome: TaskOutcome) -> bool:
        """Puts a failed task back where the policy has another attempt for it, and says whether.

        The pause is drawn between half the bound and the bound, so that shards that failed together, at one
        store, do not come back together.
        """
        failure = outcome.failure
        if failure is None:
            return False
        counts = self._failures.setdefault(task.shard, collections.Counter())
        counts[failure.kind] += 1
        if counts[failure.kind] >= self.policy.tries(failure.kind):
            return False
        pause_s = self.policy.longest_pause_s(counts[failure.kind]) * (0.5 + self.draw.random() / 2)
        LOGGER.warning(
            "shard %d, attempt %d: %s: %s; trying again in %.1f s",
            task.shard,
            outcome.attempts,
            failure.kind,
            failure.message,
            pause_s,
        )
        heapq.heappush(self._waiting, (time.monotonic() + pause_s, self._number, outcome.attempts + 1, task))
        self._number += 1
        self.waits(task.shard)
        return True

    def retried(self, shard: int, last: FailureKind | None) -> dict[str, int]:
        """Forgets a shard that has ended; returns how often it was tried again, by class of failure.

        Args:
            shard: the shard.
            last: class of the failure with which it ended, which was not tried again.
        """
        counts = self._failures.pop(shard, collections.Counter())
        if last is not None:
            counts[last] -= 1
        return {kind: number for kind, number in counts.items() if number > 0}
