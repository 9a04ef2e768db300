"""Owns the `fpipe` command: the Typer app, and the one place where errors become exit codes.

Exit codes: 0 done · 1 bug · 2 usage · 3 environment · 4 config or store mismatch · 42 finished with failed
objects · 75 drained on SIGTERM, run me again · 130 Ctrl-C. Commands import what they need when they run, so
that `--help` is quick.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from cli import (
    ablate,
    compare_frozen,
    data,
    demo,
    doctor,
    export,
    failures,
    integrity,
    learn,
    look,
    preview,
    stats,
)
from cli.logs import configure_logging, say
from cli.options import command_line
from storage.errors import FpipeError

app = typer.Typer(
    name="fpipe",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Builds datasets of tri-plane neural representations from meshes.",
)
for module in (
    demo,
    doctor,
    data,
    learn,
    ablate,
    compare_frozen,
    look,
    preview,
    stats,
    failures,
    integrity,
    export,
):
    module.register(app)


class Stopped(BaseException):
    """SIGTERM or SIGINT arrived; carries the exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every object on stderr.")] = False,
) -> None:
    configure_logging(verbose)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(130 if number == signal.SIGINT else 75)


def run() -> None:
    """Entry point of the console script: runs a command and exits with the code that its end asks for."""
    # libgomp's threads spin between two parallel regions; on a shared machine that costs more than it gains.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        app()
    except Stopped as stopped:
        say("fpipe: stopped; what is committed is kept, the same command continues:")
        say("  " + command_line())
        sys.exit(stopped.exit_code)
    except FpipeError as error:
        say(f"fpipe: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    run()
