"""One chaos run: many processes on one dataset, killed and paused at random, then the count."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any

from storage.errors import LeaseHeldError, TransientError
from storage.plan import shard_rows
from tests.chaos.actors import Setting, Task, ended_tasks, read_objects, replace_shards, write_shards
from tests.chaos.checker import Findings, check
from tests.chaos.content import OBJECTS_PER_SHARD, plan_header
from tests.chaos.logbook import read_logs
from tests.chaos.running import RunningProxy

_PRELOAD = ["tests.chaos.actors", "tests.chaos.ours", "tests.chaos.naive", "s3fs", "zarr", "numcodecs.zstd"]
_COUNTED = ("claimed", "beaten", "skipped", "seen", "told", "transient", "refused", "lease_held", "gave_up")
LATE_S = 2.5  # until requests that the proxy holds have arrived
PATIENCE_S = 180.0  # for writers that are not done when the storm ends


@dataclass(frozen=True)
class Weather:
    """How a run goes.

    Attributes:
        writers: Processes that commit first files.
        per_shard: Writers that attempt each shard.
        maintainers: Processes that replace shards.
        readers: Processes that read.
        slot_s: Seconds between the beginnings of two shards.
        kill_every_s: Mean time between two kills of writers or maintainers, while the former are there.
        pause_every_s: Mean time between two pauses.
        pause_s: How long a process is stopped; longer than the lease lasts.
        min_kills: The run does not end before.
        min_replaced: The run does not end before so many replacements.
        deadline_s: It ends by then in any case.
    """

    writers: int = 6
    per_shard: int = 3
    maintainers: int = 2
    readers: int = 2
    slot_s: float = 0.05
    kill_every_s: float = 0.5
    pause_every_s: float = 2.0
    pause_s: float = 2.0
    min_kills: int = 10
    min_replaced: int = 20
    deadline_s: float = 240.0


@dataclass
class Report:
    """What happened, and what was found.

    Attributes:
        findings: What must be zero.
        kills: Processes that ended by SIGKILL.
        kills_in_writes: Of these, those that died between the start of a write and its outcome.
        pauses: Times that a process was stopped for a while.
        stuck: Processes that did not end by themselves.
        crashed: Processes that ended with an error.
        events: Event of the logbooks -> how often.
        replaced: Files that took another's place.
        told: Error that readers were told -> how often.
        proxy: Fault -> how often, and the number of requests.
        seconds: Of the storm.
        check_seconds: Of the check that follows it.
    """

    findings: Findings = field(default_factory=Findings)
    kills: int = 0
    kills_in_writes: int = 0
    pauses: int = 0
    stuck: int = 0
    crashed: int = 0
    events: dict[str, int] = field(default_factory=dict)
    replaced: int = 0
    told: dict[str, int] = field(default_factory=dict)
    proxy: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    check_seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Actor:
    """All lives of one actor."""

    name: str
    target: Callable[..., None]
    tasks: list[Task] | None = None
    life: int = 0
    process: BaseProcess | None = None
    resumes_at: float | None = None


class Storm:
    """Runs actors on a dataset that exists already."""

    def __init__(self, setting: Setting, weather: Weather) -> None:
        self._setting = setting
        self._weather = weather
        self._rng = setting.rng("storm")
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOAD)
        self._actors: list[_Actor] = []
        self.report = Report()

    def run(self, proxy: RunningProxy | None = None) -> Report:
        """Let it rage, wait for the calm, and check."""
        began = time.monotonic()
        self._deadline = began + self._weather.deadline_s
        self._begin()
        self._rage()
        if proxy is not None:
            proxy.change(rates={})
        self._end()
        if proxy is not None:
            time.sleep(LATE_S)
        self.report.seconds = time.monotonic() - began
        self._check(proxy)
        self.report.check_seconds = time.monotonic() - began - self.report.seconds
        return self.report

    def _begin(self) -> None:
        weather = self._weather
        tasks = _tasks(self._setting.n_shards, weather, self._rng)
        self._actors = [
            *(_Actor(f"w{number}", write_shards, tasks[number]) for number in range(weather.writers)),
            *(_Actor(f"m{number}", replace_shards) for number in range(weather.maintainers)),
            *(_Actor(f"r{number}", read_objects) for number in range(weather.readers)),
        ]
        for actor in self._actors:
            self._start(actor)

    def _start(self, actor: _Actor) -> None:
        actor.life += 1
        arguments: tuple[Any, ...] = (self._setting, f"{actor.name}-{actor.life}")
        if actor.tasks is not None:
            ended = ended_tasks(self._setting.folder, f"{actor.name}-")
            actor.tasks = [task for task in actor.tasks if task.number not in ended]
            arguments = (*arguments, actor.tasks)
        actor.resumes_at = None
        actor.process = self._context.Process(target=actor.target, args=arguments, daemon=True)
        actor.process.start()

    def _rage(self) -> None:
        weather, rng = self._weather, self._rng
        now = time.monotonic()
        next_kill = now + 2 + rng.expovariate(1 / weather.kill_every_s)
        next_pause = now + 2 + rng.expovariate(1 / weather.pause_every_s)
        next_look = now
        while now < self._deadline:
            time.sleep(0.02)
            now = time.monotonic()
            self._bury_and_restart()
            self._resume(now)
            if now >= next_kill:
                next_kill = now + self._calm() * rng.expovariate(1 / weather.kill_every_s)
                self._signal(self._victim(), signal.SIGKILL)
            if now >= next_pause:
                next_pause = now + self._calm() * rng.expovariate(1 / weather.pause_every_s)
                self._pause(self._victim(), now)
            if now >= next_look:
                next_look = now + 0.5
                if self._is_enough():
                    return

    def _is_writing(self) -> bool:
        return any(actor.tasks and actor.process for actor in self._actors)

    def _calm(self) -> float:
        """When the writers have ended, the few that are left must come to something between two blows."""
        return 1.0 if self._is_writing() else 6.0

    def _is_enough(self) -> bool:
        if self._is_writing() or self.report.kills < self._weather.min_kills:
            return False
        return _count_replaced(self._setting) >= self._weather.min_replaced

    def _bury_and_restart(self) -> None:
        for actor in self._actors:
            process = actor.process
            if process is None or process.is_alive():
                continue
            code = process.exitcode
            actor.process = None
            self.report.kills += code == -signal.SIGKILL
            self.report.crashed += code not in (0, -signal.SIGKILL)
            if code != 0:
                self._start(actor)

    def _victim(self) -> _Actor | None:
        alive = [a for a in self._actors if a.process is not None and a.target is not read_objects]
        return self._rng.choice(alive) if alive else None

    def _signal(self, actor: _Actor | None, number: int) -> None:
        if actor is not None and actor.process is not None and actor.process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(actor.process.pid, number)

    def _pause(self, actor: _Actor | None, now: float) -> None:
        if actor is not None and actor.resumes_at is None:
            self._signal(actor, signal.SIGSTOP)
            actor.resumes_at = now + self._weather.pause_s
            self.report.pauses += 1

    def _resume(self, now: float) -> None:
        for actor in self._actors:
            if actor.resumes_at is not None and now >= actor.resumes_at:
                self._signal(actor, signal.SIGCONT)
                actor.resumes_at = None

    def _end(self) -> None:
        """Let the writers finish and tell all others to leave; whoever does not is stuck."""
        (self._setting.folder / "stop").touch()
        self._resume(float("inf"))
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and any(actor.process for actor in self._actors):
            time.sleep(0.05)
            self._bury_and_restart()
        for actor in self._actors:
            if actor.process is not None:
                self.report.stuck += 1
                self._signal(actor, signal.SIGUSR1)  # it writes down where it stands
                time.sleep(0.5)
                actor.process.kill()
                actor.process.join()

    def _check(self, proxy: RunningProxy | None) -> None:
        setting, report = self._setting, self.report
        subject = setting.subject()
        _settle(subject.settle, setting.lease_s)
        n_objects = plan_header(setting.n_shards).n_objects
        told = proxy.told() if proxy is not None else {"counts": {}, "writes": {}}
        entries = list(read_logs(setting.folder))
        report.findings = check(
            setting.n_shards,
            lambda shard: shard_rows(n_objects, OBJECTS_PER_SHARD, shard),
            subject.final,
            subject.leftovers(),
            entries,
            told["writes"],
        )
        events = Counter(entry.event for entry in entries)
        report.events = {name: events[name] for name in _COUNTED}
        report.kills_in_writes = _died_in_writes(setting)
        report.told = dict(Counter(e.values["error"] for e in entries if e.event == "told"))
        report.replaced = _count_replaced(setting)
        report.proxy = dict(told["counts"])
        report.findings.messages += [
            f"crashed: {entry.actor}: {entry.values['message']}"
            for entry in entries
            if entry.event == "crashed"
        ]


def _tasks(n_shards: int, weather: Weather, rng: random.Random) -> list[list[Task]]:
    """Give every shard to several writers, who begin together; only the first looks whether it is done."""
    tasks: list[list[Task]] = [[] for _ in range(weather.writers)]
    begin, number = time.time() + 1.5, 0
    for shard in range(n_shards):
        for position, writer in enumerate(rng.sample(range(weather.writers), weather.per_shard)):
            moment = begin + shard * weather.slot_s + rng.random() * weather.slot_s / 2
            tasks[writer].append(Task(number, shard, moment, is_late=position > 0))
            number += 1
    return tasks


def _settle(settle: Callable[[], None], lease_s: float) -> None:
    """A lease of the dead ends by itself; nobody waits longer than it lasts."""
    deadline = time.monotonic() + lease_s + 5.0
    while True:
        try:
            return settle()
        except (LeaseHeldError, TransientError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _count_replaced(setting: Setting) -> int:
    built = {}
    claimed = set()
    for entry in read_logs(setting.folder):
        if entry.event == "built":
            built[entry.values["attempt"]] = entry.values["parent"]
        elif entry.event == "claimed":
            claimed.add(entry.values["attempt"])
    return sum(built[attempt] is not None for attempt in claimed)


def _died_in_writes(setting: Setting) -> int:
    """Lives whose last word is that they began to write."""
    last: dict[str, str] = {}
    for entry in read_logs(setting.folder):
        last[entry.actor] = entry.event
    return sum(event == "built" for event in last.values())
