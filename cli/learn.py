"""`fpipe train-shared` and `fpipe fit-objects`: from views to planes."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import (
    AsJson,
    ExecutorName,
    Preset,
    RayAddress,
    Root,
    Settings,
    Shard,
    Workers,
    command_line,
    compute_overrides,
    print_json,
    resolve_config,
)

if TYPE_CHECKING:
    from storage.store import Store

FitName = Annotated[str, typer.Option("--name", help="Name of the fit; several stand side by side.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("train-shared")(train_shared)
    app.command("fit-objects")(fit_objects)


def train_shared(
    root: Root,
    preset: Preset = None,
    settings: Settings = None,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Train autoencoder, base planes and renderer on a sample of the objects; resumes if interrupted."""
    from cli.logs import make_progress, say
    from cli.outcome import finish_stage
    from pipeline.compute import ComputeSession
    from pipeline.train_stage import train_shared as run_training
    from storage.store import Store

    store = Store(root)
    config = resolve_config(
        store, preset, settings, compute_overrides(executor, ray_address, workers), ("train", "fit")
    )
    with ComputeSession(config.compute) as session:
        version, result = run_training(store, config, session, make_progress())
    if as_json:
        print_json("stage", {**result.as_json(), "shared_version": version})
    say(f"train-shared: shared_version {version}")
    sys.exit(finish_stage(result, root, as_json=False))


def fit_objects(
    root: Root,
    shard: Shard = "all",
    name: FitName = "default",
    refine: Annotated[
        bool, typer.Option("--refine", help="Fit a finished fit further from its stored codes.")
    ] = False,
    shared: Annotated[
        str | None, typer.Option(help="shared_version to fit to; default: the last one trained.")
    ] = None,
    preset: Preset = None,
    settings: Settings = None,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Fit objects to the frozen shared components and write them to the store. Done shards are skipped.

    --refine goes on from the codes of a finished fit, with its own configuration or --set fit.…; an object
    that does not get better on its training views keeps its code.
    """
    from cli.logs import make_progress
    from cli.outcome import finish_stage
    from pipeline.compute import ComputeSession
    from pipeline.fit_stage import fit_objects as run_fit
    from storage.errors import UsageError
    from storage.shared import read_published_shared
    from storage.store import Store

    store = Store(root)
    overrides = compute_overrides(executor, ray_address, workers)
    if refine:
        if shared is not None:
            raise UsageError("--shared belongs to new fits: a refinement keeps the fit's shared components")
        sys.exit(_refine(store, root, shard, name, preset, settings, overrides, as_json))
    trained = read_published_shared(store)
    config = resolve_config(
        store, preset, settings, overrides, ("fit",), stored=trained and trained["config"]
    )
    with ComputeSession(config.compute) as session:
        result = run_fit(store, config, name, shared, shard, session, make_progress(), os.environ)
    options = "" if name == "default" else f" --name {name}"
    options += "" if shared is None else f" --shared {shared}"
    sys.exit(finish_stage(result, root, as_json, options))


def _refine(
    store: Store,
    root: str,
    shard: str,
    name: str,
    preset: str | None,
    settings: list[str] | None,
    overrides: dict[str, Any],
    as_json: bool,
) -> int:
    """Fits a finished fit further; returns the exit code."""
    from cli.logs import make_progress, say
    from cli.outcome import refine_text
    from pipeline.compute import ComputeSession
    from pipeline.planned import stored_config
    from pipeline.refine_stage import refine_fit
    from storage.errors import UsageError
    from storage.planes import read_fit_header

    for setting in settings or ():
        if not setting.strip().startswith(("fit.", "compute.")):
            raise UsageError(f"--set {setting}: a refinement takes fit.… and compute.… alone")
    stored = {**(stored_config(store) or {}), "fit": read_fit_header(store, name).fit_config}
    config = resolve_config(store, preset, settings, overrides, ("fit",), stored=stored)
    with ComputeSession(config.compute) as session:
        result = refine_fit(store, config, name, shard, session, make_progress(), command_line(), os.environ)
    if as_json:
        print_json("refine", result.as_json())
    say(refine_text(result, root))
    return result.exit_code
