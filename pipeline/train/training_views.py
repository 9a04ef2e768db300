"""The views that training and fitting see.

Held-out views never enter: `TrainingViews.of` drops them before anything is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True)
class TrainingViews:
    """Training views of one object.

    Attributes:
        object_id: The object.
        rgba: [V, H, W, 4] uint8, straight alpha, sRGB.
        cam2world: [V, 4, 4] OpenCV axes.
        intrinsics: [V, 3, 3] pixels.
        has_alpha: Whether alpha tells where the object is.
    """

    object_id: str
    rgba: npt.NDArray[np.uint8]
    cam2world: npt.NDArray[np.float32]
    intrinsics: npt.NDArray[np.float32]
    has_alpha: bool = True

    @staticmethod
    def of(
        object_id: str,
        images: npt.NDArray[np.uint8],
        cam2world: npt.NDArray[np.float32],
        intrinsics: npt.NDArray[np.float32],
        heldout: npt.NDArray[np.bool_],
        has_alpha: bool = True,
    ) -> TrainingViews:
        """Keep the training views of an object.

        Raises:
            ValueError: If no training view is left.
        """
        keep = ~heldout
        if not keep.any():
            raise ValueError(f"object {object_id} has no training view: all {len(heldout)} are held out")
        return TrainingViews(object_id, images[keep], cam2world[keep], intrinsics[keep], has_alpha)

    def rgb(self, device: torch.device) -> Tensor:
        """[V, 3, H, W] in [0, 1], composited over white."""
        return over_white(torch.from_numpy(self.rgba).to(device))


class AllViews:
    """All training views of objects in one row space: what the autoencoder's trainer reads."""

    def __init__(self, objects: Sequence[TrainingViews]) -> None:
        self._objects = list(objects)
        self._start = np.cumsum([0] + [len(views.rgba) for views in objects])

    def __len__(self) -> int:
        """Views in all."""
        return int(self._start[-1])

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Views [len(rows), H, W, 4]."""
        owner = np.searchsorted(self._start, rows, side="right") - 1
        return np.stack(
            [self._objects[i].rgba[row - self._start[i]] for i, row in zip(owner, rows, strict=True)]
        )


def over_white(rgba: Tensor) -> Tensor:
    """Composite uint8 RGBA [..., H, W, 4] over white: [..., 3, H, W] in [0, 1]."""
    values = rgba.movedim(-1, -3).float() / 255.0
    alpha = values[..., 3:, :, :]
    return values[..., :3, :, :] * alpha + (1.0 - alpha)
