"""What a layout of imported views answers: which objects a folder holds, and which views an object has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from render_jobs.sources.views.files import ObjectFolder, ViewsFolder
from render_jobs.transforms import Frame

MAX_TRANSFORMS_BYTES = 1 << 28


class FoundObject(NamedTuple):
    """One object of a folder: its class, and its place below the folder."""

    class_name: str
    location: str


@dataclass(frozen=True)
class ObjectFrames:
    """What an object's files of cameras say.

    Attributes:
        frames: Its views in file order.
        data: The files' bytes.
        mesh_to_world: f32 [4, 4] where fpipe exported the views: their world is ours already.
        object_id: The object's id where fpipe exported the views.
    """

    frames: list[Frame]
    data: bytes
    mesh_to_world: npt.NDArray[np.float32] | None = None
    object_id: str | None = None


class ViewsLayout(Protocol):
    """How folders and files of cameras are arranged."""

    normalize: Literal["cameras", "none"]

    def objects(self, folder: ViewsFolder) -> list[FoundObject]:
        """Returns all objects in a fixed order.

        Raises:
            UsageError: The folder is not laid out like this.
        """

    def frames(self, folder: ObjectFolder) -> ObjectFrames:
        """Reads the cameras of one object.

        Raises:
            FileNotFoundError: It has no file of cameras.
            CameraFileError: The file cannot be used.
            UnsafeReferenceError: The file is a link out of the object's folder.
        """
