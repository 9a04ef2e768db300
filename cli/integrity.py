"""`fpipe verify` and `fpipe repair`: damaged bytes, missing files, and what can be done about them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.options import (
    AsJson,
    ExecutorName,
    RayAddress,
    Root,
    Settings,
    Workers,
    command_line,
    print_json,
)

if TYPE_CHECKING:
    from pipeline.repair_stage import RepairResult
    from storage.records import Problem

DAMAGED_EXIT_CODE: Final = 42
NAMED_OBJECTS: Final = 3
"""Objects that a line names at most; `--json` has all."""


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(verify)
    app.command()(repair)


def verify(
    root: Root,
    full: Annotated[
        bool, typer.Option("--full", help="Read every byte, not only small files and ends of shards.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look for damage: one line per finding, with the objects and what mends it. Changes nothing.

    Quick reads small documents, the plan, and the end of every shard file. Exit code 42 when something is
    damaged. Not covered: runs/, reports/ and quarantine/.
    """
    from dataclasses import asdict

    from cli.logs import say
    from storage.store import Store
    from storage.verify import each_problem

    problems = []
    for problem in each_problem(Store(root), full):
        problems.append(problem)
        if not as_json:
            print(problem_text(problem, root), flush=True)
    if as_json:
        found = [{**asdict(problem), "command": mend_text(problem, root)} for problem in problems]
        print_json("verify", {"full": full, "problems": found})
    more = "" if full else f"; every byte: fpipe verify {root} --full"
    say(f"verify: {len(problems)} findings{more}" if problems else f"verify: nothing is damaged{more}")
    sys.exit(DAMAGED_EXIT_CODE if problems else 0)


def repair(
    root: Root,
    settings: Settings = None,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Mend what verify --full finds: rebuild derived files, render and fit damaged objects again.

    Replaced files stay under quarantine/; nothing is deleted. Exit code 42 when something is left.
    """
    from cli.failures import compute_config
    from cli.logs import make_progress, say
    from pipeline.compute import ComputeSession
    from pipeline.repair_stage import repair as run_repair
    from storage.store import Store

    store = Store(root)
    config = compute_config(store, settings, executor, ray_address, workers)
    with ComputeSession(config.compute) as session:
        result = run_repair(store, config, session, make_progress(), command_line())
    if as_json:
        print_json("repair", result.as_json())
    say(repair_text(result, root))
    sys.exit(result.exit_code)


def problem_text(problem: Problem, root: str) -> str:
    """Returns "key: what is wrong (objects a, b and 3 more): what mends it"."""
    named = ", ".join(problem.objects[:NAMED_OBJECTS])
    if len(problem.objects) > NAMED_OBJECTS:
        named += f" and {len(problem.objects) - NAMED_OBJECTS} more"
    objects = f" ({named})" if named else ""
    return f"{problem.key}: {problem.message}{objects}: {mend_text(problem, root)}"


def mend_text(problem: Problem, root: str) -> str:
    """Returns the command that mends a finding, or what else to do."""
    from storage import layout

    if problem.mend == "wait":
        return "verify again when no other command is changing the dataset"
    if problem.mend != "restore":
        return f"fpipe repair {root}"
    if problem.key == layout.PUBLISHED_FIT:
        return f"fpipe fit-objects {root} (computes nothing that is done)"
    if problem.key == layout.PUBLISHED_SHARED:
        return "the fpipe train-shared command that made it (computes nothing that is done)"
    if problem.key == layout.LEASE:
        return "move the file away, when no command is changing the dataset"
    if layout.is_fit_statistics(problem.key):
        return "move the file away: statistics of an earlier state, which only readers that pin it need"
    return "put back a copy of this file: nothing else in the dataset says what it held"


def repair_text(result: RepairResult, root: str) -> str:
    """Says what a repair did and what is left."""
    given_up = sum(map(len, result.given_up.values()))
    lines = [
        f"repair: {result.found} findings; {len(result.rebuilt)} files rebuilt, {given_up} results given up, "
        f"{len(result.mended)} computed again"
    ]
    for object_id, (kind, reason) in result.failing.items():
        lines.append(f"  no result: {object_id}: {kind}: {reason}")
    lines += [f"  left: {problem_text(problem, root)}" for problem in result.left]
    return "\n".join(lines)
