"""The form of configuration sections that are hashed: a dataset is named by what they say."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class ContentConfig(BaseModel):
    """A section whose every field changes content.

    Attributes:
        later_fields: Fields that came after the first datasets. They are left out while they have their
            default, so that earlier datasets keep their hash.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    later_fields: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _content(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if not self._is_unset(name)}

    def _is_unset(self, name: str) -> bool:
        if name not in self.later_fields:
            return False
        default: Any = type(self).model_fields[name].get_default(call_default_factory=True)
        return bool(getattr(self, name) == default)
