"""Keeps credentials out of everything that is written or said.

A URL that carries credentials is refused before it is stored anywhere, because whoever reads the dataset
would read them. What other libraries put into their messages (signed URLs, headers, options) is replaced by
`***` on its way to logs, events, records and the terminal, and so is the value of every environment variable
that is named like a secret.
"""

from __future__ import annotations

import functools
import os
import re
from typing import Any

from .errors import ConfigError

HIDDEN = "***"
MIN_SECRET_LENGTH = 8
"""Shorter values of environment variables ("test", "none") stand in too many texts to be secrets."""

_NAME = (
    r"(?:[\w.-]*(?:secret|token|passw(?:or)?d|passphrase|signature|credentials?|api[_-]?key|access[_-]?key(?:[_-]?id)?"
    r"|account[_-]?key|private[_-]?key)|authorization|sig)"
)
_SECRET_NAME = re.compile(rf"{_NAME}|fsspec_\w+_key", re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^\s/@:'\"]*:[^\s/@'\"]*@")
_QUERY = re.compile(rf"(?<=[?&;])({_NAME})=(?!\*)[^&;\s'\"<>]+", re.IGNORECASE)
_BEARER = re.compile(r"\b(Bearer|Basic|AWS4-HMAC-SHA256)\s+(?!\*)[^\s'\"]{6,}[^'\"\n]*", re.IGNORECASE)
_ASSIGNED = re.compile(rf"(['\"]?\b{_NAME}['\"]?\s*[=:]\s*)(['\"])(?:(?!\2).)+\2", re.IGNORECASE)
_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b")
_PLAIN = re.compile(rf"(\b{_NAME}=)(?!\*)[^\s'\",;&)]+", re.IGNORECASE)
_OPTION_NAMES = {"key", "connection_string"}
"""Options of file systems that are secrets, beside those whose name says so."""

_given: set[str] = set()


def hide_options(options: dict[str, Any]) -> None:
    """Remembers the credentials among a file system's options, so that `redact` hides their values."""
    for name, value in options.items():
        if isinstance(value, dict):
            hide_options(value)
        elif isinstance(value, str) and len(value) >= MIN_SECRET_LENGTH and _is_secret(name):
            _given.add(value)


def check_url(url: str) -> str:
    """Returns a URL that carries no credentials.

    Raises:
        ConfigError: it has `user:password@` or a query parameter that is named like a secret.
    """
    if _USER_INFO.search(url) or _QUERY.search(url):
        raise ConfigError(
            f"{redact(url)}: a URL must not carry credentials, because datasets record it; give them in the "
            "environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, an AWS profile, or "
            "FSSPEC_<PROTOCOL>_<OPTION>"
        )
    return url


def redact(text: str) -> str:
    """Returns a text with every credential in it replaced by `***`."""
    for secret in sorted(_given | _of_environment(), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _KEY_ID.sub(HIDDEN, _USER_INFO.sub(f"{HIDDEN}@", text))
    text = _QUERY.sub(rf"\1={HIDDEN}", text)
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    text = _ASSIGNED.sub(rf"\1\2{HIDDEN}\2", text)
    return _PLAIN.sub(rf"\1{HIDDEN}", text)


def redacted(value: Any) -> Any:
    """Returns JSON values with every text in them redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: redacted(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(inner) for inner in value]
    return value


def _is_secret(name: str) -> bool:
    return name in _OPTION_NAMES or _is_secret_name(name)


@functools.lru_cache(4096)
def _is_secret_name(name: str) -> bool:
    return _SECRET_NAME.fullmatch(name) is not None


def _of_environment() -> set[str]:
    """Returns the values of this process's variables that are named like secrets.

    Read anew for every text, because a library may set one at any time; a driver asks a thousand times a
    second, so that the names, which are always the same, are judged once.
    """
    values = {os.environ.get(name, "") for name in os.environ if _is_secret_name(name)}
    return {value for value in values if len(value) >= MIN_SECRET_LENGTH and not value.startswith("/")}
