"""Drivers of a local Ray that are killed at random moments, each time started again with the same command."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from storage.store import Store
from tests.soak.case import SHARDS_PER_WORKER, WHOLE_LIMIT_S, Case
from tests.soak.compare import Comparison, compare
from tests.soak.leftovers import Leftovers
from tests.soak.nodes import retried
from tests.soak.work import Attempt, attempts, begun_again

DRAINED = 75
SIGTERM_SHARE = 0.25
EARLY_SHARE = 0.25
"""Of the drivers die before they have done anything, most of these while Ray starts."""
EARLY_S = 15.0
WORKERS = 2
OPTIONS = ("--executor", "ray", "--workers", str(WORKERS))


@dataclass(frozen=True)
class Plan:
    """What is killed how often.

    Attributes:
        kills: Stage → how often.
        within_s: Stage → a driver works at most so long, drawn anew each time.
    """

    kills: dict[str, int]
    within_s: dict[str, float]

    @classmethod
    def of(cls, kills: int) -> Plan:
        """Returns a plan for all stages."""
        render, training = round(0.45 * kills), round(0.15 * kills)
        each = {"render": render, "train-shared": training, "fit-objects": kills - render - training}
        return cls(each, {"render": 12.0, "train-shared": 1.5, "fit-objects": 10.0})


@dataclass
class DriversReport:
    """What became of one dataset.

    Attributes:
        shards: Of each stage.
        kills: Signal → drivers that it ended.
        commands: Stage → commands that it took.
        seconds: Of everything.
        in_flight: Shards under way when a driver was ended.
        begun_again: Shards that were computed more than once.
        published: Attempts that found their shard's file and only published it.
        gone_s: Seconds until the last process and the last file were gone, largest of all kills.
        retried: Class of failure → attempts, by the events of the runs.
        comparison: With the undisturbed dataset.
        problems: What must not be.
    """

    shards: int
    kills: dict[str, int] = field(default_factory=dict)
    commands: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    in_flight: int = 0
    begun_again: int = 0
    published: int = 0
    gone_s: float = 0.0
    retried: dict[str, int] = field(default_factory=dict)
    comparison: Comparison | None = None
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _Kill:
    """When a driver was started and ended, and when nothing of it was left (Unix times)."""

    start: float
    at: float
    gone: float

    def struck(self, attempt: Attempt) -> bool:
        """Whether an attempt of this driver was under way."""
        return attempt.began > self.start and attempt.was_running(self.at, self.gone)


@dataclass
class Killer:
    """Makes one dataset with drivers that are killed.

    Attributes:
        case: What the dataset is made of.
        root: The dataset; must not exist.
        draws: Decides when, and with which signal.
        leftovers: Knows what is running.
    """

    case: Case
    root: Path
    draws: random.Random
    leftovers: Leftovers

    def run(self, plan: Plan, undisturbed: Path) -> DriversReport:
        """Goes through the stages, and looks at what comes of it.

        Args:
            plan: What is killed how often.
            undisturbed: A finished dataset.
        """
        began = time.monotonic()
        self._report = DriversReport(self.case.shards)
        for stage, kills in plan.kills.items():
            if stage != "train-shared" and self.case.shards > SHARDS_PER_WORKER * WORKERS:
                self.case.cut(stage, self.root)
            self._check_attempts(stage, self._kill_stage(stage, kills, plan.within_s[stage]))
        report = self._report
        report.seconds = round(time.monotonic() - began, 1)
        report.comparison = compare(self.root, undisturbed, with_fits="fit-objects" in plan.kills)
        report.problems += report.comparison.problems
        return report

    def _kill_stage(self, stage: str, kills: int, within_s: float) -> list[_Kill]:
        """Runs one stage to its end, with as many kills as it lives long enough for."""
        moments: list[_Kill] = []
        code = -1
        while code:
            self._report.commands[stage] = self._report.commands.get(stage, 0) + 1
            is_early, share = self.draws.random() < EARLY_SHARE, self.draws.random()
            number = signal.SIGTERM if self.draws.random() < SIGTERM_SHARE else signal.SIGKILL
            start = time.time()
            with self.case.running(stage, self.root, *OPTIONS) as process:
                if len(moments) < kills:
                    if not is_early:
                        self._wait_for_work(process, stage)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(share * (EARLY_S if is_early else within_s))
                    if process.poll() is None:
                        moments.append(self._end(process, number, stage, start))
                        continue
                code = process.wait(WHOLE_LIMIT_S)
            if code:
                raise RuntimeError(f"{stage} ended with {code}:\n{self.case.said.read_text()[-3000:]}")
        return moments

    def _wait_for_work(self, process: subprocess.Popen[str], stage: str) -> None:
        """Waits until the driver has something under way, or has ended."""

        def signs() -> set[tuple[Path, int]]:
            files = [*self.case.notes(stage).glob("*.json"), *self.root.glob(f"runs/{stage}/*/checkpoint-*")]
            return {(path, path.stat().st_mtime_ns) for path in files if path.exists()}

        before = signs()
        while not signs() - before and process.poll() is None:
            time.sleep(0.05)

    def _end(self, process: subprocess.Popen[str], number: signal.Signals, stage: str, start: float) -> _Kill:
        """Ends a driver and waits until nothing of it is left."""
        self.leftovers.look()
        at, report = time.time(), self._report
        process.send_signal(number)
        code = process.wait(WHOLE_LIMIT_S)
        # A driver that has hardly begun has no handler for SIGTERM yet.
        expected = {-signal.SIGKILL} if number == signal.SIGKILL else {DRAINED, -signal.SIGTERM}
        if code not in expected:
            report.problems.append(f"{stage}: {number.name} ended the driver with code {code}")
        report.kills[number.name] = report.kills.get(number.name, 0) + 1
        left, seconds = self.leftovers.nothing(self.root)
        report.problems += [f"left after {number.name} in {stage}: {text}" for text in left]
        report.gone_s = round(max(report.gone_s, seconds), 1)
        return _Kill(start, at, time.time())

    def _check_attempts(self, stage: str, moments: list[_Kill]) -> None:
        """Counts shards that were begun again; each must have been under way when a driver was ended."""
        found, report = attempts(self.case.notes(stage)), self._report
        report.begun_again += len(begun_again(found))
        report.published += sum(attempt.skipped for attempt in found)
        report.in_flight += sum(kill.struck(attempt) for kill in moments for attempt in found)
        report.retried = dict(Counter(report.retried) + Counter(retried(Store(self.root), stage)))
        last = {attempt.shard: attempt for attempt in found}
        for attempt in found:
            is_lost = attempt is not last[attempt.shard] and not attempt.skipped
            if is_lost and not any(kill.struck(attempt) for kill in moments):
                report.problems.append(f"{stage}: shard {attempt.shard} was begun again without a kill")
