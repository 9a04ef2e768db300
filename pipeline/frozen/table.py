"""The table of the comparison: one row per mode, from the results of its blocks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.frozen.blocks import FROZEN, MODES
from pipeline.frozen.design import HALVES, BlockJob, Design, Half
from pipeline.frozen.job import BlockResult
from pipeline.frozen.recall import MEASURE, MEASURES, RESAMPLES, bootstrap_interval, hits_at_1
from pipeline.metrics import PSNR_DEFINITION, SSIM_DEFINITION
from pipeline.report.wording import MISSING, fixed, signed, size
from storage.documents import plain
from storage.layout import REPORTS, checked_name
from storage.store import Store

TABLE_VERSION: Final = 1
LABELS: Final = {
    "frozen": "everything frozen",
    "decoder": "decoder fine-tuned per block",
    "retrained": "base planes, renderer and decoder re-trained per block",
}
_HEADER: Final = (
    *("mode", "PSNR dB", "against frozen", "SSIM", "steps", "s/object", "bytes/object"),
    *("recall@1", "95% interval", "chance"),
)


@dataclass(frozen=True)
class ModeRow:
    """One mode's figures, over both halves.

    Attributes:
        mode: Its name.
        objects: Objects that were fitted twice.
        failures: Fits that cannot be used, with block, row of the plan and reason; such an object counts as
            not found.
        psnr_db: Held-out PSNR, mean of objects.
        psnr_gain_db: Mean difference to everything frozen, of the same objects.
        psnr_gain_interval_db: Its 95% bootstrap interval.
        ssim: Held-out SSIM.
        steps: Latent and RGB steps.
        seconds: Per object and fit: processor's on a CPU.
        code_bytes: One object's code as stored.
        own_bytes: Of components that a block has for itself.
        object_bytes: Code, and the object's share of those.
        recall_at_1: By measure.
        recall_interval: 95% bootstrap intervals of the same.
        chance: Recall@1 of guessing.
    """

    mode: str
    objects: int
    failures: tuple[str, ...]
    psnr_db: float
    psnr_gain_db: float
    psnr_gain_interval_db: tuple[float, float]
    ssim: float
    steps: tuple[int, int]
    seconds: float
    code_bytes: int
    own_bytes: int
    object_bytes: float
    recall_at_1: Mapping[str, float]
    recall_interval: Mapping[str, tuple[float, float]]
    chance: float


def mode_rows(
    design: Design, jobs: Sequence[BlockJob], results: Mapping[str, BlockResult], code_bytes: int
) -> list[ModeRow]:
    """Figures of all modes.

    Args:
        design: Of the comparison.
        jobs: All of its blocks.
        results: By the blocks' names.
        code_bytes: Of one object's code.
    """
    base = _mean_psnr(design, jobs, results, FROZEN.name)
    rows = []
    for mode in MODES:
        own = [results[job.name] for job in jobs if job.mode == mode]
        gain = _mean_psnr(design, jobs, results, mode.name) - base
        found = [hits_at_1(MEASURES[name](*_codes(design, jobs, results, mode.name))) for name in MEASURES]
        n_objects, n_blocks = len(design.rows), len(own)
        rows.append(
            ModeRow(
                mode=mode.name,
                objects=n_objects,
                failures=_failures([job for job in jobs if job.mode == mode], results),
                psnr_db=_mean([block.psnr_db for block in own]),
                psnr_gain_db=_mean([gain]),
                psnr_gain_interval_db=bootstrap_interval(gain, design.seed),
                ssim=_mean([block.ssim for block in own]),
                steps=_steps(own),
                seconds=sum(block.seconds * len(block.rows) for block in own) / (2 * n_objects),
                code_bytes=code_bytes,
                own_bytes=own[0].own_bytes,
                object_bytes=code_bytes + own[0].own_bytes * n_blocks / (2 * n_objects),
                recall_at_1={name: float(hits.mean()) for name, hits in zip(MEASURES, found, strict=True)},
                recall_interval={
                    name: bootstrap_interval(hits, design.seed)
                    for name, hits in zip(MEASURES, found, strict=True)
                },
                chance=1.0 / n_objects,
            )
        )
    return rows


def _codes(
    design: Design, jobs: Sequence[BlockJob], results: Mapping[str, BlockResult], mode: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients [N, M] of the fits to half a, the queries, and to half b, the gallery."""
    queries, gallery = (
        _by_object(design, jobs, results, mode, half, "coefficients").astype(np.float64) for half in HALVES
    )
    return queries, gallery


