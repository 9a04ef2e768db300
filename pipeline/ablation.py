"""Representations side by side: each is trained and fitted on one dataset's views; one table compares them.

A representation is a configuration (`presets/ablation/`), and its fit one of the dataset's fits: everything
that reads fits reads these, and what is done already is skipped. Figures are those of regime 2, objects that
the shared components have not seen; times are wall times of this machine with its load.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from pipeline.compute import ComputeSession
from pipeline.config import PipelineConfig
from pipeline.evaluate import evaluate_dataset
from pipeline.fit_stage import fit_objects
from pipeline.progress import Progress
from pipeline.report.wording import fixed, size
from pipeline.stages import StageResult
from pipeline.train_stage import train_shared
from storage.documents import differences
from storage.errors import StoreMismatchError, UsageError
from storage.layout import REPORTS
from storage.planes import PlanesStore, list_fits, published_fit, read_fit_header
from storage.shared import read_published_shared, read_shared_meta, rendering_files
from storage.store import Store

REPRESENTATIONS: Final = ("fused-planes", "ulw", "one-base-plane", "micro-only", "rgb", "tri-planes")
TABLE_VERSION: Final = 1

_HEADER: Final = (
    *("representation", "PSNR dB", "foreground", "SSIM", "ceiling dB", "fit min/object", "fit CPU s"),
    *("training min", "bytes/object", "bytes shared", "pixel", "objects"),
)
_NOTE: Final = (
    "Held-out views of objects that the shared components were not trained on (regime 2); means of objects. "
    "Minutes are wall time: of the task that fitted an object, and of the whole joint training, both with "
    "the machine and load that they ran with; CPU seconds are the processor's for the same fit. Bytes shared "
    "are what a rendering needs: autoencoder, base planes, renderer, background."
)


@dataclass(frozen=True)
class AblationRow:
    """One representation's figures; None where there is no such figure.

    Attributes:
        name: The representation.
        fit: Name of its fit.
        shared_version: Its shared components.
        factor: Image pixels per rendered pixel, along a side.
        channels: What a pixel is rendered to.
        f_mic: Micro channels.
        f_mac: Base-plane channels.
        n_base: Base planes.
        objects: Objects of regime 2 that the figures are means of.
        psnr_db: Held-out PSNR.
        foreground_psnr_db: The same over the pixels of the object.
        ssim: Held-out SSIM.
        ceiling_psnr_db: PSNR of the autoencoder alone; None without one.
        fit_seconds: Wall seconds per object of the task that fitted it.
        fit_cpu_seconds: Processor seconds of the same, which other load changes less; a GPU's do not count.
        train_seconds: Wall seconds of the joint training, all objects.
        train_steps: Its steps.
        object_bytes: One object's code as stored.
        shared_bytes: Files that every rendering needs, by name.
    """

    name: str
    fit: str
    shared_version: str
    factor: int
    channels: int
    f_mic: int
    f_mac: int
    n_base: int
    objects: int
    psnr_db: float | None
    foreground_psnr_db: float | None
    ssim: float | None
    ceiling_psnr_db: float | None
    fit_seconds: float | None
    fit_cpu_seconds: float | None
    train_seconds: float | None
    train_steps: int
    object_bytes: int
    shared_bytes: Mapping[str, int]


def run_ablation(
    store: Store,
    configs: Mapping[str, PipelineConfig],
    prefix: str,
    session: ComputeSession,
    progress: Progress,
    environment: Mapping[str, str],
) -> list[StageResult]:
    """Train and fit every representation that is not done; the dataset's published fit stays as it is.

    Where nothing is published yet, the first representation is.

    Args:
        store: The dataset, with all views rendered.
        configs: Representation -> configuration, in the table's order.
        prefix: Fits are called `<prefix>-<representation>`.
        session: Computes.
        progress: Is told.
        environment: As for the fit stage.

    Returns:
        What was done, two results per representation.

    Raises:
        StoreMismatchError: A fit of this name has another configuration; said before anything is trained.
        FpipeError: A training or a fit failed; what is done stays, and the same call continues.
    """
    _require_same_settings(store, configs, prefix)
    results = []
    for number, (name, config) in enumerate(configs.items()):
        progress.say(f"ablate: {name} ({number + 1} of {len(configs)})")
        publish = number == 0 and read_published_shared(store) is None
        version, trained = train_shared(store, config, session, progress, publish=publish)
        publish = number == 0 and not _has_published_fit(store)
        fit = fit_name(prefix, name)
        fitted = fit_objects(
            store, config, fit, version, "all", session, progress, environment, publish=publish
        )
        results += [trained, fitted]
    return results


def _require_same_settings(store: Store, configs: Mapping[str, PipelineConfig], prefix: str) -> None:
    """Refuses settings that differ from those of a fit that is there, before hours of training."""
    existing = set(list_fits(store))
    for name, config in configs.items():
        fit = fit_name(prefix, name)
        if fit not in existing:
            continue
        header = read_fit_header(store, fit)
        asked = {section: config.content(section) for section in ("train", "fit")}
        trained = read_shared_meta(store, header.shared_version).get("info", {}).get("train_config")
        found = differences(asked, {"train": trained or asked["train"], "fit": header.fit_config})
        if found:
            raise StoreMismatchError(
                f"ablate: {fit} is there with other settings: {'; '.join(found[:8])}. Give the new ones "
                "another --name, or leave the settings as they were"
            )


def fit_name(prefix: str, name: str) -> str:
    """Name of a representation's fit."""
    return f"{prefix}-{name}"


