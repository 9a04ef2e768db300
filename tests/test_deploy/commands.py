"""Parses command lines of fpipe and of Ray as these programs do, without running them."""

from __future__ import annotations

import re
import shlex
from typing import Any

import typer
from ray.scripts.scripts import cli as ray_cli

from cli.data import source_overrides
from cli.main import app
from cli.options import parse_classes
from pipeline.config import load_config
from pipeline.shard_spec import parse_shards

FPIPE = typer.main.get_command(app)


def parse(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Returns the command and its options; raises what a user would see where a word is wrong."""
    assert words[0] == "fpipe", words
    context = FPIPE.make_context("fpipe", words[1:])
    name, command, rest = FPIPE.resolve_command(context, [*context._protected_args, *context.args])
    inner = command.make_context(name, rest, parent=context)
    check_values(name, inner.params)
    return name, inner.params


def check_values(name: str, options: dict[str, Any]) -> None:
    """Looks into the values that have a language of their own."""
    load_config({}, settings=options.get("settings") or ())
    if options.get("classes"):
        parse_classes(options["classes"])
    if name == "render":
        keys = ("source", "path", "classes", "up", "front", "views", "resolution", "seed", "poses", "cameras")
        source_overrides(**{key: options[key] for key in keys})
    if options.get("shard"):
        parse_shards(options["shard"], 100_000, {"FPIPE_SHARD": "0/2"})


def parse_ray(words: list[str]) -> dict[str, Any]:
    """Returns the options of a `ray …` command."""
    assert words[0] == "ray", words
    command = ray_cli.commands[words[1]]
    return command.make_context(words[1], words[2:], resilient_parsing=words[1] == "symmetric-run").params


def ray_start_options() -> set[str]:
    """Returns the long options of `ray start`, without their dashes."""
    return {
        option.removeprefix("--")
        for parameter in ray_cli.commands["start"].params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }


def shell_commands(text: str) -> list[list[str]]:
    """Returns the commands of fpipe and Ray in a shell text: lines, also of comments, with `\\` continued."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip().removeprefix("#").strip().removeprefix("$ ")
        if line.startswith(("fpipe ", "ray ")) and "$" not in line:
            found.append(shlex.split(line, comments=True))
    return found


def quoted_commands(markdown: str) -> list[list[str]]:
    """Returns the commands of fpipe between single backticks, bare names and those with "…" left out."""
    prose = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    found = [" ".join(text.split()) for text in re.findall(r"`((?:fpipe|ray) [^`]+)`", prose)]
    return [shlex.split(text) for text in found if "…" not in text and len(text.split()) > 2]
