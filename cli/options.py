"""Options that several commands share, and the resolution of their values into one configuration."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.config import PipelineConfig
    from storage.store import Store

Root = Annotated[
    str, typer.Argument(help="The dataset: a folder or any fsspec URL.", metavar="ROOT", show_default=False)
]
Preset = Annotated[
    str | None, typer.Option(help="Preset by name (see `fpipe info --presets`), or a YAML file.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="section.key=value, repeatable.", metavar="KEY=VALUE")
]
Shard = Annotated[str, typer.Option(help="3, 0..7 (inclusive), 0,4,9-12, i/n, all or auto (job arrays).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
ExecutorName = Annotated[str | None, typer.Option("--executor", help="ray or local.")]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Address of a Ray cluster, default: RAY_ADDRESS; without one Ray starts on this machine."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(help="Tasks at a time; default: the cores of this machine, or all of a cluster.", min=1),
]


def parse_classes(text: str) -> dict[str, int | None]:
    """Reads "car:1000,sofa" into {"car": 1000, "sofa": None}.

    Raises:
        UsageError: a number is missing after the colon, or a class is named twice.
    """
    from render_jobs.sources.synsets import class_of
    from storage.errors import UsageError

    classes: dict[str, int | None] = {}
    for part in text.split(","):
        name, colon, number = part.strip().partition(":")
        if not name or (colon and not number.isdigit()) or (colon and int(number) == 0):
            raise UsageError(
                f"--classes {text!r}: write car:1000,sofa:500, or a name alone for all of a class"
            )
        if class_of(name) in map(class_of, classes):
            raise UsageError(f"--classes {text!r}: {class_of(name)} is named twice")
        classes[name] = int(number) if colon else None
    return classes


def compute_overrides(executor: str | None, ray_address: str | None, workers: int | None) -> dict[str, Any]:
    """Returns the config keys that the compute flags set."""
    given = {"compute.executor": executor, "compute.ray_address": ray_address, "compute.workers": workers}
    return {key: value for key, value in given.items() if value is not None}


def resolve_config(
    store: Store,
    preset: str | None,
    settings: Sequence[str] | None,
    overrides: dict[str, Any],
    sections: Sequence[str] = ("source", "render", "train", "fit"),
    stored: dict[str, Any] | None = None,
) -> PipelineConfig:
    """Builds the configuration of a command.

    A dataset remembers the configuration that it was planned with: it is the base of every later command,
    and a preset given to one replaces only the sections that the command uses. Resources ("compute") are
    never remembered. RAY_ADDRESS, which Ray would obey behind our back, is the default of
    compute.ray_address.

    Args:
        store: the dataset, which need not exist yet.
        preset: name or path, None for the dataset's own config or "default".
        settings: texts of `--set`.
        overrides: dotted keys that flags set.
        sections: those that a preset replaces in an existing dataset.
        stored: base that takes the place of the config in the plan.
    """
    from pipeline.config import load_config, preset_names, read_preset
    from pipeline.planned import open_sizes, stored_config

    stored = stored or stored_config(store)
    values = dict(stored) if stored is not None else read_preset(preset or "default")
    if stored is not None:
        values["compute"] = {}
        if preset is not None:
            chosen = read_preset(preset)
            values.update({section: chosen.get(section, {}) for section in (*sections, "compute")})
    values["compute"] = _with_address(values.get("compute", {}))
    config = load_config(values, overrides, settings or (), os.environ)
    ours = (preset or "default") in preset_names() and (preset is not None or stored is None)
    if ours and "render" in sections and (undecided := open_sizes(config) & set(values.get("render", {}))):
        render = {name: value for name, value in values["render"].items() if name not in undecided}
        config = load_config({**values, "render": render}, overrides, settings or (), os.environ)
    if config.compute.ray_address is None:
        os.environ.pop("RAY_ADDRESS", None)
    return config


def _with_address(compute: dict[str, Any]) -> dict[str, Any]:
    """Returns the values of a section with the cluster that RAY_ADDRESS names ("local" names none)."""
    address = os.environ.get("RAY_ADDRESS", "")
    return compute if address in {"", "local"} else {"ray_address": address, **compute}


def print_json(kind: str, values: dict[str, Any]) -> None:
    """Prints one versioned JSON object on stdout."""
    from storage.redaction import redacted

    print(json.dumps({"version": 1, "kind": kind, **redacted(values)}))


def command_line() -> str:
    """Returns the command as it was typed, quoted for a shell."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