def _has_published_fit(store: Store) -> bool:
    try:
        published_fit(store)
    except UsageError:
        return False
    return True


def ablation_rows(store: Store, names: Sequence[str], prefix: str) -> list[AblationRow]:
    """Read the figures of finished fits."""
    return [_row(store, name, PlanesStore.open(store, fit_name(prefix, name))) for name in names]


def _row(store: Store, name: str, planes: PlanesStore) -> AblationRow:
    header = planes.header
    figures = evaluate_dataset(store.url, header.name)["regime2"]
    meta = read_shared_meta(store, header.shared_version)
    return AblationRow(
        name=name,
        fit=header.name,
        shared_version=header.shared_version,
        factor=int(meta["factor"]),
        channels=int(meta["latent_channels"]),
        f_mic=header.f_mic,
        f_mac=int(meta["f_mac"]),
        n_base=header.n_base,
        objects=figures["objects"],
        psnr_db=figures["psnr_db"]["mean"],
        foreground_psnr_db=figures["foreground_psnr_db"]["mean"],
        ssim=figures["ssim"]["mean"],
        ceiling_psnr_db=figures["ceiling_psnr_db"]["mean"],
        fit_seconds=_fit_cost(planes, "seconds"),
        fit_cpu_seconds=_fit_cost(planes, "cpu_seconds"),
        train_seconds=meta["info"].get("seconds"),
        train_steps=_train_steps(meta["info"]),
        object_bytes=sum(header.object_bytes),
        shared_bytes=rendering_files(store, header.shared_version),
    )


def _train_steps(info: Mapping[str, Any]) -> int:
    """Steps of a joint training; datasets of before the number was stored hold the whole curve."""
    return int(info["steps"]) if "steps" in info else len(info.get("curve", ()))


def _fit_cost(planes: PlanesStore, name: str) -> float | None:
    """Mean over the objects of regime 2."""
    regime, found = planes.regime(), []
    for shard in sorted(planes.done()):
        for record in planes.sidecar(shard).objects:
            if regime[record.row] == 2 and name in record.info:
                found.append(float(record.info[name]))
    return float(np.mean(found)) if found else None


def table_cells(rows: Sequence[AblationRow]) -> list[list[str]]:
    """The table as text, header first."""
    cells = [list(_HEADER)]
    for row in rows:
        cells.append(
            [
                row.name,
                fixed(row.psnr_db, 2),
                fixed(row.foreground_psnr_db, 2),
                fixed(row.ssim, 4),
                fixed(row.ceiling_psnr_db, 2),
                fixed(_minutes(row.fit_seconds), 3),
                fixed(row.fit_cpu_seconds, 2),
                fixed(_minutes(row.train_seconds), 2),
                size(row.object_bytes),
                size(sum(row.shared_bytes.values())),
                f"{row.factor}×{row.factor} → {row.channels}",
                str(row.objects),
            ]
        )
    return [[cell.replace("\u202f", " ") for cell in line] for line in cells]


def _minutes(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 60.0


def table_json(rows: Sequence[AblationRow]) -> dict[str, Any]:
    """The table as plain JSON values."""
    return {"version": TABLE_VERSION, "regime": 2, "rows": [asdict(row) for row in rows]}


def store_table(store: Store, rows: Sequence[AblationRow], prefix: str) -> str:
    """Write `reports/<prefix>.json` and `.md`; returns the key of the second."""
    cells = table_cells(rows)
    lines = [cells[0], ["---", *["---:"] * (len(cells[0]) - 1)], *cells[1:]]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    store.replace(f"{REPORTS}/{prefix}.json", json.dumps(table_json(rows), indent=1).encode())
    key = f"{REPORTS}/{prefix}.md"
    store.replace(key, f"# Representations side by side\n\n{_NOTE}\n\n{text}\n".encode())
    return key
