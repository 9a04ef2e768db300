"""`fpipe export`: a dataset's views as files of other programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.options import AsJson, Root, parse_classes, print_json


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(export)


def export(
    root: Root,
    to: Annotated[str, typer.Option("--to", help="Format: nerfstudio.")],
    out: Annotated[Path, typer.Option(help="Output folder; objects that are in it are skipped.")],
    objects: Annotated[
        str | None, typer.Option(help="Ids, with commas between; default: all objects.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="car,sofa; default: all classes.")] = None,
    limit: Annotated[int | None, typer.Option(help="Write the first so many of them.", min=1)] = None,
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="The terms of the source's files allow this.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write views and cameras as files of other programs; continues where it was interrupted."""
    from cli.logs import make_progress, say
    from pipeline.export.selection import Selection
    from pipeline.export.views import export_views
    from storage.store import Store

    selection = Selection(
        objects=[name.strip() for name in objects.split(",")] if objects else [],
        classes=list(parse_classes(classes)) if classes else [],
        limit=limit,
    )
    result = export_views(Store(root), to, out, make_progress(), selection, accept_terms)
    if as_json:
        print_json("export", {"out": str(out), **result.as_json()})
    else:
        print(out)
    say(f"export: {result.written} objects written, {result.skipped} were there")
    if result.unavailable:
        say(f"export: {len(result.unavailable)} objects have no views; fpipe failures {root} says why")
    sys.exit(result.exit_code)
