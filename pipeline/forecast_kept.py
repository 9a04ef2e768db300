"""A forecast that is kept with its dataset, and what the runs then took."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.records import StageForecast, StageRun
from pipeline.shard_table import shard_rows
from storage import layout
from storage.store import Store

STAGES = {"render": "render", "train_shared": "train-shared", "fit_objects": "fit-objects"}
STORED = {"render": "views", "train_shared": "shared", "fit_objects": "planes"}


def save_forecast(store: Store, found: Mapping[str, Any]) -> None:
    """Keeps a forecast with the dataset that it is about, in place of an older one."""
    made = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    store.replace(layout.FORECAST, json.dumps({"version": 1, "made": made, **found}, indent=1).encode())


def compared(store: Store, runs: Sequence[StageRun]) -> list[StageForecast]:
    """Returns the stages that have run beside what was forecast; none where no forecast is kept."""
    try:
        kept = json.loads(store.read(layout.FORECAST))
    except (FileNotFoundError, ValueError):
        return []
    rows = list(shard_rows(store))
    found = []
    for name, stage in STAGES.items():
        seconds = [run.seconds for run in runs if run.stage == stage and run.seconds is not None]
        if not seconds:
            continue
        own = [row for row in rows if row["stage"] == stage and row["state"] != "skipped"]
        cpu_s = [row["cpu_seconds"] for row in own if row["cpu_seconds"] is not None]
        own_runs = [run for run in runs if run.stage == stage]
        cpu_s += [run.summary["cpu_seconds"] for run in own_runs if "cpu_seconds" in run.summary]
        written = [row["n_bytes"] for row in own if row["n_bytes"] is not None]
        hours, wall = kept["stages"][name]["cpu_hours"], kept["stages"][name]["wall_s"]
        found.append(
            StageForecast(
                stage=stage,
                wall_s=wall and wall["likely"],
                cpu_s=hours and (3600 * hours["low"], 3600 * hours["likely"], 3600 * hours["high"]),
                stored_bytes=kept["bytes"][STORED[name]],
                actual_wall_s=sum(seconds),
                actual_cpu_s=sum(cpu_s) if cpu_s else None,
                actual_bytes=sum(written) if written else None,
            )
        )
    return found
