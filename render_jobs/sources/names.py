"""Names made of paths: readable, valid as names of files and in URLs, and different for different paths."""

from __future__ import annotations

import hashlib
import os
import unicodedata

MAX_NAME_BYTES = 160
"""File systems allow 255 bytes; some are left for endings."""
_PLAIN = set("._-+")


def readable_name(text: str) -> str:
    """Returns text with letters and digits of any script kept, and everything else replaced by "_".

    Text that is not UTF-8 (surrogates in Python) is read as Latin-1. Where something is lost by that, a hash
    of the text is added, so that two names stay two names.
    """
    composed = unicodedata.normalize("NFC", _as_text(text))
    name = "".join(c if c.isalnum() or unicodedata.combining(c) or c in _PLAIN else "_" for c in composed)
    name = _cut(name.lstrip(".-") or "_")
    only_spaces = composed.replace(" ", "_")
    return name if name in {text, composed, only_spaces} and is_text(text) else f"{name}-{digest_of(text)}"


def digest_of(text: str) -> str:
    """Returns 8 hex digits that stand for a path."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


def _as_text(text: str) -> str:
    return text if is_text(text) else os.fsencode(text).decode("latin-1")


def is_text(text: str) -> bool:
    """Says whether a path is valid Unicode; a name in another encoding holds surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cut(name: str) -> str:
    return name.encode()[:MAX_NAME_BYTES].decode(errors="ignore")
