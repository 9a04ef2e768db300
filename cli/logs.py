"""Owns what goes to stderr: progress, log configuration and final messages.

Progress is drawn by rich on a terminal, log lines elsewhere. stdout carries
data only; everything here is talk.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from pipeline.progress import Progress

LINE_EVERY_S = 10.0
"""Seconds between two progress lines where stderr is no terminal."""


def configure_logging(verbose: bool) -> None:
    """Sends the project's log lines to stderr, others from warnings up; call once."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    for name in ("pipeline", "render_jobs", "storage", "cli"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.WARNING)


def say(message: str) -> None:
    """Writes one line of talk."""
    print(message, file=sys.stderr, flush=True)


def make_progress() -> Progress:
    """Returns the progress that suits stderr."""
    return TerminalProgress() if sys.stderr.isatty() else LineProgress()


def _figures_text(figures: dict[str, Any]) -> str:
    return "  ".join(
        f"{name.replace('_', ' ')} {value:.4g}"
        if isinstance(value, float)
        else f"{name.replace('_', ' ')} {value}"
        for name, value in figures.items()
    )


def duration_text(seconds: float) -> str:
    """Returns "42 s", "3 min 05 s" or "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class LineProgress:
    """One log line every LINE_EVERY_S seconds."""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """See Progress."""
        self._stage, self._total, self._unit = stage, total, unit
        self._done = self._first = done
        self._began = self._spoke = time.monotonic()
        self._figures: dict[str, Any] = {}
        skipped = f", {done} done before" if done else ""
        say(f"{stage}: {total} {unit}{skipped}")

    def advance(self, amount: int = 1, **figures: Any) -> None:
        """See Progress."""
        self._done += amount
        self._figures.update(figures)
        if self._done < self._total and time.monotonic() - self._spoke >= LINE_EVERY_S:
            self._spoke = time.monotonic()
            self._speak()

    def _speak(self) -> None:
        elapsed = time.monotonic() - self._began
        new = self._done - self._first
        left = f", {duration_text(elapsed / new * (self._total - self._done))} left" if new else ""
        self._say(left)

    def _say(self, when: str) -> None:
        figures = _figures_text(self._figures)
        say(f"{self._stage}: {self._done}/{self._total} {self._unit}{when}  {figures}".rstrip())

    def finish(self) -> None:
        """See Progress."""
        elapsed = duration_text(time.monotonic() - self._began)
        self._say(f" in {elapsed}")

    def say(self, message: str) -> None:
        """See Progress."""
        say(message)


class TerminalProgress:
    """A rich progress bar per stage, with rate, figures and time left."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._figures: dict[str, Any] = {}

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """See Progress."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._figures = {}
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TextColumn("·"),
            TimeRemainingColumn(),
            TextColumn("left  [dim]{task.fields[figures]}"),
            console=self._console,
        )
        self._bar.start()
        self._task = self._bar.add_task(stage, total=total, completed=done, figures="")

    def advance(self, amount: int = 1, **figures: Any) -> None:
        """See Progress."""
        if self._bar is not None and self._task is not None:
            self._figures.update(figures)
            self._bar.update(self._task, advance=amount, figures=_figures_text(self._figures))

    def finish(self) -> None:
        """See Progress."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, message: str) -> None:
        """See Progress."""
        self._console.print(message, markup=False, highlight=False)
