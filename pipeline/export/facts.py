"""What an export of planes holds: its card, Croissant metadata and tables are written from this."""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.evaluate import summarise
from pipeline.export.formats import Layout
from pipeline.provenance import versions
from render_jobs.sources.base import restrictive_terms
from storage.errors import UsageError
from storage.planes import FitHeader
from storage.reader import PlanesDataset
from storage.records import PlanRow

INDEX = "objects.csv"
NOT_EXPORTED = "not_exported.csv"
DTYPES = ("float32", "float16")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclass(frozen=True)
class PlanesExport:
    """How planes are exported, and what their card says about whoever publishes them.

    Attributes:
        to: format, one of `formats.LAYOUTS`.
        dtype: type of the planes; coefficients and base planes are always float32.
        micro: micro planes and coefficients instead of fused planes.
        license: identifier as the Hugging Face hub knows it; "other" says that nobody has chosen one.
        title: name of the dataset; None: the last part of its URL and the fit's name.
        creator: person or organisation, for Croissant.
        url: where it will be published, for Croissant.
    """

    to: str
    dtype: str = "float32"
    micro: bool = False
    license: str = "other"
    title: str | None = None
    creator: str | None = None
    url: str | None = None

    def check(self) -> None:
        """Raises UsageError for a type or licence that cannot be."""
        if self.dtype not in DTYPES:
            raise UsageError(f"--dtype {self.dtype}: use {' or '.join(DTYPES)}")
        if not _LICENSE.fullmatch(self.license):
            raise UsageError(
                f"--license {self.license!r}: give an identifier of the Hugging Face hub, such as cc-by-4.0"
            )


@dataclass(frozen=True)
class Facts:
    """An export of planes.

    Attributes:
        options: as given.
        dataset: what was exported.
        rows: the exported objects, in row order.
        unavailable: object_id → why the object is not in the export.
        shapes: array → shape in the store, of one object.
        layout: of the files.
        files: the first file of every object, as `rows`.
        n_bytes: size of all files that hold objects.
    """

    options: PlanesExport
    dataset: PlanesDataset
    rows: Sequence[PlanRow]
    unavailable: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    layout: Layout
    files: Sequence[str]
    n_bytes: int

    @property
    def header(self) -> FitHeader:
        """The fit's header."""
        return self.dataset.planes_store.header

    @property
    def title(self) -> str:
        """Name of the dataset."""
        name = self.dataset.planes_store.store.url.rstrip("/").rpartition("/")[2]
        return self.options.title or f"{name} ({self.header.name})"

    def axes(self, array: str) -> tuple[tuple[int, ...], str]:
        """Returns the shape of an array in the files, and what its axes are."""
        shape = self.shapes[array]
        if len(shape) != 4:
            return shape, "base plane"
        if self.options.to == "npy":
            return (shape[0] * shape[1], *shape[2:]), "plane × channel, row, column"
        return shape, "plane, channel, row, column"

    def dtype(self, array: str) -> str:
        """Returns the type of an array in the files."""
        return self.options.dtype if len(self.shapes[array]) == 4 else "float32"

    @property
    def n_channels(self) -> int:
        """Channels of a plane, 0 where only coefficients are exported."""
        return next((shape[1] for shape in self.shapes.values() if len(shape) == 4), 0)

    @cached_property
    def class_counts(self) -> dict[str, int]:
        """Class name → exported objects, by name."""
        return dict(sorted(Counter(row.class_name for row in self.rows).items()))

    @cached_property
    def class_ids(self) -> dict[str, int]:
        """Class name → number, over all classes of the dataset: a selection does not renumber them."""
        return {name: number for number, name in enumerate(self.dataset.classes)}

    @cached_property
    def quality(self) -> dict[str, Any]:
        """Statistics of the held-out metrics over the exported objects; see `evaluate.summarise`."""
        chosen = np.zeros(self.dataset.planes_store.spec.n_objects, dtype=bool)
        chosen[[row.row for row in self.rows]] = True
        planes = self.dataset.planes_store
        return summarise(planes.metrics(), np.where(chosen, planes.regime(), 0))

    @cached_property
    def provenance(self) -> dict[str, str]:
        """What made the planes. Paths and URLs stay out: a card is published."""
        plan = self.dataset.planes_store.plan
        return {
            "source": ", ".join(str(source.get("kind", "unknown")) for source in plan.sources),
            "fit": self.header.name,
            "shared_version": self.header.shared_version,
            "fit_config_hash": self.header.fit_config_hash,
            "plan_hash": plan.plan_hash,
            "fpipe_version": versions()["fpipe"] or "unknown",
            "exported": datetime.datetime.now(datetime.UTC).date().isoformat(),
        }

    @property
    def terms(self) -> str | None:
        """How the terms of the source's files may restrict passing on, None if not."""
        found = map(restrictive_terms, self.dataset.planes_store.plan.sources)
        return "; ".join(terms for terms in found if terms is not None) or None


def index_csv(facts: Facts) -> bytes:
    """Returns the table of all exported objects: ids, classes, held-out figures and files."""
    planes = facts.dataset.planes_store
    metrics, regime = planes.metrics(), planes.regime()
    lines: list[tuple[str, ...]] = [
        ("object_id", "class", "class_id", "row", "regime", "psnr_db", "ssim", "file")
    ]
    for entry, file in zip(facts.rows, facts.files, strict=True):
        figures = (_figure(metrics[name][entry.row]) for name in ("psnr_db", "ssim"))
        own = (entry.object_id, entry.class_name, str(facts.class_ids[entry.class_name]), str(entry.row))
        lines.append((*own, str(regime[entry.row]), *figures, file))
    return _csv(lines)


def not_exported_csv(facts: Facts) -> bytes:
    """Returns the table of the objects that were asked for and have no fit."""
    return _csv([("object_id", "reason"), *facts.unavailable.items()])


def ids_hash(rows: Sequence[PlanRow]) -> str:
    """Hashes which objects are exported."""
    return hashlib.sha256("\n".join(str(row.row) for row in rows).encode()).hexdigest()


def _figure(value: float) -> str:
    return f"{value:.4f}" if np.isfinite(value) else ""


def _csv(lines: Sequence[tuple[str, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()
