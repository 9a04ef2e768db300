"""Textures before Blender decodes them: only headers are read first, so that no picture can be a bomb."""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from render_jobs.mesh_file import FileLimits, MeshError, foreign_content, open_regular_file, write_new_file
from render_jobs.references import MeshFolder

# What Blender's image library reads of what Pillow recognises.
_FORMATS = ("PNG", "JPEG", "BMP", "TGA", "TIFF", "WEBP", "DDS", "PSD", "JPEG2000")
# Of these Blender draws the first part of a file that was cut, without a word; 0.05 s at 4096² to find out.
_DRAWN_IN_PART = ("JPEG", "TIFF", "DDS")
# What Pillow says of cut files. Other errors may be limits of Pillow's: Blender is asked about those files.
_CUT = ("truncated", "not enough image data")
_HEAD_BYTES = 4096
LINKS = "links"
"""Folder within the private one that holds all links to textures, and nothing that we write."""
_DECODING_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    struct.error,
    EOFError,
    LookupError,
    TypeError,
    RuntimeError,
)
INSTEAD = ": material colour used"


@dataclass(frozen=True)
class FoundTexture:
    """What became of a texture that a mesh names.

    Attributes:
        path: A picture that Blender may open; None when the material's colour stands in.
        problem: Why, the end of a sentence.
    """

    path: Path | None
    problem: str = ""


class TextureShelf:
    """Vets textures and puts links to them, under names of ours, into the folder that Blender reads.

    Args:
        folder: The private folder.
        around: The files around the mesh.
        limits: How large a texture may be.
    """

    def __init__(self, folder: Path, around: MeshFolder, limits: FileLimits) -> None:
        self._folder, self._around, self._limits = folder, around, limits
        self._vetted: dict[Path, FoundTexture] = {}
        self._left_bytes = limits.mesh_bytes
        self.names: dict[str, str] = {}
        """Name in the private folder to name as written in the mesh, for messages."""

    def find(self, written: bytes, beside: Path | None = None) -> FoundTexture:
        """Finds a texture by its name in the mesh, or in the file `beside`."""
        reference = self._around.find(written, beside)
        if reference.path is None:
            return FoundTexture(None, reference.problem)
        if reference.path not in self._vetted:
            self._vetted[reference.path] = self._link(reference.path, display_name(written))
        return self._vetted[reference.path]

    def add(self, content: bytes, name: str) -> FoundTexture:
        """Takes a picture that the mesh file itself contains."""
        self._left_bytes -= len(content)  # many entries may mean the same bytes of a file
        if self._left_bytes < 0:
            return FoundTexture(None, "is one too many: all together exceed compute.limits.mesh_bytes")
        path = self._folder / self._new_name(name, "")
        write_new_file(path, content)
        problem = picture_problem(path, self._limits)
        return FoundTexture(None, problem) if problem else FoundTexture(path)

    def _link(self, target: Path, name: str) -> FoundTexture:
        problem = picture_problem(target, self._limits)
        if problem:
            return FoundTexture(None, problem)
        path = self._folder / LINKS / self._new_name(name, target.suffix)
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(target)
        return FoundTexture(path)

    def _new_name(self, name: str, suffix: str) -> str:
        plain = suffix if suffix[1:].isascii() and suffix[1:].isalnum() else ""
        ours = f"texture{len(self.names)}{plain}"
        self.names[ours] = name
        return ours


def display_name(written: bytes) -> str:
    """Returns the last part of a written path, for messages."""
    return written.replace(b"\\", b"/").rsplit(b"/", 1)[-1][:120].decode(errors="replace")


def picture_problem(path: Path, limits: FileLimits) -> str:
    """Says why a picture must not be decoded, as the end of a sentence; empty when it may."""
    try:
        with open_regular_file(path, limits.mesh_bytes) as file:
            foreign = foreign_content(file.read(_HEAD_BYTES))
            if foreign is not None:
                return foreign[1]
            file.seek(0)
            width, height = _size(file)
    except MeshError as error:
        return f"is unusable ({error})"
    except Image.DecompressionBombError:
        return "is absurdly large"
    except (OSError, ValueError, SyntaxError, struct.error):  # what Pillow raises on damaged headers
        return "is no picture or damaged"
    if width * height > limits.texture_pixels:
        limit = f"compute.limits.texture_pixels is {limits.texture_pixels}"
        return f"is too large ({width}×{height} pixels; {limit})"
    if width * height == 0:
        return "has no pixels"
    return "is cut off: a part of it is missing" if _is_cut(path) else ""


def _is_cut(path: Path) -> bool:
    """Whether a file, whose size in pixels is known to be sane, ends before its picture does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_DRAWN_IN_PART) as image:
                image.draft(None, (1, 1))  # of a JPEG all bytes are read, but few pixels made
                image.load()
    except _DECODING_ERRORS as error:
        return any(said in str(error) for said in _CUT)
    return False


def _size(file: BinaryIO) -> tuple[int, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of its own limit; ours follows
        with Image.open(file, formats=_FORMATS) as image:
            return image.size
