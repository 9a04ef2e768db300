"""Executors × faults: whatever goes wrong, the dataset comes out the same, and little is done twice.

One stage, `fit-objects` with cheap work (see `work`), started in every way there is. `make conformance` runs
all cells and prints the table; the tests of every commit run a few that do not wait for Ray.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.cells import EXECUTORS, FAULTS, exists, run_cell, write_dataset

QUICK = {
    "local": ("SIGSEGV", "driver killed"),
    "slurm array": ("SIGTERM to the driver",),
    "kubernetes indexed job": ("raise",),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("conformance") / "views"
    write_dataset(root)
    return root


@pytest.mark.parametrize(
    ("executor", "fault"), [(name, fault) for name, faults in QUICK.items() for fault in faults]
)
def test_the_dataset_is_whole_whatever_goes_wrong(
    executor: str, fault: str, dataset: Path, tmp_path: Path
) -> None:
    run_cell(executor, fault, dataset, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("executor", "fault"),
    [
        (name, fault)
        for name in EXECUTORS
        for fault in FAULTS
        if exists(name, fault) and fault not in QUICK.get(name, ())
    ],
)
def test_the_other_cells(executor: str, fault: str, dataset: Path, tmp_path: Path) -> None:
    run_cell(executor, fault, dataset, tmp_path)
