"""Material libraries: base colour, opacity and base colour texture go on to Blender, nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from render_jobs.formats.geometry import Material, Texture
from render_jobs.textures import INSTEAD, LINKS, TextureShelf, display_name

_DEFAULT_COLOUR = (0.8, 0.8, 0.8)
# Tr is left out, as by Blender's importer: half of the exporters mean opacity, half its opposite.
_NUMBERS = {b"kd": b"Kd", b"d": b"d", b"illum": b"illum"}
# Options of map_Kd, which come before the file's name, and how many values they take at most.
_ONE_VALUE = (b"-blendu", b"-blendv", b"-cc", b"-clamp", b"-texres", b"-bm", b"-boost", b"-imfchan", b"-type")
_OPTIONS = {
    **dict.fromkeys(_ONE_VALUE, 1),
    b"-mm": 2,
    **dict.fromkeys((b"-o", b"-s", b"-t"), 3),
}


class MaterialWriter:
    """Reads material libraries and writes one that refers to vetted textures only.

    Args:
        shelf: Vets the textures.

    Attributes:
        warnings: What had to be replaced.
        looks: What the importer makes of each material, by name.
    """

    def __init__(self, shelf: TextureShelf) -> None:
        self._shelf = shelf
        self._lines: list[bytes] = []
        self._material, self._path = b"", Path()
        self.warnings: list[str] = []
        self.looks: dict[bytes, Material] = {}

    def text(self) -> bytes:
        """Returns the library."""
        return b"".join(line + b"\n" for line in self._lines)

    def read(self, content: bytes, path: Path) -> None:
        """Takes over the materials of one library.

        Args:
            content: The library.
            path: Where it lies.
        """
        self._material, self._path = b"", path
        for keyword, rest in _entries(content):
            self._take(keyword, rest)

    def _take(self, keyword: bytes, rest: bytes) -> None:
        if keyword == b"newmtl":
            self._material = rest or b"?"
            self.looks[rest] = Material(self._shown_name(), colour=_DEFAULT_COLOUR)
            self._lines.append(b"newmtl " + rest)
        elif not self._material:
            return
        elif keyword in _NUMBERS:
            self._numbers(keyword, rest)
        elif keyword == b"map_kd":
            self._texture(rest)

    def _numbers(self, keyword: bytes, rest: bytes) -> None:
        values = rest.split()
        if keyword == b"kd" and len(values) == 1:
            values *= 3  # the specification lets one value stand for all
        wanted = 3 if keyword == b"kd" else 1
        values = values[-1:] if keyword == b"d" else values[:wanted]  # d may have an option -halo
        if len(values) == wanted and all(_is_finite(value) for value in values):
            self._lines.append(_NUMBERS[keyword] + b" " + b" ".join(values))
            self._look(keyword, [float(value) for value in values])
        else:
            shown = f"{_NUMBERS[keyword].decode()} {rest[:40].decode(errors='replace')}"
            self.warnings.append(f"material {self._shown_name()}: {shown!r} is no value and was left out")

    def _look(self, keyword: bytes, values: list[float]) -> None:
        if keyword == b"kd":
            self._change(colour=(values[0], values[1], values[2]))
        elif keyword == b"d":
            self._change(alpha=values[0])

    def _change(self, **changes: Any) -> None:
        if self._material in self.looks:
            self.looks[self._material] = replace(self.looks[self._material], **changes)

    def _shown_name(self) -> str:
        return self._material[:120].decode(errors="replace")

    def _texture(self, rest: bytes) -> None:
        name = file_name(rest)
        if not name:
            return
        found = self._shelf.find(name, self._path)
        if found.path is not None:
            self._lines.append(f"map_Kd {LINKS}/{found.path.name}".encode())
            self._change(texture=Texture(found.path))
        else:
            self.warnings.append(
                f"texture {display_name(name)} of material {self._shown_name()} {found.problem}{INSTEAD}"
            )


def texture_names(content: bytes) -> list[bytes]:
    """Returns the textures that a library names and `MaterialWriter` asks for, as written."""
    names = [file_name(rest) for keyword, rest in _entries(content) if keyword == b"map_kd"]
    return list(dict.fromkeys(filter(None, names)))


def _entries(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keyword of each line, in lower case, and the rest."""
    for line in content.removeprefix(b"\xef\xbb\xbf").splitlines():
        keyword, _, rest = line.strip().replace(b"\t", b" ").partition(b" ")
        yield keyword.lower(), rest.strip()


def file_name(rest: bytes) -> bytes:
    """Returns the file's name, which may have spaces, after the options of a texture line."""
    while True:
        option, _, behind = rest.partition(b" ")
        n = _OPTIONS.get(option.lower())
        if n is None:
            return rest.strip().strip(b'"')
        words = behind.split(b" ")
        words = [word for word in words if word]
        taken = 0
        while taken < n and taken < len(words) and (n == 1 or _is_finite(words[taken])):
            taken += 1
        rest = b" ".join(words[taken:])


def _is_finite(value: bytes) -> bool:
    try:
        return math.isfinite(float(value)) and abs(float(value)) < 1e30
    except ValueError:
        return False
