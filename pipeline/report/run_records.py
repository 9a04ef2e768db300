"""Reads what the runs of a dataset left in their run.json."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, Final

from pipeline.report.records import StageRun
from storage.layout import run_folder
from storage.store import Store

LOGGER = logging.getLogger(__name__)
_RUNS_PER_STAGE: Final = 200


def read_runs(store: Store) -> list[StageRun]:
    """Every recorded run, by stage, oldest first; a folder without a readable run.json is passed over."""
    runs = []
    for stage in store.list("runs"):
        for name in store.list(f"runs/{stage}")[-_RUNS_PER_STAGE:]:
            try:
                record = json.loads(store.read(f"{run_folder(stage, name)}/run.json"))
            except FileNotFoundError:
                continue  # checkpoints live here, too
            except ValueError as error:
                LOGGER.warning(
                    "runs/%s/%s/run.json cannot be read (%s) and is left out of the report",
                    stage,
                    name,
                    error,
                )
                continue
            if isinstance(record, dict):
                runs.append(_run(stage, name, record))
    return sorted(runs, key=lambda run: (run.stage, run.started, run.run_id))


def _run(stage: str, name: str, record: Mapping[str, Any]) -> StageRun:
    def mapping(key: str) -> Mapping[str, Any]:
        value = record.get(key)
        return value if isinstance(value, Mapping) else {}

    seconds = record.get("seconds")
    return StageRun(
        stage=stage,
        run_id=name,
        started=str(record.get("started") or ""),
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        git_revision=str(record.get("git_revision") or ""),
        config=mapping("config"),
        versions={key: value for key, value in mapping("versions").items() if value},
        hardware=mapping("hardware"),
        summary=mapping("summary"),
        fit=str(record["fit"]) if record.get("fit") else None,
    )
