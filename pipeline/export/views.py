"""Writes a dataset's views for other programs, one folder per object; can be interrupted and continued."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.export.folder import ExportFolder, safe_name
from pipeline.export.selection import ExportResult, Selection
from pipeline.progress import Progress
from render_jobs.nerfstudio import write_nerfstudio
from render_jobs.sources.base import restrictive_terms
from storage.errors import ObjectUnavailableError, UsageError
from storage.records import ObjectViews, PlanRow
from storage.store import Store
from storage.views import ViewsStore

WriteObject = Callable[[ObjectViews, str, Path], None]
"""Writes the views of an object, whose id is given, into an empty folder."""

VIEW_FORMATS: dict[str, WriteObject] = {"nerfstudio": write_nerfstudio}


def export_views(
    store: Store,
    to: str,
    out: Path,
    progress: Progress,
    selection: Selection | None = None,
    accept_terms: bool = False,
) -> ExportResult:
    """Writes objects as `<out>/<class>/<object_id>/`; those that are there are skipped.

    Args:
        store: the dataset.
        to: one of VIEW_FORMATS.
        out: output folder, on this machine: a new or empty one, or one of the same export.
        progress: is told.
        selection: the objects to write; None: all.
        accept_terms: the user has made sure that the source's terms allow it.

    Raises:
        UsageError: no dataset, no such format, object or class, terms that nobody accepted, or a folder that
            holds something else.
        StoreMismatchError: the output folder belongs to another dataset.
        EnvironmentProblem: the output folder cannot be written.
    """
    if to not in VIEW_FORMATS:
        raise UsageError(f"no format {to!r}: use one of {', '.join(VIEW_FORMATS)}")
    views = ViewsStore.open(store)
    rows = (selection or Selection()).rows(views.plan)
    for source in views.plan.sources:
        _require_terms(source, accept_terms)
    folder = ExportFolder(out, {"format": to, "plan_hash": views.plan.plan_hash})
    try:
        return _write_rows(views, rows, to, folder, progress)
    finally:
        folder.sweep()


def _require_terms(source: dict[str, Any], accepted: bool) -> None:
    """Stops before files are made that look free to pass on."""
    terms = restrictive_terms(source)
    if terms is not None and not accepted:
        raise UsageError(
            f"these views show objects of source {source['kind']}: {terms}. Read what came with your files;"
            " if it allows what you want to do, add --accept-terms"
        )


def _write_rows(
    views: ViewsStore, rows: Sequence[PlanRow], to: str, out: ExportFolder, progress: Progress
) -> ExportResult:
    names = [f"{safe_name(row.class_name)}/{safe_name(row.object_id)}" for row in rows]
    result = ExportResult(skipped=sum(map(out.has, names)))
    progress.start(f"export to {to}", len(rows), "objects", result.skipped)
    try:
        for row, name in zip(rows, names, strict=True):
            if out.has(name):
                continue
            try:
                found = views.read(row.row)
                with out.folder(name) as folder:
                    VIEW_FORMATS[to](found, row.object_id, folder)
                result.written += 1
            except ObjectUnavailableError as error:
                result.unavailable[row.object_id] = error.reason or str(error)
                progress.say(f"export: {row.object_id} has no views: {result.unavailable[row.object_id]}")
            progress.advance(1, **({"without_views": len(result.unavailable)} if result.unavailable else {}))
    finally:
        progress.finish()
    return result
