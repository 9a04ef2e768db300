"""Views of stored fits: what the store holds, rendered from any camera, as evaluation and report need it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.model.identity import IdentityAutoencoder
from pipeline.model.planes import fuse
from pipeline.model.shared import SharedComponents, load_shared
from storage.store import Store

_BATCH_VIEWS = 16  # bounds memory: rays and samples of so many views are alive at once


class FitRenderer:
    """Renders codes with one version of the shared components.

    Args:
        shared: Frozen shared components; they decide the device.
    """

    def __init__(self, shared: SharedComponents) -> None:
        self._shared = shared
        self._device = shared.base_planes.device

    @classmethod
    def open(cls, store: Store, shared_version: str, device: str = "cpu") -> FitRenderer:
        """Load the shared components of a dataset.

        Raises:
            UsageError: The dataset has no such version.
            IntegrityError: A stored file is damaged.
        """
        return cls(load_shared(store, shared_version, device))

    def render(
        self,
        micro: NDArray[Any] | None,
        coefficients: NDArray[Any],
        cam2world: NDArray[Any],
        intrinsics: NDArray[Any],
    ) -> NDArray[np.float32]:
        """Views of one object.

        Args:
            micro: Micro planes [3, F_mic, K, K], None for variants without them.
            coefficients: [M].
            cam2world: Cameras [V, 4, 4], OpenCV axes.
            intrinsics: [V, 3, 3], pixels.

        Returns:
            RGB views [V, H, W, 3] in [0, 1] of the size that the shared components were trained on.
        """
        planes = None if micro is None else self._tensor(micro)[None]
        own = self._tensor(coefficients)[None]
        return self._views(fuse(planes, own, self._shared.base_planes)[0], cam2world, intrinsics)

    def render_planes(
        self, planes: NDArray[Any], cam2world: NDArray[Any], intrinsics: NDArray[Any]
    ) -> NDArray[np.float32]:
        """Views of one object from its fused planes [3, F, K, K]; see `render`."""
        return self._views(self._tensor(planes), cam2world, intrinsics)

    def _views(
        self, planes: torch.Tensor, cam2world: NDArray[Any], intrinsics: NDArray[Any]
    ) -> NDArray[np.float32]:
        parts = [
            self._shared.render_planes(planes, self._tensor(cameras), self._tensor(matrices))
            for cameras, matrices in zip(_batches(cam2world), _batches(intrinsics), strict=True)
        ]
        return _channels_last(torch.cat(parts))

    def ceiling(self, rgb: NDArray[Any]) -> NDArray[np.float32] | None:
        """Views [V, H, W, 3] after the autoencoder alone: the best that a fit can be expected to do.

        None where RGB is rendered without an autoencoder, which then bounds nothing.
        """
        if isinstance(self._shared.autoencoder, IdentityAutoencoder):
            return None
        parts = [self._shared.reconstruct(self._tensor(np.moveaxis(part, 3, 1))) for part in _batches(rgb)]
        return _channels_last(torch.cat(parts))

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.array(array, dtype=np.float32)).to(self._device)


def _batches(array: NDArray[Any]) -> list[NDArray[Any]]:
    return [array[start : start + _BATCH_VIEWS] for start in range(0, len(array), _BATCH_VIEWS)]


def _channels_last(views: torch.Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(views.permute(0, 2, 3, 1).float().cpu().numpy())
