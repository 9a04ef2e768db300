"""A progress for tests: nothing is shown, what was said is kept."""

from __future__ import annotations

from typing import Any


class Silent:
    """Keeps what was said and how much was done."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.done = 0

    def start(self, stage: str, total: int, unit: str, done: int = 0, work_unit: str = "") -> None:
        self.done = done

    def advance(self, amount: int = 1, work: float | None = None, **figures: Any) -> None:
        self.done += amount

    def finish(self) -> None:
        pass

    def say(self, message: str) -> None:
        self.said.append(message)
