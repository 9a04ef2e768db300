"""What the actors believe: a file of JSON lines each, written before they act on it: no kill takes it.

Events that the checker uses:

    built    shard, attempt, parent, labels   a file is about to be written; parent: the attempt it replaces
    claimed  shard, attempt                   its writer was told that it is the shard's file
    bad_read message                          a reader was given something that no attempt had made
    seen     shard, attempt, labels           a reader was given these objects, all of one file
    accepted, refused  fit, steps             a writer of this configuration was let in, or was not
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LABELS = dict[int, str]
"""Row -> the attempt that made what the shard says about the object."""


@dataclass(frozen=True)
class Entry:
    """One line of a logbook."""

    actor: str
    event: str
    values: dict[str, Any]

    @property
    def labels(self) -> LABELS:
        return {int(row): label for row, label in self.values["labels"].items()}


class Logbook:
    """Appends to the file of one actor."""

    def __init__(self, folder: Path, actor: str) -> None:
        self.actor = actor
        self._descriptor = os.open(folder / f"{actor}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._lock = threading.Lock()

    def __call__(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, "time": time.time(), **values}).encode() + b"\n"
        with self._lock:
            os.write(self._descriptor, line)


def read_logs(folder: Path) -> Iterator[Entry]:
    """Yield all entries of all actors."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_bytes().split(b"\n")[:-1]:
            values = json.loads(line)
            yield Entry(path.stem, values.pop("event"), values)
