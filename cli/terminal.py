"""The progress bar of a terminal, drawn by rich: what is done, time left, rate, failures."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from cli.pace import left_text, rate_text
from cli.text import duration_text, figures_text
from pipeline.pace import Pace
from storage.redaction import redact


class TerminalProgress:
    """A bar per stage.

    rich's own time left forgets results after 30 s; a shard may take longer than that.

    Args:
        console: Where to draw; stderr by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._state = _State(Pace(0, 0), "")

    def start(self, stage: str, total: int, unit: str, done: int = 0, work_unit: str = "") -> None:
        """See pipeline.progress.Progress."""
        self._state = _State(Pace(total, done), work_unit or unit)
        wide = self._console.width >= 100
        columns = (
            TextColumn("[bold]{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=28 if wide else 10),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn(unit, table_column=Column(no_wrap=True)),
            _StateColumn(self._state),
        )
        self._bar = Progress(*columns, console=self._console)
        self._bar.start()
        self._task = self._bar.add_task(stage, total=total, completed=done)

    def advance(self, amount: int = 1, work: float | None = None, **figures: Any) -> None:
        """See pipeline.progress.Progress."""
        if self._bar is not None:
            self._state.pace.advance(amount, amount if work is None else work)
            self._state.figures.update(figures)
            self._bar.update(self._task, advance=amount)

    def finish(self) -> None:
        """See pipeline.progress.Progress."""
        if self._bar is not None:
            self._state.is_over = True
            self._bar.stop()
            self._bar = None

    def say(self, message: str) -> None:
        """See pipeline.progress.Progress."""
        self._console.print(redact(message), markup=False, highlight=False)


class _State:
    """What the text beside the bar is made of."""

    def __init__(self, pace: Pace, work_unit: str) -> None:
        self.pace = pace
        self.work_unit = work_unit
        self.figures: dict[str, Any] = {}
        self.is_over = False

    def text(self) -> str:
        when = f"in {duration_text(self.pace.elapsed_s)}" if self.is_over else left_text(self.pace)
        rate = rate_text(self.pace.work_per_s(), self.work_unit)
        return " · ".join(filter(None, [when, rate, *figures_text(self.figures)]))


class _StateColumn(ProgressColumn):
    """Time left counts down between two results; the end of a line that is too long is cut off."""

    def __init__(self, state: _State) -> None:
        super().__init__(table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
        self._state = state

    def render(self, task: Task) -> Text:
        return Text(f"· {self._state.text()}", overflow="ellipsis", no_wrap=True)
