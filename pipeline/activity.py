"""What is going on in a dataset now: the runs that give signs of life, their pace, and what is stuck.

Read from the store alone, from the `live.json` of each run, so that it works from any machine. Ages are by
the clock of the machine that looks.
"""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.run import LIVE, RUN_STAMP
from storage import layout
from storage.local_files import process_is_dead
from storage.store import Store

MAX_RUNS = 1000
"""Newest runs of a stage that are looked at; each is one small read."""
READERS = 16
SILENT_BEATS = 4
"""A run that misses so many beats gives no sign of life."""
GONE_S = 3600.0
"""A run that has been silent for so long is not expected back."""
STUCK_FACTOR = 3.0
STUCK_LEAST_S = 60.0
"""A shard that runs this many times longer than the slowest that is done, and at least so long, is stuck."""


@dataclass(frozen=True)
class LiveRun:
    """One run that has not said that it ended.

    Attributes:
        values: Its live.json.
        silent_s: Seconds since its last beat.
        key: Of its live.json.
    """

    values: dict[str, Any]
    silent_s: float
    key: str

    @property
    def is_dead(self) -> bool:
        """Whether its process has ended without a word, as far as this machine can see that."""
        return process_is_dead(str(self.values.get("process", ""))) is True

    @property
    def is_silent(self) -> bool:
        """Whether it gives no sign of life: killed, or cut off from the store."""
        return self.silent_s > SILENT_BEATS * float(self.values["beat_s"]) or self.is_dead

    @property
    def is_gone(self) -> bool:
        """Whether it will not be heard of again, so that it need not be read again."""
        return self.is_dead or self.silent_s > GONE_S

    @property
    def name(self) -> str:
        """Stage, and fit where it is of one."""
        return _name(self.values)


def live_runs(
    store: Store, now: datetime.datetime | None = None, ended: dict[str, str] | None = None
) -> list[LiveRun]:
    """Returns the runs of all stages that have not ended, oldest first.

    Silent ones are left out where a later run of the same stage (and fit) has begun since their last beat:
    that one does what they had.

    Args:
        store: The dataset.
        now: The time, for tests.
        ended: Keys of runs that are known to have ended, which are not read again → their names; grows.
    """
    ended = {} if ended is None else ended
    now = now or datetime.datetime.now(datetime.UTC)
    keys = [
        f"{layout.run_folder(stage, run)}/{LIVE}"
        for stage in store.list(layout.RUNS)
        for run in store.list(f"{layout.RUNS}/{stage}")[-MAX_RUNS:]
    ]
    unknown = [key for key in keys if key not in ended]
    found = []
    for key, values in zip(unknown, _read_all(store, unknown), strict=True):
        if values.get("state") != "running":
            ended[key] = _name(values)
        else:
            silent_s = (now - datetime.datetime.fromisoformat(values["at"])).total_seconds()
            found.append(LiveRun(values, max(0.0, silent_s), key))
    names = {run.key: run.name for run in found} | ended
    newest = {names[key]: key for key in sorted(keys, key=_began)}  # the last of each name stays
    over = [
        run
        for run in found
        if run.is_silent and run.key != newest[run.name] and _last_beat(run) < _began(newest[run.name])
    ]
    forget(over, ended)
    return sorted((run for run in found if run not in over), key=lambda run: str(run.values["started"]))


def forget(runs: Iterable[LiveRun], ended: dict[str, str]) -> None:
    """Counts silent runs of which nothing is left to be told as ended, unless they may come back."""
    ended.update({run.key: run.name for run in runs if run.is_gone})


def _name(values: dict[str, Any]) -> str:
    stage, fit = str(values.get("stage", "")), values.get("fit")
    return f"{stage} {fit}" if fit else stage


def _began(key: str) -> str:
    """When a run began, from its id: text that sorts by time."""
    return key.split("/")[-2].partition("-")[0]


def _last_beat(run: LiveRun) -> str:
    """When a run was heard of last, to be compared with `_began`."""
    return f"{datetime.datetime.fromisoformat(run.values['at']):{RUN_STAMP}}"


