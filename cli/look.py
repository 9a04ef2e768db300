"""`fpipe evaluate`, `report` and `info`: what a dataset holds and how good it is."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.options import AsJson, Root, print_json

FitOption = Annotated[
    str | None, typer.Option("--name", help="Which fit; default: the published one, if any.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(evaluate)
    app.command()(report)
    app.command()(info)


def evaluate(
    root: Root,
    name: FitOption = None,
    recompute: Annotated[
        bool, typer.Option(help="Render every object again from the store instead of reading metrics.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print PSNR and SSIM on held-out views of all objects, with the ceiling and two baselines."""
    from cli.tables import evaluation_text
    from pipeline.evaluate import evaluate_dataset

    found = evaluate_dataset(root, name, recompute=recompute)
    if as_json:
        print_json("evaluation", found)
    else:
        print(evaluation_text(found))


def report(root: Root, name: FitOption = None, as_json: AsJson = False) -> None:
    """Write one self-contained HTML page: pictures, figures, failures. Works once anything is rendered."""
    from cli.logs import say
    from pipeline.report import write_report

    where = write_report(root, name)
    if as_json:
        print_json("report", {"report": where})
    else:
        print(where)
    say("report written")


def info(
    root: Annotated[str | None, typer.Argument(help="The dataset: a folder or any fsspec URL.")] = None,
    presets: Annotated[bool, typer.Option("--presets", help="List the presets and what they set.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a dataset is made of, or with --presets the configurations that come with fpipe."""
    from cli.tables import info_text, presets_text
    from pipeline.config import preset_names, read_preset
    from storage.errors import UsageError

    if presets:
        values = {preset: read_preset(preset) for preset in preset_names()}
        if as_json:
            print_json("presets", {"presets": values})
        else:
            print(presets_text(values))
        return
    if root is None:
        raise UsageError("fpipe info needs a dataset, or --presets")
    from pipeline.status import dataset_info
    from storage.store import Store

    found = dataset_info(Store(root))
    if as_json:
        print_json("info", found)
    else:
        print(info_text(found))
