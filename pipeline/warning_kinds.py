"""Groups warnings by their wording: names and numbers differ from object to object, the rest does not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

_EXAMPLES: Final = 5
_NUMBER: Final = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True)
class WarningKind:
    """Warnings of one wording: how many objects have one, and (object id, text) of some."""

    text: str
    n_objects: int
    examples: Sequence[tuple[str, str]]


class WarningCounter:
    """Counts warnings kind by kind, and keeps a few examples of each.

    Two warnings are of one kind when they begin and end with the same word, numbers aside. A kind is shown as
    what all its warnings have in common, with "…" for the rest.
    """

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def add(self, object_id: str, warnings: Iterable[str]) -> None:
        """Counts the warnings of one object; an object counts once per kind."""
        seen = set()
        for text in warnings:
            words = text.split()
            if not words:
                continue
            key = (_NUMBER.sub("#", words[0]), _NUMBER.sub("#", words[-1]))
            self._kinds.setdefault(key, _Kind(words)).add(object_id, text, words, is_first=key not in seen)
            seen.add(key)

    def kinds(self) -> list[WarningKind]:
        """What was counted, most frequent first."""
        found = [WarningKind(kind.text(), kind.n_objects, kind.examples) for kind in self._kinds.values()]
        return sorted(found, key=lambda kind: (-kind.n_objects, kind.text))


class _Kind:
    def __init__(self, words: list[str]) -> None:
        self.n_objects = 0
        self.examples: list[tuple[str, str]] = []
        self._head, self._tail = words, words
        self._is_whole = True

    def add(self, object_id: str, text: str, words: list[str], is_first: bool) -> None:
        self.n_objects += is_first
        if is_first and len(self.examples) < _EXAMPLES:
            self.examples.append((object_id, text))
        self._is_whole = self._is_whole and words == self._head
        self._head = self._head[: _common(self._head, words)]
        n_tail = _common(self._tail[::-1], words[::-1])
        self._tail = self._tail[len(self._tail) - n_tail :]

    def text(self) -> str:
        return " ".join(self._head if self._is_whole else [*self._head, "…", *self._tail])


def _common(first: list[str], second: list[str]) -> int:
    """Words that two lists begin with in common."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
