"""Builds HTML and SVG from calls, and escapes every text that is not markup already.

Object ids, paths and error messages come from other people's files: nothing reaches the page unescaped unless
it is an `Html`, and only this module makes those.
"""

from __future__ import annotations

import html
from typing import Final

_VOID: Final = frozenset({"br", "hr", "img", "input", "meta"})

Attribute = str | int | float | bool | None


class Html(str):
    """Text that is markup: `el` takes it as it is."""

    __slots__ = ()


Child = str | int | float | None


def el(tag: str, *children: Child, **attributes: Attribute) -> Html:
    """One element.

    Args:
        tag: Name of the element.
        *children: Html as it is; any other value as escaped text; None is left out.
        **attributes: `_` becomes `-` and a trailing one falls away (`class_`, `aria_label`). True writes the
            bare name, None and False nothing; numbers are written short, as SVG wants them.

    Returns:
        The element as text.

    Raises:
        ValueError: An element that cannot have children was given some.
    """
    opening = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in _VOID:
        if children:
            raise ValueError(f"<{tag}> cannot have children")
        return Html(f"<{tag}{opening}>")
    return Html(f"<{tag}{opening}>{join(*children)}</{tag}>")


def join(*children: Child) -> Html:
    """Markup and escaped text side by side."""
    return Html("".join(_text(child) for child in children if child is not None))


def short(number: float) -> str:
    """A number as SVG attributes want it: two decimals at most, no trailing zeros."""
    return f"{number:.2f}".rstrip("0").rstrip(".") if number % 1 else f"{number:.0f}"


def _text(child: str | int | float) -> str:
    return child if isinstance(child, Html) else html.escape(str(child))


def _attribute(name: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = short(value) if isinstance(value, float) else str(value)
    return f' {name}="{html.escape(text)}"'
