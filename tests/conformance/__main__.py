"""Runs every cell of the conformance table and prints it as Markdown: what was done again, and for how long.

python -m tests.conformance [--out FILE.md]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.conformance.cells import EXECUTORS, FAULTS, exists, run_cell, write_dataset
from tests.conformance.check import Cell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="also write the table here")
    parser.add_argument("--executors", nargs="+", choices=EXECUTORS, default=list(EXECUTORS))
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="c-", dir="/tmp") as name:
        folder = Path(name)
        write_dataset(folder / "views")
        cells: dict[tuple[str, str], str] = {}
        for executor in options.executors:
            for fault in options.faults:
                if exists(executor, fault):
                    cells[fault, executor] = _run(folder, executor, fault)
    rows = [["fault", *options.executors], ["---"] * (1 + len(options.executors))]
    for fault in options.faults:
        rows.append([fault, *(cells.get((fault, executor), "") for executor in options.executors)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    sys.stdout.write(table + "\n")
    if options.out:
        options.out.write_text(table + "\n")
    sys.exit(any(text.startswith("FAILED") for text in cells.values()))


def _run(folder: Path, executor: str, fault: str) -> str:
    own = Path(tempfile.mkdtemp(dir=folder))
    try:
        cell = run_cell(executor, fault, folder / "views", own)
    except AssertionError as error:
        text = f"FAILED: {error}"
    else:
        text = _text(cell)
    sys.stderr.write(f"{executor}: {fault}: {text}\n")
    return text


def _text(cell: Cell) -> str:
    """Says what one fault cost."""
    parts = [f"{cell.repeated} again"]
    if cell.recovery_s is not None:
        parts.append(f"{cell.recovery_s:.1f} s")
    if cell.commands > 1:
        parts.append("same command once more")
    return ", ".join(parts)


if __name__ == "__main__":
    main()