def _read_all(store: Store, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    def read(key: str) -> dict[str, Any]:
        try:
            values = json.loads(store.read(key))
        except (FileNotFoundError, ValueError):  # runs of earlier versions have none
            return {}
        return values if isinstance(values, dict) else {}

    if not keys:
        return
    with ThreadPoolExecutor(min(READERS, len(keys))) as pool:
        yield from pool.map(read, keys)


def activity(runs: Sequence[LiveRun], now: datetime.datetime | None = None) -> dict[str, dict[str, Any]]:
    """Merges the runs that are alive: stage (and fit) → what they do together.

    Returns:
        Per stage: runs, n_running, n_waiting (shards that wait for another attempt), workers' nodes (name →
        shards done), unit, per_s and work_per_s (None before the first result), last_s (seconds since the
        last result, None before), work_unit, figures, retries, failed, slowest (shards done that took
        longest), stuck (shards that run far longer than those), draining (runs that were asked to stop and
        wait for what runs), drain_s (seconds until the last of them stops waiting).
    """
    now = now or datetime.datetime.now(datetime.UTC)
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        if not run.is_silent:
            _add(found.setdefault(run.name, _nothing()), run.values, now)
    for stage in found.values():
        stage["nodes"] = dict(stage["nodes"])
        stage["slowest"] = sorted(stage["slowest"], key=lambda shard: -shard["seconds"])[:5]
        stage["running"] = sorted(stage["running"], key=lambda shard: -shard["seconds"])
        if stage["slowest"]:
            limit = max(STUCK_LEAST_S, STUCK_FACTOR * stage["slowest"][0]["seconds"])
            stage["stuck"] = [shard for shard in stage["running"] if shard["seconds"] > limit]
        stage["running"] = stage["running"][:5]
    return found


def _nothing() -> dict[str, Any]:
    return {
        "runs": 0,
        "n_running": 0,
        "n_waiting": 0,
        "nodes": Counter(),
        "part": "",
        "unit": "",
        "work_unit": "",
        "total": 0,
        "done": 0,
        "per_s": None,
        "work_per_s": None,
        "last_s": None,
        "figures": {},
        "retries": 0,
        "failed": 0,
        "running": [],
        "slowest": [],
        "stuck": [],
        "draining": 0,
        "drain_s": 0.0,
    }


def _add(stage: dict[str, Any], values: dict[str, Any], now: datetime.datetime) -> None:
    stage["runs"] += 1
    for name in ("n_running", "retries", "failed"):
        stage[name] += int(values[name])
    stage["n_waiting"] += int(values.get("n_waiting", 0))  # runs of earlier versions do not say
    stage["nodes"].update(values["nodes"])
    for shard in values["running"]:
        since = datetime.datetime.fromisoformat(shard["since"])
        seconds = round(max(0.0, (now - since).total_seconds()), 1)
        stage["running"].append({**shard, "seconds": seconds, "host": values["host"]})
    stage["slowest"] += values["slowest"]
    if until := values.get("drain_until"):
        left_s = (datetime.datetime.fromisoformat(until) - now).total_seconds()
        stage["draining"] += 1
        stage["drain_s"] = max(stage["drain_s"], round(left_s, 1))
    progress = values["progress"]
    if progress is None:
        return
    stage.update(part=progress["name"], unit=progress["unit"], work_unit=progress["work_unit"])
    stage["figures"].update(progress["figures"])
    for name in ("total", "done"):
        stage[name] += progress[name]
    if at := progress.get("at"):  # runs of earlier versions do not say
        last_s = max(0.0, (now - datetime.datetime.fromisoformat(at)).total_seconds())
        stage["last_s"] = round(last_s if stage["last_s"] is None else min(last_s, stage["last_s"]), 1)
    for name in ("per_s", "work_per_s"):
        if progress[name] is not None:
            stage[name] = (stage[name] or 0.0) + progress[name]
