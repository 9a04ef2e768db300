"""The benchmark of the store runs, and what it counts is what the design promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_every_way_is_measured_and_ours_takes_one_request_per_object(tmp_path: Path) -> None:
    pytest.importorskip("tensorstore")
    pytest.importorskip("safetensors")
    arguments = ["--objects", "40", "--size", "2x4", "--places", "local", "s3-0ms", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench_store", *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines == json.loads((tmp_path / "bench-store.json").read_text())["lines"]
    assert (tmp_path / "bench-store.png").stat().st_size > 10_000
    found = {(line["place"], line["way"]): line for line in lines}
    assert len(found) == 2 * 7
    ours, zarr = found["s3-0ms", "fpipe"]["requests"], found["s3-0ms", "zarr-python"]["requests"]
    assert ours["random"] == 1.0 and ours["epoch"] < 0.2
    assert zarr["random"] == 3.0 and zarr["random_micro"] == 2.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench-store.json", "bench-store.png"]
