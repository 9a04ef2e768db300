"""`fpipe failures`, `retry` and `repro`: what went wrong, try it again, look at one object alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.options import (
    AsJson,
    ExecutorName,
    RayAddress,
    Root,
    Settings,
    Workers,
    command_line,
    compute_overrides,
    print_json,
    resolve_config,
)

if TYPE_CHECKING:
    from pipeline.config import PipelineConfig
    from pipeline.retry_stage import RetryResult
    from render_jobs.repro import Reproduction
    from storage.store import Store

StageName = Literal["render", "fit"]
Kinds = Annotated[
    str | None, typer.Option("--class", help="Only these failure classes: timeout,crash.", metavar="CLASSES")
]
FitOption = Annotated[str | None, typer.Option("--name", help="Which fit; default: the published one.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(failures)
    app.command()(retry)
    app.command()(repro)


def failures(
    root: Root,
    kinds: Kinds = None,
    stage: Annotated[
        StageName | None, typer.Option(help="Only failures of this stage: render or fit.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Only failures of this fit; default: all.")
    ] = None,
    detail: Annotated[
        bool, typer.Option("--detail", "-v", help="Show the end of what Blender said.")
    ] = False,
    warnings: Annotated[
        bool, typer.Option("--warnings", help="List warnings of rendered objects instead.")
    ] = False,
    limit: Annotated[
        int, typer.Option(help="Objects listed per stage, 0 for all; counts are complete.", min=0)
    ] = 100,
    as_json: AsJson = False,
) -> None:
    """List failed objects by class, with reasons and commands that reproduce them. Reads only the store."""
    from cli.failure_tables import failures_text, warnings_text
    from pipeline.failures import dataset_failures, dataset_warnings
    from storage.store import Store

    store = Store(root)
    if warnings:
        found = dataset_warnings(store, limit or None)
    else:
        found = dataset_failures(store, stage, name, _names(kinds), limit or None)
    if as_json:
        print_json("warnings" if warnings else "failures", found)
    else:
        print(warnings_text(found) if warnings else failures_text(found, detail))


def retry(
    root: Root,
    kinds: Kinds = None,
    objects: Annotated[str | None, typer.Option(help="Only these objects: id,id.", metavar="IDS")] = None,
    stage: Annotated[StageName, typer.Option(help="render or fit.")] = "render",
    name: FitOption = None,
    settings: Settings = None,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Try failed objects again and put those that work now into the dataset; exit code 42 if some still fail.

    More time or memory: --set compute.limits.deadline_s=600, --set compute.limits.memory_bytes=16000000000.
    """
    from cli.failure_tables import retry_text
    from cli.logs import make_progress, say
    from pipeline.compute import ComputeSession
    from pipeline.retry_stage import Selection, retry_fit, retry_render
    from storage.errors import UsageError
    from storage.store import Store

    store = Store(root)
    if stage == "render" and name is not None:
        raise UsageError("--name belongs to --stage fit")
    config = compute_config(store, settings, executor, ray_address, workers)
    selection, progress = Selection(_names(kinds), _names(objects)), make_progress()
    with ComputeSession(config.compute) as session:
        result: RetryResult
        if stage == "render":
            result = retry_render(store, config, selection, session, progress, command_line())
        else:
            result = retry_fit(store, config, name, selection, session, progress, command_line())
    if as_json:
        print_json("retry", result.as_json())
    say(retry_text(result, root))
    sys.exit(result.exit_code)


def repro(
    root: Root,
    object_id: Annotated[str, typer.Argument(help="The object's id.", metavar="OBJECT")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for PNG pictures of some views, when there are any.")
    ] = None,
    stage: Annotated[
        StageName, typer.Option(help="render: with Blender. fit: against the shared components.")
    ] = "render",
    name: FitOption = None,
    path: Annotated[
        str | None, typer.Option(help="Where the source's meshes are on this machine, if elsewhere.")
    ] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Render (or fit) one object alone in the foreground and say what happens. The dataset is not changed.

    What Blender writes to stderr is shown as it comes. Exit code 0 when the object works, 42 when it fails.
    """
    from cli.failure_tables import reproduction_text
    from pipeline.stages import FAILED_OBJECTS_EXIT_CODE
    from storage.errors import UsageError
    from storage.store import Store

    store = Store(root)
    config = compute_config(store, settings, None, None, None)
    found: Reproduction
    if stage == "render":
        if name is not None:
            raise UsageError("--name belongs to --stage fit")
        from render_jobs.repro import repro as render_one

        found = render_one(store.url, object_id, config.compute.limits, out, _to_stderr, path)
    else:
        if path is not None:
            raise UsageError("--path belongs to --stage render")
        from pipeline.fit.repro import repro_fit
        from pipeline.fit.resources import FitResources

        compute = config.compute
        resources = FitResources.of(compute.fit_cpus, compute.fit_gpus, compute.kernel)
        found = repro_fit(store.url, name, object_id, resources, out)
    if as_json:
        values = {
            "object_id": object_id,
            "failure": None if found.failure is None else vars(found.failure),
            "info": found.info,
            "pictures": list(map(str, found.pictures)),
        }
        print_json("repro", values)
    else:
        print(reproduction_text(object_id, found))
    sys.exit(FAILED_OBJECTS_EXIT_CODE if found.failure else 0)


def _names(text: str | None) -> list[str] | None:
    """Reads "a,b" into ["a", "b"]; None stays."""
    from storage.errors import UsageError

    if text is None:
        return None
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise UsageError(f"{text!r}: write names with commas between them")
    return names


def compute_config(
    store: Store,
    settings: list[str] | None,
    executor: str | None,
    ray_address: str | None,
    workers: int | None,
) -> PipelineConfig:
    """Returns the dataset's config with other resources; its content cannot be changed."""
    from storage.errors import UsageError

    for setting in settings or ():
        if not setting.strip().startswith("compute."):
            raise UsageError(
                f"--set {setting}: the dataset's own config decides what objects look like; only compute.… "
                "can be set here"
            )
    return resolve_config(store, None, settings, compute_overrides(executor, ray_address, workers))


def _to_stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
