"""Pictures of planes from any camera, as users of a dataset need them: stored, normalised, or sampled ones.

    data = open_planes("cars")
    renderer = PlanesRenderer.open(data)
    images = renderer.render(data["car-000012"], orbit_cameras(8, 22.0, 1.3))  # f32 [8, H, W, 3]
    images = renderer.render(planes, cam2world, normalized="minmax")  # a model's sample

Images are RGB over white, of the size that the dataset was rendered in: the autoencoder decodes whole views,
so there is no other size, and opacity is known per latent pixel alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.fit_views import FitRenderer
from storage.errors import UsageError
from storage.fitted import FittedObject
from storage.reader import PlanesDataset
from storage.statistics import Normalization


class PlanesRenderer:
    """Renders planes with the renderer and the decoder of a dataset.

    Args:
        dataset: Gives cameras' intrinsics and statistics where they are needed.
        renderer: With the shared components of the dataset's fit.
    """

    def __init__(self, dataset: PlanesDataset, renderer: FitRenderer) -> None:
        self._dataset = dataset
        self._renderer = renderer

    @classmethod
    def open(cls, dataset: PlanesDataset, device: str = "cpu") -> PlanesRenderer:
        """Load the shared components of a dataset's fit.

        Raises:
            UsageError: the shared components are not there.
            IntegrityError: a stored file is damaged.
        """
        planes = dataset.planes_store
        return cls(dataset, FitRenderer.open(planes.store, planes.header.shared_version, device))

    def render(
        self,
        planes: FittedObject | NDArray[Any],
        cam2world: NDArray[Any],
        intrinsics: NDArray[Any] | None = None,
        normalized: Normalization | None = None,
    ) -> NDArray[np.float32]:
        """Render one object.

        Args:
            planes: An object of the dataset, or fused planes [3, F, K, K] or flat [3F, K, K].
            cam2world: Cameras [V, 4, 4] or [4, 4], OpenCV axes, world units.
            intrinsics: [V, 3, 3] or [3, 3], pixels; by default those of the dataset's first view.
            normalized: How the given planes are normalised, by the statistics of the dataset.

        Returns:
            RGB views [V, H, W, 3] in [0, 1], over white.

        Raises:
            UsageError: planes or cameras of another shape, or values that are not finite.
        """
        if isinstance(planes, FittedObject):
            if normalized is not None:
                raise UsageError(f"{planes!r} has the planes that are stored: normalized is for arrays")
            planes = planes.planes()
        fused = self._fused(self._dataset.stats.denormalize(planes, normalized) if normalized else planes)
        cameras = np.asarray(cam2world, np.float32).reshape(-1, *np.shape(cam2world)[-2:])
        own = self.default_intrinsics() if intrinsics is None else np.asarray(intrinsics, np.float32)
        if cameras.shape[1:] != (4, 4) or own.shape not in ((3, 3), (len(cameras), 3, 3)):
            raise UsageError(
                f"cam2world {np.shape(cam2world)}, intrinsics {own.shape}: give [V, 4, 4] and [V, 3, 3] or "
                "[3, 3]"
            )
        return self._renderer.render_planes(fused, cameras, np.broadcast_to(own, (len(cameras), 3, 3)))

    def default_intrinsics(self) -> NDArray[np.float32]:
        """Return the intrinsics of the dataset's first view, f32 [3, 3]."""
        first: NDArray[np.float32] = self._dataset[0].intrinsics()[0]
        return first

    def default_radius(self) -> float:
        """Return the median distance of the first object's cameras from the origin, in world units."""
        return float(np.median(np.linalg.norm(self._dataset[0].cam2world()[:, :3, 3], axis=1)))

    def _fused(self, planes: NDArray[Any]) -> NDArray[np.float32]:
        header = self._dataset.planes_store.header
        n_macro = self._dataset.base_planes().shape[2] if header.n_base else 0
        shape = (3, header.f_mic + n_macro, header.resolution, header.resolution)
        values = np.asarray(planes, np.float32)
        if values.shape not in (shape, (shape[0] * shape[1], *shape[2:])):
            raise UsageError(
                f"planes {values.shape}: give fused planes of one object, {list(shape)} or flat "
                f"{[shape[0] * shape[1], *shape[2:]]}"
            )
        if not np.isfinite(values).all():
            raise UsageError("planes hold values that are not finite")
        return values.reshape(shape)
