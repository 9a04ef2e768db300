"""Writes the fits of a dataset for other programs, with a card and Croissant metadata beside them.

An export is one snapshot: `export.json` names the fit, its state and the objects, and only the same ones
continue it. Objects are written first, then bounds, tables, card and Croissant; what is there is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.export.card import CARD, card_text
from pipeline.export.croissant import CROISSANT, croissant_json
from pipeline.export.facts import (
    INDEX,
    NOT_EXPORTED,
    Facts,
    PlanesExport,
    ids_hash,
    index_csv,
    not_exported_csv,
)
from pipeline.export.folder import ExportFolder
from pipeline.export.formats import LAYOUTS, ExportedObject, Layout, make_layout, npy_bytes, stacked
from pipeline.export.selection import ExportResult, Selection
from pipeline.progress import Progress
from storage.errors import StaleSnapshotError, StoreMismatchError, UsageError
from storage.planes import PlanesStore
from storage.reader import PlanesDataset
from storage.records import PlanRow, Status
from storage.store import Store

PLANES_FORMATS = tuple(LAYOUTS)
LOWER, UPPER = "stats/lower_bound.npy", "stats/upper_bound.npy"
BASE_PLANES = "base_planes.npy"


def export_planes(
    store: Store,
    out: Path,
    options: PlanesExport,
    progress: Progress,
    fit: str | None = None,
    selection: Selection | None = None,
) -> ExportResult:
    """Writes the planes of objects, and what describes them.

    Args:
        store: the dataset.
        out: output folder, on this machine: a new or empty one, or one of the same export.
        options: format and card.
        progress: is told.
        fit: name of the fit; None: the published one.
        selection: the objects to write; None: all. Those without a fit are listed, not written.

    Raises:
        UsageError: no dataset, fit, format, type, object or class, nothing to export, values beyond the type,
            or a folder that holds something else.
        StoreMismatchError: the output folder belongs to another export, or the fit was changed meanwhile.
        EnvironmentProblem: a library is missing, or the output folder cannot be written.
    """
    if options.to not in LAYOUTS:
        raise UsageError(f"no format {options.to!r}: use one of {', '.join(LAYOUTS)}")
    options.check()
    dataset = PlanesDataset(PlanesStore.open(store, fit))
    chosen = (selection or Selection()).rows(dataset.planes_store.plan)
    rows = [row for row in chosen if dataset.status[row.row] == Status.OK]
    if not rows:
        raise UsageError(f"none of the {len(chosen)} chosen objects has a fit: run fpipe fit-objects first")
    shapes = array_shapes(dataset, options.micro)
    layout = make_layout(options.to, tuple(shapes), _object_bytes(shapes, options.dtype))
    folder = ExportFolder(out, _record(dataset, options, rows, layout))
    try:
        result = _write_objects(folder, dataset, options, rows, layout, progress)
        result.unavailable = _unavailable(dataset, chosen)
        for object_id, reason in result.unavailable.items():
            progress.say(f"export: {object_id} has no planes: {reason}")
        _describe(folder, dataset, options, rows, layout, result, shapes, progress)
    except StaleSnapshotError as error:
        raise StoreMismatchError(
            f"the fit was changed while it was exported ({error}); export it to a new --out"
        ) from error
    finally:
        folder.sweep()
    return result


def array_shapes(dataset: PlanesDataset, micro: bool) -> dict[str, tuple[int, ...]]:
    """Returns the arrays of every object and their shapes; what a representation lacks is left out."""
    header = dataset.planes_store.header
    tail = (header.resolution, header.resolution)
    if not micro:
        f_mac = dataset.base_planes().shape[2] if header.n_base else 0
        return {"planes": (3, header.f_mic + f_mac, *tail)}
    shapes: dict[str, tuple[int, ...]] = {}
    if header.f_mic:
        shapes["micro"] = (3, header.f_mic, *tail)
    if header.n_base:
        shapes["coefficients"] = (header.n_base,)
    return shapes


def _object_bytes(shapes: dict[str, tuple[int, ...]], dtype: str) -> int:
    return sum(int(np.prod(shape)) * np.dtype(_dtype(shape, dtype)).itemsize for shape in shapes.values())


def _dtype(shape: Sequence[int], dtype: str) -> str:
    """The type of an array: coefficients are few, and base planes magnify their errors."""
    return dtype if len(shape) == 4 else "float32"


def _record(
    dataset: PlanesDataset, options: PlanesExport, rows: Sequence[PlanRow], layout: Layout
) -> dict[str, Any]:
    planes = dataset.planes_store
    return {
        "format": options.to,
        "plan_hash": planes.plan.plan_hash,
        "fit": planes.header.name,
        "fit_config_hash": planes.header.fit_config_hash,
        "shared_version": planes.header.shared_version,
        "generation": planes.journal().generation,
        "objects": ids_hash(rows),
        "objects_per_file": layout.objects_per_file,
        "dtype": options.dtype,
        "micro": options.micro,
    }


class Bounds:
    """Smallest and largest value of every channel, over planes [3, F, K, K] that are given one by one."""

    def __init__(self) -> None:
        self.lower: NDArray[np.float32] | None = None
        self.upper: NDArray[np.float32] | None = None

    def add(self, planes: NDArray[Any]) -> None:
        """Takes the planes of one object into account."""
        channels = stacked(planes).astype(np.float32)
        low, high = channels.min(axis=(1, 2)), channels.max(axis=(1, 2))
        self.lower = low if self.lower is None else np.minimum(self.lower, low)
        self.upper = high if self.upper is None else np.maximum(self.upper, high)


def _write_objects(
    folder: ExportFolder,
    dataset: PlanesDataset,
    options: PlanesExport,
    rows: Sequence[PlanRow],
    layout: Layout,
    progress: Progress,
) -> ExportResult:
    """Writes objects, bounds and base planes; for the bounds a continued export reads all objects again."""
    if folder.has(INDEX):
        return ExportResult(skipped=len(rows))
    batches = _batches(rows, layout)
    there = [all(map(folder.has, names)) for names, _ in batches]
    result = ExportResult(
        skipped=sum(len(b) for (_, b), is_there in zip(batches, there, strict=True) if is_there)
    )
    bounds = Bounds()
    progress.start(f"export to {options.to}", len(rows), "objects", result.skipped)
    try:
        for (names, batch), is_there in zip(batches, there, strict=True):
            found = _read(dataset, batch, options, bounds)
            if is_there:
                for _ in found:
                    pass
                continue
            layout.write(folder, names, found)
            result.written += len(batch)
            progress.advance(len(batch))
    finally:
        progress.finish()
    if bounds.lower is not None and bounds.upper is not None:
        folder.write(LOWER, npy_bytes(bounds.lower))
        folder.write(UPPER, npy_bytes(bounds.upper))
    if options.micro and dataset.planes_store.header.n_base:
        folder.write(BASE_PLANES, npy_bytes(dataset.base_planes()))
    return result


def _batches(rows: Sequence[PlanRow], layout: Layout) -> list[tuple[list[str], Sequence[PlanRow]]]:
    """Returns the objects that are written together, each batch with its files."""
    starts = range(0, len(rows), layout.objects_per_file)
    parts = [rows[start : start + layout.objects_per_file] for start in starts]
    return [(layout.names(number, part), part) for number, part in enumerate(parts)]


def _read(
    dataset: PlanesDataset, batch: Sequence[PlanRow], options: PlanesExport, bounds: Bounds
) -> Iterator[ExportedObject]:
    class_ids = {name: number for number, name in enumerate(dataset.classes)}
    for entry in batch:
        stored = dataset[entry.object_id]
        if options.micro:
            arrays = {"micro": stored.micro(), "coefficients": stored.coefficients()}
            arrays = {name: values for name, values in arrays.items() if values.size}
        else:
            arrays = {"planes": stored.planes()}
        arrays = {name: _converted(values, options.dtype, entry) for name, values in arrays.items()}
        for values in arrays.values():
            if values.ndim == 4:
                bounds.add(values)
        yield ExportedObject(entry, class_ids[entry.class_name], arrays)


def _converted(values: NDArray[Any], dtype: str, entry: PlanRow) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # an overflow becomes inf and is refused below
        converted = np.ascontiguousarray(values, _dtype(values.shape, dtype))
    if not np.isfinite(converted).all():
        raise UsageError(
            f"{entry.object_id}: planes reach ±{np.abs(values).max():.3g}, beyond {dtype}: use --dtype"
            " float32 and another --out"
        )
    return converted


def _unavailable(dataset: PlanesDataset, chosen: Sequence[PlanRow]) -> dict[str, str]:
    reasons = {row: failure.reason for row, _, failure in dataset.planes_store.each_failure()}
    missing = (row for row in chosen if dataset.status[row.row] != Status.OK)
    return {row.object_id: reasons.get(row.row, "not fitted yet") for row in missing}


def _describe(
    folder: ExportFolder,
    dataset: PlanesDataset,
    options: PlanesExport,
    rows: Sequence[PlanRow],
    layout: Layout,
    result: ExportResult,
    shapes: dict[str, tuple[int, ...]],
    progress: Progress,
) -> None:
    """Writes tables, card and Croissant where they are missing."""
    batches = _batches(rows, layout)
    files = list(itertools.chain.from_iterable([names[0]] * len(batch) for names, batch in batches))
    n_bytes = sum((folder.path / name).stat().st_size for names, _ in batches for name in names)
    facts = Facts(options, dataset, rows, result.unavailable, shapes, layout, files, n_bytes)
    if facts.unavailable and not folder.has(NOT_EXPORTED):
        folder.write(NOT_EXPORTED, not_exported_csv(facts))
    if not folder.has(INDEX):
        folder.write(INDEX, index_csv(facts))
    for name, content in ((CARD, card_text), (CROISSANT, croissant_json)):
        if folder.has(name):
            progress.say(f"export: {name} is there and stays; delete it to have it written again")
        else:
            folder.write(name, content(facts, folder.path))
