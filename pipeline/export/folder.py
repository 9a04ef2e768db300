"""An output folder of an export: whatever stands there under its name is whole, and from one dataset.

Files and folders are written under hidden names and renamed when they are complete, so that a killed export
is continued by skipping what is there. `export.json` says what the folder holds; it is written first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from storage.documents import canonical_json
from storage.errors import EnvironmentProblem, FpipeError, StoreMismatchError, UsageError

RECORD = "export.json"
_PARTIAL = ".partial"
_ABANDONED_S = 3600.0  # a file is written in seconds or minutes; so old a one is of an export that was killed
_UNSAFE = re.compile(r"[/\\\x00-\x1f:]")
_WORDS = {"plan_hash": "dataset", "generation": "state of the fit", "objects": "set of objects"}
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/")


class ExportFolder:
    """A folder that belongs to one export.

    Args:
        path: the folder, on this machine; made where it does not exist.
        record: what it is to hold, JSON values.

    Raises:
        UsageError: a URL, or a folder that holds something else than an export.
        StoreMismatchError: it holds another export.
        EnvironmentProblem: it cannot be written.
    """

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        if _URL.match(str(path)):
            raise UsageError(
                f"--out {path}: exports are written to a folder of this machine; copy it from there"
            )
        self.path = path
        self._partial = path / _PARTIAL
        with _as_problem(path):
            self._claim(record)

    def _claim(self, record: dict[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        place = self.path / RECORD
        if not place.exists():
            if any(entry.name != _PARTIAL for entry in self.path.iterdir()):
                raise UsageError(f"{self.path} is not empty, and no export: choose a new folder as --out")
            self.write(RECORD, canonical_json(record))
            return
        try:
            found = json.loads(place.read_bytes())
        except ValueError:
            found = None
        if found != json.loads(canonical_json(record)):
            raise StoreMismatchError(
                f"{self.path} holds {_what_differs(found, record)}: choose another --out"
            )

    def has(self, name: str) -> bool:
        """Returns whether a file or folder is there, and so complete."""
        return (self.path / name).exists()

    def write(self, name: str, content: bytes) -> None:
        """Writes one file."""
        with self.file(name) as stream:
            stream.write(content)

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        """Yields a stream that becomes the file when the block ends well."""
        with self._temporary(name) as temporary:
            with temporary.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())  # or a crash of the machine may leave an empty file under the name
            temporary.replace(self.path / name)

    @contextlib.contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """Yields an empty folder that gets its name when the block ends well."""
        with self._temporary(name) as temporary:
            temporary.mkdir()
            yield temporary
            temporary.rename(self.path / name)

    @contextlib.contextmanager
    def _temporary(self, name: str) -> Iterator[Path]:
        target, temporary = self.path / name, self._partial / secrets.token_hex(8)
        with _as_problem(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._partial.mkdir(exist_ok=True)
            try:
                yield temporary
            finally:
                if temporary.is_dir():
                    shutil.rmtree(temporary, ignore_errors=True)
                temporary.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes what killed exports left; another that is running may use the folder."""
        for left in [*self._partial.iterdir()] if self._partial.is_dir() else []:
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _ABANDONED_S:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
        with contextlib.suppress(OSError):
            self._partial.rmdir()


def safe_name(name: str, dots: bool = True) -> str:
    """Returns a name that is one harmless path component, equal to the given one wherever that is.

    Args:
        name: any text.
        dots: keep dots that are not the first character.
    """
    plain = _UNSAFE.sub("_", name)[:200]
    plain = plain if dots else plain.replace(".", "_")
    plain = f"_{plain[1:]}" if plain.startswith(".") or not plain else plain
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _what_differs(found: Any, record: dict[str, Any]) -> str:
    """Names what of an export's record is not that of the folder, in words."""
    if not isinstance(found, dict):
        return "an unreadable export.json"
    other = [name for name in sorted(record.keys() | found.keys()) if found.get(name) != record.get(name)]
    return f"an export of another {' and another '.join(_WORDS.get(name, name) for name in other)}"


@contextlib.contextmanager
def _as_problem(path: Path) -> Iterator[None]:
    """Errors of the file system end the command with one line: a full disk, a folder that is read-only."""
    try:
        yield
    except FpipeError:  # some of them are OSErrors, too, and say more
        raise
    except OSError as error:
        raise EnvironmentProblem(f"{error.filename or path}: {error.strerror or error}") from error
