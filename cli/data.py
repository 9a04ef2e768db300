"""`fpipe plan` and `fpipe render`: from meshes to posed views."""

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
    compute_overrides,
    parse_classes,
    print_json,
    resolve_config,
)

if TYPE_CHECKING:
    from storage.store import Store

SourceName = Annotated[
    str | None,
    typer.Option(
        "--source",
        help="procedural (needs no files), shapenet, folder (OBJ, PLY, glTF, STL), morphable, "
        "or views that exist: fused-planes, nerf.",
    ),
]
SourcePath = Annotated[
    str | None,
    typer.Option("--path", help="Folder, glob or URL of the meshes or views; a morphable model's file."),
]
Up = Annotated[str | None, typer.Option(help="Axis of the mesh files that points up: x, -x, y, -y, z or -z.")]
Front = Annotated[str | None, typer.Option(help="Axis of the mesh files that points to the object's front.")]
Classes = Annotated[str | None, typer.Option(help="car:1000,sofa:1000 (a name alone: all of them).")]
Views = Annotated[int | None, typer.Option(help="Views per object.", min=2)]
Resolution = Annotated[int | None, typer.Option(help="Width and height of a view in pixels.", min=8)]
Poses = Annotated[str | None, typer.Option(help="hemisphere, sphere or front (around the object's front).")]
Cameras = Annotated[
    str | None,
    typer.Option(help="transforms.json, file or URL, with the cameras of all objects.", metavar="FILE"),
]
Seed = Annotated[
    int | None, typer.Option(help="Seed of cameras, held-out split and choice of objects.", min=0)
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(plan)
    app.command()(render)


def source_overrides(
    source: str | None,
    path: str | None,
    classes: str | None,
    up: str | None,
    front: str | None,
    views: int | None = None,
    resolution: int | None = None,
    seed: int | None = None,
    poses: str | None = None,
    cameras: str | None = None,
) -> dict[str, Any]:
    """Returns the config keys that the flags set."""
    from render_jobs.sources.base import KINDS, NEEDS_PATH
    from storage.errors import UsageError

    if source is not None and source not in KINDS:
        raise UsageError(f"--source {source!r}: there are {', '.join(KINDS)}")
    if source in NEEDS_PATH and path is None:
        raise UsageError(f"--source {source} needs --path: {NEEDS_PATH[source]}")
    given: dict[str, Any] = {
        "source.kind": source,
        "source.path": path if path is None or "://" in path else os.path.abspath(path),  # noqa: PTH100 a URL may stand here too
        "source.up": up,
        "source.front": front,
        "source.classes": None if classes is None else parse_classes(classes),
        "source.seed": seed,
        "render.seed": seed,
        "render.views": views,
        "render.width": resolution,
        "render.height": resolution,
        "render.poses": poses,
        "render.cameras": cameras,
    }
    return {key: value for key, value in given.items() if value is not None}


def plan(
    root: Root,
    source: SourceName = None,
    path: SourcePath = None,
    classes: Classes = None,
    up: Up = None,
    front: Front = None,
    views: Views = None,
    resolution: Resolution = None,
    seed: Seed = None,
    poses: Poses = None,
    cameras: Cameras = None,
    preset: Preset = None,
    settings: Settings = None,
    workers: Workers = None,
    calibrate: Annotated[
        bool | None,
        typer.Option(help="Measure this machine on a few objects to predict times; the default."),
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(
            help="cpu-hour=0.03, gpu-hour, gb-month, million-puts, million-gets; repeatable. Or a YAML file.",
            metavar="NAME=PRICE",
        ),
    ] = None,
    earlier: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="A finished dataset of the same settings, whose runs say what an object costs.",
            metavar="ROOT",
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--forecast", help="Keep the forecast in ROOT: --compare and the report set it against the runs."
        ),
    ] = False,
    name: Annotated[str, typer.Option(help="Name of the fit that will be made.")] = "default",
    compare: Annotated[
        bool, typer.Option("--compare", help="Set the forecast kept in ROOT against what the runs took.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a dataset will hold and cost, before anything runs. Writes nothing without --forecast."""
    from cli.plan_text import plan_text
    from pipeline.forecast import forecast
    from pipeline.forecast_kept import save_forecast
    from pipeline.prices import read_prices
    from storage.errors import UsageError
    from storage.store import Store

    store = Store(root)
    if compare:
        _compare(store, as_json)
        return
    if earlier is not None and calibrate is not None:
        flag = "--calibrate" if calibrate else "--no-calibrate"
        raise UsageError(
            f"{flag} has no effect beside --from {earlier}, which gives all figures: leave one out"
        )
    prices = read_prices(price or [])
    overrides = source_overrides(source, path, classes, up, front, views, resolution, seed, poses, cameras)
    config = resolve_config(store, preset, settings, overrides | compute_overrides(None, None, workers))
    result = forecast(
        config, calibrate is not False, prices, None if earlier is None else Store(earlier), name
    )
    if keep:
        save_forecast(store, result)
    if as_json:
        print_json("plan", result)
    else:
        print(plan_text(result))


def _compare(store: Store, as_json: bool) -> None:
    from dataclasses import asdict

    from cli.plan_text import comparison_text
    from pipeline.forecast_kept import read_forecast
    from pipeline.report.forecasts import compared
    from storage.errors import UsageError

    if read_forecast(store) is None:
        raise UsageError(f"{store.url} keeps no forecast: fpipe plan {store.url} --forecast makes one")
    found = compared(store)
    if as_json:
        off = {one.stage: one.off for one in found}
        print_json("forecast", {"stages": [{**asdict(one), "off": off[one.stage]} for one in found]})
    else:
        print(comparison_text(found))


def render(
    root: Root,
    source: SourceName = None,
    path: SourcePath = None,
    classes: Classes = None,
    up: Up = None,
    front: Front = None,
    views: Views = None,
    resolution: Resolution = None,
    seed: Seed = None,
    poses: Poses = None,
    cameras: Cameras = None,
    preset: Preset = None,
    settings: Settings = None,
    shard: Shard = "all",
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Render posed views of every object with Blender, or import views. Done shards are skipped."""
    from cli.logs import make_progress
    from cli.outcome import finish_stage
    from pipeline.compute import ComputeSession
    from pipeline.render_stage import render as run_render
    from storage.store import Store

    store = Store(root)
    overrides = source_overrides(source, path, classes, up, front, views, resolution, seed, poses, cameras)
    config = resolve_config(
        store, preset, settings, overrides | compute_overrides(executor, ray_address, workers)
    )
    with ComputeSession(config.compute) as session:
        result = run_render(store, config, shard, session, make_progress(), dict(os.environ))
    sys.exit(finish_stage(result, root, as_json))
