"""Owns what goes to stderr: progress, log configuration and final messages.

Progress is drawn by rich on a terminal, log lines elsewhere. stdout carries
data only; everything here is talk.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from cli.pace import left_text, rate_text
from cli.text import duration_text, figures_text
from pipeline.pace import Pace
from storage.redaction import redact

if TYPE_CHECKING:
    from pipeline.progress import Progress

LINE_EVERY_S = 10.0
"""Seconds between two progress lines where stderr is no terminal."""


def configure_logging(verbose: bool) -> None:
    """Sends the project's log lines to stderr, others from warnings up; call once."""
    logging.basicConfig(
        handlers=[_StderrHandler()],
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    for name in ("pipeline", "render_jobs", "storage", "cli"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.WARNING)


class _StderrHandler(logging.Handler):
    """Writes to the sys.stderr of the moment: a progress bar puts one there that writes above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def say(message: str) -> None:
    """Writes one line of talk, without the credentials that a library may have put into its message."""
    print(redact(message), file=sys.stderr, flush=True)


def make_progress() -> Progress:
    """Returns the progress that suits stderr."""
    if not sys.stderr.isatty():
        return LineProgress()
    from cli.terminal import TerminalProgress

    return TerminalProgress()


class LineProgress:
    """One log line every LINE_EVERY_S seconds."""

    def start(self, stage: str, total: int, unit: str, done: int = 0, work_unit: str = "") -> None:
        """See Progress."""
        self._stage, self._unit, self._work_unit = stage, unit, work_unit or unit
        self._pace = Pace(total, done)
        self._spoke_s = 0.0
        self._figures: dict[str, Any] = {}
        skipped = f", {done} done before" if done else ""
        say(f"{stage}: {total} {unit}{skipped}")

    def advance(self, amount: int = 1, work: float | None = None, **figures: Any) -> None:
        """See Progress."""
        self._pace.advance(amount, amount if work is None else work)
        self._figures.update(figures)
        elapsed_s = self._pace.elapsed_s
        if self._pace.done < self._pace.total and elapsed_s - self._spoke_s >= LINE_EVERY_S:
            self._spoke_s = elapsed_s
            self._say(left_text(self._pace))

    def _say(self, when: str) -> None:
        rate = rate_text(self._pace.work_per_s(), self._work_unit)
        details = ", ".join(filter(None, [when, rate, *figures_text(self._figures)]))
        say(f"{self._stage}: {self._pace.done}/{self._pace.total} {self._unit}, {details}")

    def finish(self) -> None:
        """See Progress."""
        self._say(f"in {duration_text(self._pace.elapsed_s)}")

    def say(self, message: str) -> None:
        """See Progress."""
        say(message)
