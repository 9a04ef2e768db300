"""`make soak`: Ray nodes that come and go, and Ray drivers that are killed; JSON lines and a table.

    python -m tests.soak [--seed S] [--shards N] [--kills K] [--parts nodes drivers]

The dataset is made once undisturbed, with the local executor, and every disturbed one is held against it.
A seed gives the same draws; what the machine does in between is not the same. Exit code 1 when something was
found, or when too little was disturbed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.soak.case import Case
from tests.soak.compare import Comparison
from tests.soak.drivers import Killer, Plan
from tests.soak.leftovers import Leftovers, short_folder
from tests.soak.nodes import Weather, cluster, disturbed_stage

FEWEST_CHANGES = 4
"""Nodes that must have gone in each stage, so that the run shows something."""


def main() -> int:
    """Runs what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--shards", type=int, default=64, help="of each stage, a multiple of 16")
    parser.add_argument("--kills", type=int, default=20, help="drivers that are killed, in all")
    parser.add_argument("--parts", nargs="+", choices=["nodes", "drivers"], default=["nodes", "drivers"])
    parser.add_argument(
        "--undisturbed", type=Path, help="the undisturbed dataset: made there, or gone on with"
    )
    given = parser.parse_args()
    if given.shards % 16:
        parser.error(f"--shards {given.shards} is not a multiple of 16")
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    say(f"seed {seed}")
    found: list[str] = []
    lines: list[dict[str, Any]] = []
    with short_folder() as folder, Leftovers(folder / "t") as leftovers:
        undisturbed = given.undisturbed or folder / "undisturbed"
        case = Case(given.shards, folder, leftovers.environment)
        case.below("first").undisturbed(undisturbed)
        if "nodes" in given.parts:
            draws = random.Random(f"{seed} nodes")
            found += run_nodes(case.below("nodes"), undisturbed, draws, leftovers, lines)
        if "drivers" in given.parts:
            draws = random.Random(f"{seed} drivers")
            found += run_drivers(case, undisturbed, given.kills, draws, leftovers, lines)
    say(table(lines))
    say("\n".join(found) or "nothing was found")
    return int(bool(found))


def run_nodes(
    case: Case, undisturbed: Path, draws: random.Random, leftovers: Leftovers, lines: list[dict[str, Any]]
) -> list[str]:
    """Makes one dataset on nodes that come and go; prints a line per stage, returns what was found."""
    found: list[str] = []
    root = case.folder / "dataset"
    with cluster(draws, leftovers) as nodes:
        for stage in ("render", "fit-objects"):
            report = disturbed_stage(case, stage, root, undisturbed, nodes, Weather(), leftovers)
            tell(lines, "nodes", report.as_json())
            found += [f"nodes, {stage}: {problem}" for problem in report.problems]
            gone = report.changes["lost"] + report.changes["removed"]
            if gone < FEWEST_CHANGES:
                found.append(f"nodes, {stage}: only {gone} nodes went, {FEWEST_CHANGES} are needed")
            if stage == "render":
                case.finish("train-shared", root, "--executor", "local")
    return found


def run_drivers(
    case: Case,
    undisturbed: Path,
    kills: int,
    draws: random.Random,
    leftovers: Leftovers,
    lines: list[dict[str, Any]],
) -> list[str]:
    """Makes datasets until enough drivers were killed; prints a line for each, returns what was found."""
    found: list[str] = []
    left, number = kills, 0
    while left > 0:
        own = case.below(f"drivers-{number}")
        report = Killer(own, own.folder / "dataset", draws, leftovers).run(Plan.of(left), undisturbed)
        tell(lines, "drivers", report.as_json())
        found += [f"drivers, dataset {number}: {problem}" for problem in report.problems]
        left -= sum(report.kills.values())
        number += 1
    return found


def table(lines: list[dict[str, Any]]) -> str:
    """The counts side by side: a column per stage on nodes, and per dataset of killed drivers."""
    names = dict.fromkeys(name for line in lines for name in line if name not in ("comparison", "problems"))
    cells = [[_text(line.get(name, "")) for line in lines] for name in names]
    compared = [name for name in asdict(Comparison()) if name != "problems"]
    cells += [[_text(line["comparison"][name]) for line in lines] for name in compared]
    cells.append([str(len(line["problems"])) for line in lines])
    rows = [[name, *row] for name, row in zip([*names, *compared, "problems"], cells, strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items()) or "-"
    return f"{value:.2g}" if isinstance(value, float) and value < 1 else str(value)


def tell(lines: list[dict[str, Any]], part: str, values: dict[str, Any]) -> None:
    """Prints a line, and keeps it for the table."""
    lines.append({"part": part, **values})
    print(json.dumps(lines[-1]), flush=True)  # noqa: T201


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
