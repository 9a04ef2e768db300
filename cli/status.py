"""`fpipe status`: one look at a dataset that tells where it stands, whoever works on it and wherever."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import AsJson, Root, print_json

if TYPE_CHECKING:
    from storage.store import Store

LOOK_SHARE = 10
"""The pause between two looks is at least so many times as long as a look takes: a large store is not polled
without end."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(status)


def status(
    root: Root,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Look again and again until all is done.")
    ] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.5)] = 5.0,
    shards: Annotated[
        str | None,
        typer.Option(
            help="Write every shard's times, memory, attempts and node as CSV; - for stdout.", metavar="FILE"
        ),
    ] = None,
    prometheus: Annotated[
        str | None,
        typer.Option(
            help="Write the state as Prometheus metrics, for the textfile collector; - for stdout.",
            metavar="FILE",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is done, running, failed and left, its pace, and the command that comes next.

    Reads only the store, so it works from any machine while others run.
    """
    from storage.store import Store

    store = Store(root)
    if shards is not None:
        from pipeline.shard_table import shard_table

        _write(shards, shard_table(store))
        return
    if prometheus is not None:
        from cli.prometheus import metrics_text

        _repeat(store, watch, every, lambda found: _write(prometheus, metrics_text(found)))
    elif as_json:
        _repeat(store, watch, every, lambda found: print_json("status", found))
    elif watch and sys.stdout.isatty():
        _watch_terminal(store, every)
    else:
        from cli.status_text import status_text

        _repeat(store, watch, every, lambda found: print(status_text(found), flush=True))


def _write(target: str, text: str) -> None:
    """Writes a file whole, or stdout: who reads the file sees the old or the new one."""
    if target == "-":
        print(text, end="", flush=True)
        return
    path = Path(target)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)


def _repeat(store: Store, watch: bool, every: float, show: Callable[[dict[str, Any]], None]) -> None:
    """Looks once or again and again; after the first look a store that fails is looked at again."""
    from cli.logs import say
    from pipeline.status import dataset_status
    from storage.errors import EnvironmentProblem, StaleSnapshotError

    told: str | None = None
    has_seen = False
    ended: dict[str, str] = {}
    while True:
        began = time.monotonic()
        try:
            found = dataset_status(store, ended)
        except (OSError, EnvironmentProblem, StaleSnapshotError) as error:
            if not watch or not has_seen:
                raise
            if str(error) != told:  # once for all looks that fail alike
                say(f"fpipe: {error}; looking again every {every:g} s")
            told = str(error)
        else:
            has_seen, told = True, None
            show(found)
            if not watch or _is_over(found):
                return
        time.sleep(max(every, LOOK_SHARE * (time.monotonic() - began)))


def _watch_terminal(store: Store, every: float) -> None:
    """Draws each look over the one before; what was last seen stays on the screen."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from cli.status_text import status_text

    with Live(console=Console(), auto_refresh=False, vertical_overflow="crop") as live:

        def show(found: dict[str, Any]) -> None:
            text = Text(
                f"{status_text(found)}\n\n{time.strftime('%H:%M:%S')}, every {every:g} s; Ctrl-C ends"
            )
            live.update(text, refresh=True)

        _repeat(store, True, every, show)


def _is_over(found: dict[str, Any]) -> bool:
    """Says whether nobody works and nothing is left to do."""
    stages = [*found["stages"].values(), *found["fits"].values()]
    return not found["activity"] and bool(found["fits"]) and not any(stage["left"] for stage in stages)
