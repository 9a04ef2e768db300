"""`fpipe ablate`: the six representations, trained and fitted on the same views, in one table."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli.options import (
    AsJson,
    ExecutorName,
    RayAddress,
    Root,
    Settings,
    Workers,
    compute_overrides,
    print_json,
    resolve_config,
)

Representation = Annotated[
    list[str] | None,
    typer.Option(help="A preset of ablation/ by name, or a YAML file; repeatable. Default: all six."),
]
Prefix = Annotated[str, typer.Option("--name", help="Fits are called NAME-REPRESENTATION.")]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(ablate)


def ablate(
    root: Root,
    representation: Representation = None,
    name: Prefix = "ablation",
    settings: Settings = None,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Compare representations on one dataset, rendered first if there is none. Run again, it continues."""
    from cli.logs import make_progress, say
    from cli.tables import table
    from pipeline.ablation import (
        REPRESENTATIONS,
        ablation_rows,
        run_ablation,
        store_table,
        table_cells,
        table_json,
    )
    from pipeline.compute import ComputeSession
    from pipeline.render_stage import render
    from storage.store import Store

    store, progress = Store(root), make_progress()
    presets = _presets(representation or REPRESENTATIONS)
    overrides = compute_overrides(executor, ray_address, workers)

    configs = {
        label: resolve_config(store, preset, settings, overrides, ("train", "fit"))
        for label, preset in presets.items()
    }
    first = next(iter(configs.values()))
    with ComputeSession(first.compute) as session:
        results = [render(store, first, "all", session, progress, dict(os.environ))]
        results += run_ablation(store, configs, name, session, progress, os.environ)
    rows = ablation_rows(store, list(configs), name)
    key = store_table(store, rows, name)
    if as_json:
        print_json("ablation", table_json(rows))
    else:
        print(table(table_cells(rows)))
    say(f"ablate: table stored as {store.local_path(key) or f'{store.url}/{key}'}")
    say(f"look at one: fpipe report {root} --name {rows[0].fit}")
    sys.exit(max(result.exit_code for result in results))


def _presets(representations: Sequence[str]) -> dict[str, str]:
    """Preset of every representation by its name in the table.

    Raises:
        UsageError: There is no such preset, or two would have the same name.
    """
    from storage.errors import UsageError

    presets: dict[str, str] = {}
    for chosen in representations:
        label = _label(chosen)
        if label in presets:
            raise UsageError(
                f"--representation {chosen}: {presets[label]} is called {label!r}, too: rename the file"
            )
        presets[label] = _preset(chosen)
    return presets


def _label(chosen: str) -> str:
    return Path(chosen).stem if chosen.endswith((".yaml", ".yml")) else chosen.removeprefix("ablation/")


def _preset(chosen: str) -> str:
    """Preset name of a representation; files are presets as they are."""
    from pipeline.config import preset_names
    from storage.errors import UsageError

    if Path(chosen).is_file():
        return chosen
    preset = f"ablation/{chosen.removeprefix('ablation/')}"
    if preset not in preset_names():
        known = [other.removeprefix("ablation/") for other in preset_names() if other.startswith("ablation/")]
        raise UsageError(f"--representation {chosen!r}: there are {', '.join(known)}, or give a YAML file")
    return preset
