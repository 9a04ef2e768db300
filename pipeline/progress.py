"""The interface through which a stage tells how far it is; the command line draws it."""

from __future__ import annotations

from typing import Any, Protocol


class Progress(Protocol):
    """What a stage reports. Every call is cheap and may come hundreds of times a second."""

    def start(self, stage: str, total: int, unit: str, done: int = 0, work_unit: str = "") -> None:
        """A stage begins: total units, of which done were done by earlier runs.

        The rate is shown in work_unit ("views"), where that is not the unit itself.
        """
        ...

    def advance(self, amount: int = 1, work: float | None = None, **figures: Any) -> None:
        """Units are done, which took that much work: as many as there are units, if nothing is said.

        Units without work (0) were done by somebody else, and say nothing about the pace. Figures (losses,
        failures) replace those shown before.
        """
        ...

    def finish(self) -> None:
        """The stage ended, completely or not."""
        ...

    def say(self, message: str) -> None:
        """One line for the person who watches."""
        ...
