"""Plain-text form of a forecast."""

from __future__ import annotations

from typing import Any

from cli.tables import bytes_text
from cli.text import duration_text

STAGES = {
    "start": "starting Ray",
    "render": "render",
    "train_shared": "train-shared",
    "fit_objects": "fit-objects",
    "total": "in all",
}
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
    if found["seconds"] is None:
        lines.append("time      not measured (--no-calibrate)")
        return "\n".join(lines)
    lines.append(
        f"time      with {found['workers']} workers like this machine's cores, measured on a few objects:"
    )
    lines += [
        f"          {STAGES[name]:<13} {duration_text(value)}" for name, value in found["seconds"].items()
    ]
    return "\n".join(lines)
