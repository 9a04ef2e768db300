"""`fpipe demo`: the whole job on built-in meshes, with no download, GPU or service."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated

import typer

from cli.options import AsJson, ExecutorName, Settings, Workers, compute_overrides, print_json, resolve_config


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(demo)


def demo(
    root: Annotated[
        str, typer.Argument(help="Where the dataset goes: a folder or any fsspec URL.")
    ] = "demo-dataset",
    preset: Annotated[str, typer.Option(help="Preset by name, or a YAML file.")] = "demo",
    settings: Settings = None,
    executor: ExecutorName = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Render, train, fit, evaluate and report built-in cars. Run again, it continues or does nothing."""
    from cli.logs import make_progress, say
    from cli.tables import evaluation_text
    from cli.text import duration_text
    from pipeline.compute import ComputeSession
    from pipeline.evaluate import evaluate_dataset
    from pipeline.fit_stage import fit_objects
    from pipeline.render_stage import render
    from pipeline.report import write_report
    from pipeline.train_stage import train_shared
    from storage.layout import REPORTS
    from storage.store import Store

    began = time.monotonic()
    store = Store(root)
    config = resolve_config(store, preset, settings, compute_overrides(executor, None, workers))
    progress = make_progress()
    with ComputeSession(config.compute) as session:
        rendered = render(store, config, "all", session, progress, dict(os.environ))
        version, trained = train_shared(store, config, session, progress)
        fitted = fit_objects(store, config, "default", version, "all", session, progress, os.environ)
    key = f"{REPORTS}/default.html"
    if rendered.done or trained.done or fitted.done or not store.exists(key):
        progress.say("report: rendering its pictures")
        write_report(root, "default")
    where = str(store.local_path(key) or f"{store.url}/{key}")
    figures = evaluate_dataset(root, "default")
    if as_json:
        print_json(
            "demo", {"report": where, "evaluation": figures, "seconds": round(time.monotonic() - began, 1)}
        )
    else:
        print(evaluation_text(figures))
        print(f"\nreport: {where}")
    say(f"demo: {duration_text(time.monotonic() - began)} in all; look inside with: fpipe info {root}")
    sys.exit(rendered.exit_code or fitted.exit_code)
