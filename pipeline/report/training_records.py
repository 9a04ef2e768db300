"""What the training section shows, as plain records; pictures are arrays u8 [H, W, 3], sRGB over white."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.report.render_records import Picture


@dataclass(frozen=True)
class Reconstruction:
    """One held-out view of one object, and what the autoencoder alone makes of it."""

    object_id: str
    view: int
    psnr_db: float
    truth: Picture
    picture: Picture


@dataclass(frozen=True)
class Timeline:
    """One held-out view of one object, as it was rendered after each of these steps."""

    object_id: str
    view: int
    truth: Picture
    frames: Sequence[tuple[int, Picture]]


@dataclass(frozen=True)
class BasePlane:
    """One base plane.

    Attributes:
        alone: Rendered with this coefficient alone.
        less: The mean object with this coefficient two standard deviations lower; None where it is not drawn.
        more: The same, higher.
    """

    alone: Picture
    less: Picture | None
    more: Picture | None


@dataclass(frozen=True)
class CoefficientPair:
    """Two jointly trained objects: ids, one view of each, and their coefficients [M]."""

    ids: tuple[str, str]
    pictures: tuple[Picture, Picture]
    coefficients: tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class TrainingGallery:
    """Every picture of the training section.

    With `with_micro`, base planes lie over the mean of all micro planes.
    """

    reconstructions: Sequence[Reconstruction] = ()
    timelines: Sequence[Timeline] = ()
    base_planes: Sequence[BasePlane] = ()
    pair: CoefficientPair | None = None
    with_micro: bool = False
