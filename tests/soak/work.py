"""The real work of a shard, with a note of its begin and its end: who did what, where and when.

Notes are files, one per event: processes die at any moment. The events of the runs say what the drivers
believe; the notes say what happened.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.executor import TaskFunction
from tests.conformance.work import Plot, note


def noted(function: TaskFunction, folder: str, **arguments: Any) -> dict[str, Any]:
    """Does a shard and leaves notes of it; an attempt that fails or dies leaves no note of its end."""
    quiet = Plot("", -1, folder)
    note(quiet, arguments["shard"], "begun")
    result = function(**arguments)
    note(quiet, arguments["shard"], "skipped" if result["skipped"] else "ended")
    return result


@dataclass(frozen=True)
class Attempt:
    """One attempt at a shard.

    Attributes:
        shard: Shard number.
        pid: The process that worked.
        parent: The process that had started it: under Ray its node's raylet.
        began: Unix time.
        ended: Unix time, None where it died.
        skipped: It found the shard's file and had only to publish it.
    """

    shard: int
    pid: int
    parent: int
    began: float
    ended: float | None
    skipped: bool

    def was_running(self, since: float, until: float) -> bool:
        """Whether it was under way between two moments; one without an end is, from its begin on."""
        return self.began <= until and (self.ended is None or self.ended >= since)


def attempts(folder: Path) -> list[Attempt]:
    """Returns all attempts, in the order of their begin."""
    notes = sorted(
        (json.loads(path.read_text()) for path in folder.glob("*.json")), key=lambda one: one["at"]
    )
    found = []
    for index, begin in enumerate(notes):
        if begin["what"] != "begun":
            continue
        # A process does one shard at a time: the next note of the same process is this attempt's end.
        after = (one for one in notes[index + 1 :] if one["pid"] == begin["pid"])
        end = next(after, None)
        is_end = end is not None and end["what"] != "begun" and end["shard"] == begin["shard"]
        found.append(
            Attempt(
                begin["shard"],
                begin["pid"],
                begin["parent"],
                begin["at"],
                end["at"] if end is not None and is_end else None,
                end is not None and is_end and end["what"] == "skipped",
            )
        )
    return found


def begun_again(found: Iterable[Attempt]) -> dict[int, int]:
    """Returns shard → attempts beyond the first, of the shards that were computed more than once.

    An attempt that only publishes what is committed is none.
    """
    counts = Counter(attempt.shard for attempt in found if not attempt.skipped)
    return {shard: count - 1 for shard, count in sorted(counts.items()) if count > 1}
