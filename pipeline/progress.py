"""The interface through which a stage tells how far it is; the command line draws it."""

from __future__ import annotations

from typing import Any, Protocol


class Progress(Protocol):
    """What a stage reports. Every call is cheap and may come hundreds of times a second."""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """A stage begins: total units of work, of which done were done by earlier runs."""
        ...

    def advance(self, amount: int = 1, **figures: Any) -> None:
        """Work was done; figures (loss, failures, views/s …) replace those shown before."""
        ...

    def finish(self) -> None:
        """The stage ended, completely or not."""
        ...

    def say(self, message: str) -> None:
        """One line for the person who watches."""
        ...
