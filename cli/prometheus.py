"""The status of a dataset as metrics in Prometheus' text format.

No port is opened: the file is for the textfile collector of node_exporter, or for whatever takes the text.
"""

from __future__ import annotations

from typing import Any

METRICS = {
    "fpipe_shards": ("gauge", "Shards of a stage, by state: done or left."),
    "fpipe_running_shards": ("gauge", "Shards that run at the moment."),
    "fpipe_waiting_shards": ("gauge", "Shards that wait for another attempt."),
    "fpipe_objects": ("gauge", "Objects of a stage, by state: ok, failed or left."),
    "fpipe_stored_bytes": ("gauge", "Bytes of the committed shards of a stage."),
    "fpipe_work_per_second": ("gauge", "Pace of the runs that are alive, in the unit of the stage."),
    "fpipe_seconds_left": ("gauge", "Time left at the pace of the last minutes."),
    "fpipe_retried_attempts": ("gauge", "Repeated attempts of the runs that are alive."),
    "fpipe_stuck_shards": ("gauge", "Shards that run far longer than others took."),
    "fpipe_runs": ("gauge", "Runs that have not ended, by whether they give signs of life."),
}


def metrics_text(found: dict[str, Any]) -> str:
    """Returns what `pipeline.status.dataset_status` found as metrics; unknown values are left out."""
    samples: dict[str, list[str]] = {name: [] for name in METRICS}

    def add(metric: str, value: float | None, **labels: str) -> None:
        if value is not None:
            named = ",".join(
                f'{key}="{_escaped(text)}"' for key, text in {"root": found["root"], **labels}.items()
            )
            samples[metric].append(
                f"{metric}{{{named}}} {value:g}"
                if isinstance(value, float)
                else f"{metric}{{{named}}} {value}"
            )

    stages = {**found["stages"], **{f"fit-objects {name}": fit for name, fit in found["fits"].items()}}
    for name, stage in stages.items():
        add("fpipe_shards", stage["done"], stage=name, state="done")
        add("fpipe_shards", len(stage["left"]), stage=name, state="left")
        add("fpipe_objects", stage["ok"], stage=name, state="ok")
        add("fpipe_objects", stage["failed"], stage=name, state="failed")
        left = max(0, stage["objects"] - stage["ok"] - stage["failed"])
        add("fpipe_objects", left, stage=name, state="left")
        add("fpipe_stored_bytes", stage["n_bytes"], stage=name)
    for name, doing in found["activity"].items():
        add("fpipe_running_shards", doing["n_running"], stage=name)
        add("fpipe_waiting_shards", doing["n_waiting"], stage=name)
        add("fpipe_work_per_second", doing["work_per_s"], stage=name, unit=doing["work_unit"])
        add("fpipe_seconds_left", doing["eta_s"], stage=name)
        add("fpipe_retried_attempts", doing["retries"], stage=name)
        add("fpipe_stuck_shards", len(doing["stuck"]), stage=name)
        add("fpipe_runs", doing["runs"], stage=name, state="alive")
    for name in sorted({run["stage"] for run in found["silent"]}):
        add("fpipe_runs", sum(run["stage"] == name for run in found["silent"]), stage=name, state="silent")
    lines = []
    for metric, (kind, text) in METRICS.items():
        if samples[metric]:
            lines += [f"# HELP {metric} {text}", f"# TYPE {metric} {kind}", *samples[metric]]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
