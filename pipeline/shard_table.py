"""One table of all shards that runs have done: times, memory, attempts and node, merged from their events."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from pipeline.run import RUN, read_events
from storage import layout
from storage.plan import read_plan
from storage.store import Store

COLUMNS = (
    "stage",
    "run",
    "fit",
    "shard",
    "state",
    "attempts",
    "retried",
    "node",
    "at_s",
    "seconds",
    "cpu_seconds",
    "peak_rss_mb",
    "n_ok",
    "n_failed",
    "n_bytes",
    "kind",
    "error",
)
STATES = {"shard_done": "done", "shard_failed": "failed"}


def shard_rows(store: Store) -> Iterator[dict[str, Any]]:
    """Yields one row per shard and run, oldest run first; what is not known is None.

    Columns: `COLUMNS`. fit: name of the fit that the run was of. at_s: end of the shard in seconds since the
    start of its run; seconds, cpu_seconds and peak_rss_mb (10⁶ bytes): see `pipeline.executor.TaskUsage`.
    kind: class of the failure (see `pipeline.backlog.FailureKind`); retried: classes of the failures that
    were tried again, "node_lost:2 died:1".

    Raises:
        UsageError: There is no dataset.
    """
    read_plan(store)
    for stage in store.list(layout.RUNS):
        for run in store.list(f"{layout.RUNS}/{stage}"):
            about = {"stage": stage, "run": run, "fit": _fit_of(store, stage, run)}
            for event in read_events(store, stage, run):
                if event.get("event") in STATES:
                    yield _row(event) | about


def _fit_of(store: Store, stage: str, run: str) -> str | None:
    try:
        record = json.loads(store.read(f"{layout.run_folder(stage, run)}/{RUN}"))
    except (FileNotFoundError, ValueError):
        return None  # of a run that has left no record, or half of one
    found = record.get("fit") if isinstance(record, dict) else None
    return found if isinstance(found, str) else None


def shard_table(store: Store) -> str:
    """Returns `shard_rows` as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(shard_rows(store))
    return text.getvalue()


def _row(event: dict[str, Any]) -> dict[str, Any]:
    usage = event.get("usage") or {}
    retried: dict[str, int] = event.get("retried") or {}
    peak = usage.get("peak_rss_bytes")
    state = "skipped" if event.get("skipped") else STATES[event["event"]]
    row = {name: event.get(name) for name in COLUMNS}
    return row | {
        "state": state,
        "retried": " ".join(f"{kind}:{number}" for kind, number in retried.items()) or None,
        "seconds": _rounded(usage.get("seconds")),
        "cpu_seconds": _rounded(usage.get("cpu_seconds")),
        "peak_rss_mb": None if peak is None else round(peak / 1e6, 1),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
