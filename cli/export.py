"""`fpipe export`: a dataset's views or fits as files of other programs."""

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
    to: Annotated[
        str, typer.Option("--to", help="Planes: npy, safetensors, h5, webdataset. Views: nerfstudio.")
    ],
    out: Annotated[Path, typer.Option(help="Output folder: a new one, or one to continue.")],
    fit: Annotated[str | None, typer.Option(help="Planes: name of the fit; default: the published.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Planes: float32 (default) or float16.", show_default=False)
    ] = None,
    micro: Annotated[
        bool, typer.Option("--micro", help="Planes: micro planes and coefficients instead of fused planes.")
    ] = False,
    objects: Annotated[
        str | None, typer.Option(help="Ids, with commas between; default: all objects.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="car,sofa; default: all classes.")] = None,
    limit: Annotated[int | None, typer.Option(help="Write the first so many of them.", min=1)] = None,
    license_id: Annotated[
        str | None, typer.Option("--license", help="Planes: license of the card, such as cc-by-4.0.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Planes: the dataset's name in its card.")] = None,
    creator: Annotated[str | None, typer.Option(help="Planes: who made it, for Croissant.")] = None,
    url: Annotated[
        str | None, typer.Option(help="Planes: where it will be published, for Croissant.")
    ] = None,
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="Views: the terms of the source's files allow this.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write fits, or views and cameras, as files of other programs; continues where it was interrupted."""
    from cli.logs import make_progress, say
    from pipeline.export.facts import PlanesExport
    from pipeline.export.planes import PLANES_FORMATS, export_planes
    from pipeline.export.selection import Selection
    from pipeline.export.views import VIEW_FORMATS, export_views
    from storage.errors import UsageError
    from storage.store import Store

    selection = Selection(
        objects=[name.strip() for name in objects.split(",")] if objects else [],
        classes=list(parse_classes(classes)) if classes else [],
        limit=limit,
    )
    of_planes = {
        "--fit": fit, "--dtype": dtype, "--micro": micro or None,
        "--license": license_id, "--title": title, "--creator": creator, "--url": url,
    }  # fmt: skip
    if to in VIEW_FORMATS:
        if given := [name for name, value in of_planes.items() if value is not None]:
            raise UsageError(f"{given[0]} belongs to exports of planes, not to --to {to}")
        result = export_views(Store(root), to, out, make_progress(), selection, accept_terms)
    elif to in PLANES_FORMATS:
        if accept_terms:
            raise UsageError(f"--accept-terms belongs to exports of views, not to --to {to}")
        options = PlanesExport(to, dtype or "float32", micro, license_id or "other", title, creator, url)
        result = export_planes(Store(root), out, options, make_progress(), fit, selection)
    else:
        raise UsageError(f"--to {to}: use one of {', '.join([*PLANES_FORMATS, *VIEW_FORMATS])}")
    if as_json:
        print_json("export", {"out": str(out), **result.as_json()})
    else:
        print(out)
    say(f"export: {result.written} objects written, {result.skipped} were there")
    if to in PLANES_FORMATS and (missing := [n for n in ("--url", "--creator") if not of_planes[n]]):
        say(f"export: before publishing, Croissant requires {' and '.join(missing)}; see croissant.json")
    if result.unavailable:
        what = "views" if to in VIEW_FORMATS else "planes"
        say(f"export: {len(result.unavailable)} objects have no {what}; fpipe failures {root} says why")
    sys.exit(result.exit_code)
