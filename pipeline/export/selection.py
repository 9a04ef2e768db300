"""Which objects an export writes, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.stages import FAILED_OBJECTS_EXIT_CODE
from storage.errors import UsageError
from storage.plan import Plan
from storage.records import PlanRow


@dataclass(frozen=True)
class Selection:
    """Which objects of a dataset to export.

    Attributes:
        objects: their ids; empty: all.
        classes: their classes; empty: all.
        limit: the first so many of those chosen; None: all.
    """

    objects: Sequence[str] = ()
    classes: Sequence[str] = ()
    limit: int | None = None

    def rows(self, plan: Plan) -> list[PlanRow]:
        """Returns the chosen rows of a plan; raises UsageError for an unknown object or class."""
        if unknown := sorted(set(self.classes) - set(plan.classes)):
            raise UsageError(f"no class {unknown[0]!r} in the dataset; there are {', '.join(plan.classes)}")
        rows = [row for row in plan.rows if not self.classes or row.class_name in self.classes]
        if unknown := sorted(set(self.objects) - {row.object_id for row in rows}):
            where = " in these classes" if self.classes else ""
            raise UsageError(f"no object {unknown[0]!r} in the dataset{where}")
        chosen = set(self.objects)
        return [row for row in rows if not chosen or row.object_id in chosen][: self.limit]


@dataclass
class ExportResult:
    """What an export did.

    Attributes:
        written: objects written now.
        skipped: objects that were there.
        unavailable: object_id → why it has nothing to export.
    """

    written: int = 0
    skipped: int = 0
    unavailable: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Returns the result as plain JSON values."""
        return {"written": self.written, "skipped": self.skipped, "unavailable": self.unavailable}

    @property
    def exit_code(self) -> int:
        """0, or 42 when objects have nothing to export."""
        return FAILED_OBJECTS_EXIT_CODE if self.unavailable else 0
