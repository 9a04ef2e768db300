"""`fpipe compare-frozen`: frozen shared components beside ones that blocks of objects train themselves."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli.options import (
    AsJson,
    ExecutorName,
    Preset,
    RayAddress,
    Root,
    Settings,
    Workers,
    compute_overrides,
    print_json,
    resolve_config,
)

Name = Annotated[str, typer.Option("--name", help="Of the comparison: reports/NAME.md, .json and NAME/.")]
Objects = Annotated[int, typer.Option(help="Objects, drawn from those not jointly trained.", min=2)]
Block = Annotated[int, typer.Option(help="Objects that share a decoder or base planes of their own.", min=1)]
ClassName = Annotated[
    str | None, typer.Option("--class", help="Class of the objects; default: the one with the most.")
]
Shared = Annotated[str | None, typer.Option(help="shared_version; default: the last one trained.")]
Seed = Annotated[int, typer.Option(help="Of the choice of objects, of halves and of blocks.", min=0)]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("compare-frozen")(compare_frozen)


def compare_frozen(
    root: Root,
    objects: Objects = 64,
    block: Block = 16,
    class_name: ClassName = None,
    shared: Shared = None,
    seed: Seed = 0,
    name: Name = "frozen-choice",
    preset: Preset = None,
    settings: Settings = None,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Compare frozen shared components with ones trained per block of objects, at equal time.

    Each object is fitted twice, to disjoint halves of its training views: PSNR, bytes, and whether its
    coefficients find each other again (recall@1). Run again, it continues.
    """
    from cli.logs import make_progress, say
    from cli.tables import table
    from pipeline.compute import ComputeSession
    from pipeline.frozen.stage import Question
    from pipeline.frozen.stage import compare_frozen as run_comparison
    from pipeline.frozen.table import store_table, table_cells, table_json
    from storage.store import Store

    store = Store(root)
    overrides = compute_overrides(executor, ray_address, workers)
    config = resolve_config(store, preset, settings, overrides, ("fit",))
    question = Question(name, class_name, objects, block, seed, shared)
    with ComputeSession(config.compute) as session:
        design, rows, result = run_comparison(store, config, question, session, make_progress())
    key = store_table(store, design, rows, name)
    if as_json:
        print_json("compare-frozen", table_json(design, rows))
    else:
        print(table(table_cells(rows)))
    say(f"compare-frozen: table stored as {store.local_path(key) or f'{store.url}/{key}'}")
    sys.exit(result.exit_code)