def _mean_psnr(
    design: Design, jobs: Sequence[BlockJob], results: Mapping[str, BlockResult], mode: str
) -> NDArray[np.float64]:
    """[N] mean of an object's two fits."""
    halves = [_by_object(design, jobs, results, mode, half, "psnr_db") for half in HALVES]
    return np.asarray(np.mean(halves, axis=0), dtype=np.float64)


def _by_object(
    design: Design,
    jobs: Sequence[BlockJob],
    results: Mapping[str, BlockResult],
    mode: str,
    half: Half,
    name: str,
) -> NDArray[Any]:
    """A figure [N, …] of all objects of one half, in the design's order: blocks have orders of their own."""
    blocks = [results[job.name] for job in jobs if job.mode.name == mode and job.half == half]
    rows = np.concatenate([block.rows for block in blocks])
    values = np.concatenate([getattr(block, name) for block in blocks])
    order = np.argsort(rows)
    assert tuple(rows[order].tolist()) == design.rows, "every object is in one block of each half"
    return np.asarray(values[order])


def _failures(jobs: Sequence[BlockJob], results: Mapping[str, BlockResult]) -> tuple[str, ...]:
    found = ((job.name, zip(results[job.name].rows, results[job.name].failures, strict=True)) for job in jobs)
    return tuple(f"{name}: row {row}: {reason}" for name, block in found for row, reason in block if reason)


def _mean(values: Sequence[NDArray[np.float64]]) -> float:
    joined = np.concatenate(values)
    finite = joined[np.isfinite(joined)]
    return float(finite.mean()) if len(finite) else float("nan")


def _steps(blocks: Sequence[BlockResult]) -> tuple[int, int]:
    """Most steps of any object: one that stops early, or fails, has fewer."""
    latent, rgb = np.concatenate([block.steps for block in blocks]).max(axis=0).tolist()
    return int(latent), int(rgb)


def table_cells(rows: Sequence[ModeRow]) -> list[list[str]]:
    """The table as text, header first."""
    cells = [list(_HEADER)]
    for row in rows:
        low, high = row.recall_interval[MEASURE]
        line = [
            LABELS[row.mode],
            fixed(row.psnr_db, 2),
            _gain(row),
            fixed(row.ssim, 4),
            f"{row.steps[0]} + {row.steps[1]}",
            fixed(row.seconds, 2),
            size(row.object_bytes),
            fixed(row.recall_at_1[MEASURE], 3),
            f"{fixed(low, 3)} to {fixed(high, 3)}",
            fixed(row.chance, 3),
        ]
        cells.append([cell.replace("\u202f", " ") for cell in line])
    return cells


def _gain(row: ModeRow) -> str:
    if row.mode == FROZEN.name:
        return MISSING
    low, high = (signed(bound, 2) for bound in row.psnr_gain_interval_db)
    return f"{signed(row.psnr_gain_db, 2)} ({low} to {high})"


def table_json(design: Design, rows: Sequence[ModeRow]) -> dict[str, Any]:
    """The table as plain JSON values."""
    found: dict[str, Any] = plain(
        {
            "version": TABLE_VERSION,
            "class": design.class_name,
            "objects": len(design.rows),
            "block": design.block,
            "seed": design.seed,
            "measure": MEASURE,
            "resamples": RESAMPLES,
            "definitions": {"psnr_db": PSNR_DEFINITION, "ssim": SSIM_DEFINITION},
            "rows": [asdict(row) for row in rows],
        }
    )
    return found


def note(design: Design) -> str:
    """What the table says, in words."""
    n = len(design.rows)
    return (
        f"{n} objects of class {design.class_name}, none of them jointly trained, each fitted twice: to two "
        f"disjoint halves of its training views, with other random numbers, and in blocks of {design.block} "
        "that are put together anew for the second. Figures are means over both fits, on held-out views, "
        "with the decoder that the block has in the end. Seconds are the processor's (a GPU's: wall), steps "
        "are as many as take the time of the frozen fit. Bytes are one object's code and its share of what "
        "its block trained for itself. Recall@1: the coefficients of the first fit find those of the second "
        f"among {n} by {MEASURE} distance; chance is 1/{n}. Intervals: 95%, objects drawn again "
        f"{RESAMPLES:,} times."
    )


def store_table(store: Store, design: Design, rows: Sequence[ModeRow], name: str) -> str:
    """Write `reports/<name>.json` and `.md`; returns the key of the second."""
    cells = table_cells(rows)
    lines = [cells[0], ["---", *["---:"] * (len(cells[0]) - 1)], *cells[1:]]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    values = json.dumps(table_json(design, rows), indent=1)
    store.replace(f"{REPORTS}/{checked_name(name)}.json", values.encode())
    key = f"{REPORTS}/{checked_name(name)}.md"
    store.replace(key, f"# The frozen choice, measured\n\n{note(design)}\n\n{text}\n".encode())
    return key
