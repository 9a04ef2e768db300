"""The status of a dataset in words, for stdout: aligned, without colour, safe to pipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cli.pace import rate_text
from cli.tables import bytes_text, table
from cli.text import duration_text, figures_text
from pipeline.shard_spec import shards_text

STATUS_FAILURES = 10
"""Failed objects that the status names; `fpipe failures` lists all."""
MAX_NODES = 8


def status_text(found: dict[str, Any]) -> str:
    """A line per stage, what goes on, failures, then the next command."""
    stages = [
        *found["stages"].items(),
        *((f"fit-objects {name}", fit) for name, fit in found["fits"].items()),
    ]
    rows = [["stage", "shards", "running", "left", "objects", "ok", "failed", "stored", "pace", "time left"]]
    for name, stage in stages:
        rows.append(_row(name, stage, found["activity"].get(name)))
    lines = [found["root"], "", table(rows), "", _training(found)]
    for name, doing in found["activity"].items():
        lines += _doing(name, doing, [stage for stage, _ in stages])
    for run in found["silent"]:
        shards = f" with shards {shards_text(run['shards'], 20)}" if run["shards"] else ""
        silence = f"has given no sign of life for {duration_text(run['silent_s'])}"
        lines.append(
            f"{run['stage']}: a run on {run['host']} (process {run['pid']}) "
            f"{'was killed' if run['dead'] else silence}{shards}: what it had is done by whoever runs next"
        )
    lines += _failures(found)
    if found["changed_by"]:
        lines.append(f"being changed by {found['changed_by']}")
    if found["next"]:
        lines += ["", f"next: {found['next']}"]
    return "\n".join(lines)


def _row(name: str, stage: dict[str, Any], doing: dict[str, Any] | None) -> list[str]:
    pace, left = ("", "") if doing is None else _pace(doing)
    running = str(doing["n_running"]) if doing else ""
    return [
        name,
        f"{stage['done']}/{stage['shards']}",
        running,
        *(str(count) for count in (len(stage["left"]), stage["objects"], stage["ok"], stage["failed"])),
        bytes_text(stage["n_bytes"]),
        pace,
        left,
    ]


def _pace(doing: dict[str, Any]) -> tuple[str, str]:
    eta_s = doing["eta_s"]
    left = "" if eta_s is None else duration_text(eta_s) if eta_s else "overdue"
    return rate_text(doing["work_per_s"], doing["work_unit"]), left


def _progress(doing: dict[str, Any]) -> str:
    if not doing["total"]:
        return "begins"
    pace, left = _pace(doing)
    parts = [
        f"{doing['done']}/{doing['total']} {doing['unit']}",
        pace,
        f"{left} left" if doing["eta_s"] else left,
    ]
    return ", ".join(filter(None, [*parts, *figures_text(doing["figures"])]))


def _training(found: dict[str, Any]) -> str:
    doing = found["activity"].get("train-shared")
    if doing is None:
        return f"shared components: {found['shared_version'] or 'not trained'}"
    return f"train-shared: {_progress(doing)}"


def _doing(name: str, doing: dict[str, Any], with_row: list[str]) -> Iterator[str]:
    if name not in with_row and name != "train-shared":
        yield f"{name}: {_progress(doing)}"
    facts = []
    if doing["runs"] > 1:
        facts.append(f"{doing['runs']} runs")
    if doing["draining"]:
        runs = f"{doing['draining']} of them drain" if doing["runs"] > 1 else "draining"
        facts.append(f"{runs}: asked to stop, what runs may end within {duration_text(doing['drain_s'])}")
    if doing["nodes"]:
        nodes = sorted(doing["nodes"].items(), key=lambda item: -item[1])
        shown = ", ".join(f"{node} {count}" for node, count in nodes[:MAX_NODES])
        more = f" and {len(nodes) - MAX_NODES} more" if len(nodes) > MAX_NODES else ""
        facts.append(f"shards per node: {shown}{more}")
    if doing["n_waiting"]:
        facts.append(f"{doing['n_waiting']} shards wait for another attempt")
    if doing["retries"]:
        facts.append(f"{doing['retries']} attempts were repeated")
    if doing["failed"]:
        facts.append(f"{doing['failed']} shards failed")
    if doing["slowest"]:
        first = doing["slowest"][0]
        facts.append(f"slowest shard {first['shard']}: {duration_text(first['seconds'])}")
    if facts:
        yield f"{name}: " + "; ".join(facts)
    for shard in doing["stuck"]:
        yield (
            f"{name}: shard {shard['shard']} may be stuck: attempt {shard['attempt']} runs for"
            f" {duration_text(shard['seconds'])}, driven from {shard['host']}"
        )


def _failures(found: dict[str, Any]) -> Iterator[str]:
    for name, stage in found["stages"].items():
        for failure in stage["failures"][:STATUS_FAILURES]:
            yield f"{name}: {failure['object_id']}: {failure['kind']}: {failure['reason']}"
    if any(stage["failed"] for stage in (*found["stages"].values(), *found["fits"].values())):
        yield f"all failures: fpipe failures {found['root']}"
