"""Writes a dataset's views for other programs, one folder per object; can be interrupted and continued.

An object is written into a hidden folder and renamed when it is complete, so whatever stands under its name
is whole. `export.json` says which dataset an output folder belongs to.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.progress import Progress
from pipeline.stages import FAILED_OBJECTS_EXIT_CODE
from render_jobs.nerfstudio import write_nerfstudio
from storage.documents import canonical_json
from storage.errors import EnvironmentProblem, ObjectUnavailableError, StoreMismatchError, UsageError
from storage.plan import Plan
from storage.records import ObjectViews, PlanRow
from storage.store import Store
from storage.views import ViewsStore

WriteObject = Callable[[ObjectViews, str, Path], None]
"""Writes the views of an object, whose id is given, into an empty folder."""

FORMATS: dict[str, WriteObject] = {"nerfstudio": write_nerfstudio}

RECORD = "export.json"
_PARTIAL = ".partial"
_ABANDONED_S = 3600.0  # an object is written in seconds; so old a folder is of an export that was killed
_UNSAFE = re.compile(r"[/\\\x00-\x1f:]")

_TERMS = {
    "shapenet": "ShapeNet's terms of use are for non-commercial research and teaching and restrict passing"
    " its models on, and pictures of them may be covered",
    "morphable": "face models mostly come with a licence for non-commercial research that restricts passing"
    " on what is made with them",
}


@dataclass
class ExportResult:
    """What an export did.

    Attributes:
        written: objects written now.
        skipped: objects that were there.
        unavailable: object_id → why it has no views.
    """

    written: int = 0
    skipped: int = 0
    unavailable: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Returns the result as plain JSON values."""
        return {"written": self.written, "skipped": self.skipped, "unavailable": self.unavailable}

    @property
    def exit_code(self) -> int:
        """0, or 42 when objects have no views."""
        return FAILED_OBJECTS_EXIT_CODE if self.unavailable else 0


def export_views(
    store: Store,
    to: str,
    out: Path,
    progress: Progress,
    objects: Sequence[str] = (),
    classes: Sequence[str] = (),
    limit: int | None = None,
    accept_terms: bool = False,
) -> ExportResult:
    """Writes objects as `<out>/<class>/<object_id>/`; those that are there are skipped.

    Args:
        store: the dataset.
        to: one of FORMATS.
        out: output folder, on this machine.
        progress: is told.
        objects: ids of the objects to write; empty: all.
        classes: classes to write; empty: all.
        limit: writes the first so many of those chosen.
        accept_terms: the user has made sure that the source's terms allow it.

    Raises:
        UsageError: no dataset, no such format, object or class, or terms that nobody accepted.
        StoreMismatchError: the output folder belongs to another dataset.
        EnvironmentProblem: the output folder cannot be written.
    """
    if to not in FORMATS:
        raise UsageError(f"no format {to!r}: use one of {', '.join(FORMATS)}")
    views = ViewsStore.open(store)
    rows = _choose(views.plan, objects, classes)[:limit]
    _require_terms(views.plan.header.source, accept_terms)
    try:
        return _write_rows(views, rows, to, out, progress)
    except OSError as error:
        if error.filename is None:
            raise
        raise EnvironmentProblem(f"{error.filename}: {error.strerror}") from error


def _choose(plan: Plan, objects: Sequence[str], classes: Sequence[str]) -> list[PlanRow]:
    rows = [row for row in plan.rows if not classes or row.class_name in classes]
    if unknown := sorted(set(classes) - set(plan.classes)):
        raise UsageError(f"no class {unknown[0]!r} in the dataset; there are {', '.join(plan.classes)}")
    if not objects:
        return rows
    if unknown := sorted(set(objects) - {row.object_id for row in rows}):
        raise UsageError(
            f"no object {unknown[0]!r} in the dataset" + (" in these classes" if classes else "")
        )
    return [row for row in rows if row.object_id in set(objects)]


def _require_terms(source: dict[str, Any], accepted: bool) -> None:
    """Stops before files are made that look free to pass on. Generated and built-in meshes have no terms."""
    terms = _TERMS.get(source.get("kind", ""))
    if terms is not None and source.get("path") and not accepted:
        raise UsageError(
            f"these views show objects of source {source['kind']}: {terms}. Read what came with your files;"
            " if it allows what you want to do, add --accept-terms"
        )


def _write_rows(
    views: ViewsStore, rows: Sequence[PlanRow], to: str, out: Path, progress: Progress
) -> ExportResult:
    _claim(out, {"format": to, "plan_hash": views.plan.plan_hash})
    folders = [out / _folder_name(row.class_name) / _folder_name(row.object_id) for row in rows]
    result = ExportResult(skipped=sum(folder.is_dir() for folder in folders))
    progress.start(f"export to {to}", len(rows), "objects", result.skipped)
    try:
        for row, folder in zip(rows, folders, strict=True):
            if folder.is_dir():
                continue
            try:
                _write_object(views, row, folder, out / _PARTIAL, FORMATS[to])
                result.written += 1
            except ObjectUnavailableError as error:
                result.unavailable[row.object_id] = error.reason or str(error)
                progress.say(f"export: {row.object_id} has no views: {result.unavailable[row.object_id]}")
            progress.advance(1, **({"without_views": len(result.unavailable)} if result.unavailable else {}))
    finally:
        progress.finish()
        _sweep(out / _PARTIAL)
    return result


def _claim(out: Path, record: dict[str, str]) -> None:
    """Writes or checks the record of an output folder: two datasets in one would look like one."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / RECORD
    if not path.exists():
        path.write_bytes(canonical_json(record))
        return
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if found != record:
        raise StoreMismatchError(f"{out} holds an export of another dataset or format: choose another --out")


def _write_object(views: ViewsStore, row: PlanRow, folder: Path, partial: Path, write: WriteObject) -> None:
    found = views.read(row.row)
    temporary = partial / secrets.token_hex(8)
    temporary.mkdir(parents=True)
    try:
        write(found, row.object_id, temporary)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sweep(partial: Path) -> None:
    """Removes what killed exports left; another that is running may use the folder."""
    for left in [*partial.iterdir()] if partial.is_dir() else []:
        if time.time() - left.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)
    with contextlib.suppress(OSError):
        partial.rmdir()


def _folder_name(name: str) -> str:
    """Returns a name that is one harmless path component, equal to the given one wherever that is."""
    plain = _UNSAFE.sub("_", name)[:200]
    plain = f"_{plain[1:]}" if plain.startswith(".") or not plain else plain
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
