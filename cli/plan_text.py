"""Plain-text form of a forecast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cli.tables import bytes_text, table
from cli.text import duration_text

if TYPE_CHECKING:
    from pipeline.report.records import ForecastFigure, StageForecast

STAGES = {
    "render": "render",
    "train_shared": "train-shared",
    "fit_objects": "fit-objects",
    "total": "in all",
}
UNKNOWN = "—"
WORKERS = {"train": "a training worker", "fit": "a fitting worker"}


def plan_text(found: dict[str, Any]) -> str:
    """Says in a few lines what a dataset will hold and cost."""
    classes = ", ".join(f"{name} {count}" for name, count in found["classes"].items())
    height, width = found["size_px"]
    sizes = found["bytes"]
    lines = [
        f"objects   {found['objects']}: {classes}",
        f"views     {found['views']} ({found['views_per_object']} per object, {width}×{height} px),"
        f" {found['view_shards']} shards",
        f"training  {found['regime1_objects']} objects jointly, then all are fitted",
        f"bytes     views {bytes_text(sizes['views'])} ({bytes_text(sizes['views_per_object'])} per object),"
        f" planes {bytes_text(sizes['planes'])} ({bytes_text(sizes['planes_per_object'])} per object)",
    ]
    lines += [
        f"          {name} {bytes_text(total)} ({bytes_text(sizes['passes_per_object'][name])} per object)"
        for name, total in sizes["passes"].items()
    ]
    if sizes["shared"] is not None:
        lines.append(f"          shared components {bytes_text(sizes['shared'])}, once")
    for name, memory in (found["memory"] or {}).items():
        files = "" if not memory["disk"] else f", and {bytes_text(memory['disk'])} of scratch files"
        lines.append(
            f"memory    {WORKERS[name]} {bytes_text(memory['total'])}"
            f" ({bytes_text(memory['step'])} of it for the largest step){files}"
        )
    lines += ["", table(_stage_rows(found)), ""]
    if found["basis"] is None:
        lines.append("time      not measured (--no-calibrate)")
        return "\n".join(lines)
    lines.append(f"basis     {found['basis']}")
    if found["seconds"] is not None:
        lines.append(f"time      wall, with {found['workers']} tasks at a time on cores like those measured:")
        lines += [
            f"          {STAGES[name]:<13} {UNKNOWN if value is None else duration_text(value)}"
            for name, value in found["seconds"].items()
        ]
    if any(stage["cpu_hours"] is None for stage in found["stages"].values()):
        lines.append("          stages on GPUs are not measured on a processor")
    if (money := found["money"]) is not None:
        total = money["total"]
        lines.append(f"money     computing and requests {UNKNOWN if total is None else _range(total)}")
        lines.append(f"          storage {money['storage_per_month']:.3g} a month")
    return "\n".join(lines)


def _stage_rows(found: dict[str, Any]) -> list[list[str]]:
    """One row per stage; ranges are low – likely – high."""
    rows = [["stage", "shards", "puts", "gets", "stored", "moved", "CPU-hours", "GPU-hours", "wall", "money"]]
    for name, stage in found["stages"].items():
        wall = stage["wall_s"]
        rows.append(
            [
                STAGES[name],
                str(stage["shards"]),
                str(stage["requests"]["puts"]),
                str(stage["requests"]["gets"]),
                bytes_text(stage["bytes"]["stored"]),
                bytes_text(stage["bytes"]["moved"]),
                _range(stage["cpu_hours"]),
                _range(stage["gpu_hours"]),
                UNKNOWN if wall is None else " – ".join(map(duration_text, wall.values())),
                _range(stage["money"]),
            ]
        )
    return rows


def comparison_text(found: Sequence[StageForecast]) -> str:
    """One row per stage: forecast, what was, and by how much the forecast was too high."""
    if not found:
        return "no stage has run yet"
    rows = [["stage", "CPU time", "was", "off", "wall", "was", "off", "stored", "was", "off"]]
    for one in found:
        times = [_compared(figure, duration_text) for figure in (one.cpu_s, one.wall_s)]
        name = one.stage if one.complete else f"{one.stage}, so far"
        rows.append([name, *times[0], *times[1], *_compared(one.stored_bytes, bytes_text)])
    return table(rows)


def _compared(figure: ForecastFigure, text: Callable[[Any], str]) -> list[str]:
    values = [UNKNOWN if value is None else text(value) for value in (figure.likely, figure.actual)]
    return [*values, UNKNOWN if figure.off is None else f"{100 * figure.off:+.0f}%"]


def _range(figures: dict[str, float] | None) -> str:
    if figures is None:
        return UNKNOWN
    if not any(figures.values()):
        return "0"
    return " – ".join(f"{value:.3g}" for value in figures.values())
