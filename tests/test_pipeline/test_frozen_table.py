"""The table of the comparison, from results that are made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.frozen.design import Design, jobs_of
from pipeline.frozen.job import BlockResult
from pipeline.frozen.table import mode_rows, note, store_table, table_cells, table_json
from storage.store import Store

DESIGN = Design("car", (0, 1, 2, 3), block=2, seed=0)
JOBS = jobs_of(DESIGN)
PSNR = {"frozen": 20.0, "decoder": 21.0, "retrained": 23.0}


def _result(mode: str, half: str, rows: tuple[int, ...], block: int) -> BlockResult:
    """Object i has the coefficient 10·i; what a block re-trains moves half b's by 100 per block."""
    moved = 100.0 * (block + 1) if (mode, half) == ("retrained", "b") else 0.0
    own = np.array(rows)
    return BlockResult(
        rows=own,
        coefficients=(10.0 * own[:, None] + moved).astype(np.float32),
        psnr_db=PSNR[mode] + own + (half == "b"),
        ssim=np.full(len(own), 0.9),
        steps=np.tile([30, 5], (len(own), 1)),
        seconds=2.0,
        own_bytes=0 if mode == "frozen" else 1000,
        failures=np.array(["", ""], "<U9"),
    )


def _results() -> dict[str, BlockResult]:
    return {job.name: _result(job.mode.name, job.half, job.rows, job.block) for job in JOBS}


def test_figures_are_means_over_objects_and_halves() -> None:
    frozen, decoder, retrained = mode_rows(DESIGN, JOBS, _results(), code_bytes=48)
    # Objects 0 to 3 have 20 to 23 dB in half a and one more in half b: 21.5 + 0.5.
    assert frozen.psnr_db == 22.0
    assert (decoder.psnr_gain_db, decoder.psnr_gain_interval_db) == (1.0, (1.0, 1.0))
    assert (retrained.psnr_gain_db, retrained.steps, retrained.seconds) == (3.0, (30, 5), 2.0)
    # A block of two has 1000 bytes for itself: 500 each.
    assert (frozen.object_bytes, decoder.object_bytes) == (48, 548)
    assert frozen.chance == 0.25


def test_recall_is_one_in_a_common_space_and_lost_where_blocks_have_their_own() -> None:
    frozen, _, retrained = mode_rows(DESIGN, JOBS, _results(), code_bytes=48)
    assert frozen.recall_at_1["euclidean"] == 1.0
    # Half b of the re-trained blocks lies at 100 and more: the gallery entry with the lowest coefficient, a
    # single one, is the nearest of all four queries. One of four is right.
    assert retrained.recall_at_1["euclidean"] == 0.25
    low, high = retrained.recall_interval["euclidean"]
    assert 0 <= low < 0.25 < high <= 1


def test_an_object_that_failed_is_counted_and_not_found() -> None:
    results = _results()
    (job,) = (job for job in JOBS if job.mode.name == "frozen" and job.half == "a" and 2 in job.rows)
    at = job.rows.index(2)
    broken = results[job.name]
    broken.coefficients[at], broken.psnr_db[at], broken.failures[at] = np.nan, np.nan, "no"
    frozen = mode_rows(DESIGN, JOBS, results, code_bytes=48)[0]
    assert frozen.failures == (f"{job.name}: row 2: no",)
    assert frozen.recall_at_1["euclidean"] == 0.75
    # Seven figures are left: 20, 21, 23 of half a and 21, 22, 23, 24 of half b.
    assert frozen.psnr_db == pytest.approx(154 / 7)


def test_the_table_as_text_and_json(tmp_path: Path) -> None:
    rows = mode_rows(DESIGN, JOBS, _results(), code_bytes=48)
    header, frozen, _, retrained = table_cells(rows)
    assert len(header) == len(frozen)
    assert frozen[1:3] == ["22.00", "–"]
    assert retrained[1:3] == ["25.00", "+3.00 (+3.00 to +3.00)"]
    assert frozen[4:7] == ["30 + 5", "2.00", "48 B"]
    store = Store(tmp_path)
    key = store_table(store, DESIGN, rows, "mine")
    text = store.read(key).decode()
    assert note(DESIGN) in text
    assert "| everything frozen | 22.00 |" in text
    assert json.loads(store.read("reports/mine.json")) == table_json(DESIGN, rows)
    assert table_json(DESIGN, rows)["rows"][2]["recall_at_1"].keys() == {
        "euclidean",
        "cosine",
        "standardised",
    }
