"""`fpipe append`: more objects for a dataset that exists."""

from __future__ import annotations

import typer

from cli.data import Classes, Front, SourceName, SourcePath, Up, source_overrides
from cli.options import AsJson, Root, Settings, print_json, resolve_config


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(append)


def append(
    root: Root,
    source: SourceName = None,
    path: SourcePath = None,
    classes: Classes = None,
    up: Up = None,
    front: Front = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Add objects to a dataset: those that its source, or another one, has and the dataset has not.

    Objects that are there keep their rows, views and fits; new ones get the same views. With
    --classes car:2000 the source chooses 2000 cars, and those that are missing are added. Then run render and
    fit-objects again: they do what is new. The shared components stay.
    """
    from cli.logs import say
    from pipeline.append_stage import append as run_append
    from pipeline.append_stage import source_base
    from storage.store import Store

    store = Store(root)
    overrides = source_overrides(source, path, classes, up, front)
    base = source_base(store, source, path is not None)
    result = run_append(store, resolve_config(store, None, settings, overrides, stored=base))
    if as_json:
        print_json("append", result.as_json())
    if not result.rows:
        say(f"append: nothing new: all {result.known} objects of the source are in the dataset")
        return
    added = ", ".join(f"{name} {count}" for name, count in result.added.items())
    say(
        f"append: {len(result.rows)} objects added ({added}) in rows {result.rows[0]} to {result.rows[-1]}"
        + (f"; {result.known} were there" if result.known else "")
    )
    say(f"next: fpipe render {root}, then fpipe fit-objects {root}")
