"""`fpipe stats`: mean, deviation, extremes and quantiles of every channel of a fit's planes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import AsJson, Root, print_json

if TYPE_CHECKING:
    from storage.planes import PlanesStore
    from storage.statistics import ChannelStats


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(stats)


def stats(
    root: Root,
    name: Annotated[str | None, typer.Option("--name", help="Which fit; default: the published one.")] = None,
    version: Annotated[
        str | None, typer.Option(help="A stored version; default: that of the present state.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the statistics of every plane and channel, and store them if the present ones are not stored."""
    from cli.logs import say
    from storage.fit_statistics import read_statistics, statistics_versions, write_statistics
    from storage.planes import PlanesStore
    from storage.store import Store

    planes = PlanesStore.open(Store(root), name)
    found = read_statistics(planes, version) if version else write_statistics(planes)
    if as_json:
        figures = {"n_objects": found.n_objects, "f_mic": found.f_mic, "figures": found.figures()}
        versions = statistics_versions(planes.store, planes.header.name)
        about = {"fit": planes.header.name, "stats_version": found.version, "versions": versions}
        print_json("stats", {**about, "quantile_error": found.quantile_error, **figures})
    else:
        print(stats_text(planes, found))
    say(f"stats: version {found.version}, {found.n_objects} objects; quantiles within "
        f"{100 * found.quantile_error:.2f}% of the value")  # fmt: skip


def stats_text(planes: PlanesStore, found: ChannelStats) -> str:
    """Returns one line per plane and channel."""
    from cli.tables import table
    from storage.statistics import FIGURES

    rows = [["channel", *FIGURES]]
    values = found.figures()
    for plane, axes in enumerate(planes.header.plane_order):
        for channel in range(found.n_channels):
            kind = "micro" if channel < found.f_mic else "macro"
            figures = [f"{values[figure][plane][channel]:.4g}" for figure in FIGURES]
            rows.append([f"{axes} {channel} {kind}", *figures])
    return table(rows)
