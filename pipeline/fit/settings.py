"""What a fit is told, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.fit.pace import Stopping
from pipeline.train.schedule import BETAS, Decay, Rates


@dataclass(frozen=True)
class FitSettings:
    """Values of a fit; their meaning and units stand in `pipeline.fit.config`."""

    latent_steps: int = 300
    latent_pixels: int = 512
    rgb_steps: int = 60
    rgb_views: int = 2
    crop_px: int = 0
    n_samples: int = 16
    n_fine: int = 0
    dilate: int = 1
    levels: int = 1
    betas: tuple[float, float] = BETAS
    latent_rates: Rates = field(default_factory=Rates)
    rgb_rates: Rates = field(default_factory=lambda: Rates(3e-3, 3e-3))
    latent_decay: Decay = field(default_factory=Decay)
    rgb_decay: Decay = field(default_factory=Decay)
    lambda_latent: float = 1.0
    lambda_rgb: float = 1.0
    lambda_free: float = 0.1
    lambda_tv: float = 0.0
    free_points: int = 256
    curve_every: int = 20
    stopping: Stopping = field(default_factory=Stopping)


@dataclass
class FittedCode:
    """Result of one object.

    Attributes:
        object_id: The object.
        micro: [3, F_mic, K, K] float32, or None for ULW.
        coefficients: [M] float32.
        curve: (steps done, mean training loss since the point before) at fixed intervals; latent loss first,
            then RGB loss.
        failure: Why the result cannot be used, or None.
        failure_kind: Its class: "fit_diverged", "empty_hull".
        steps: Latent and RGB steps that it took.
        seconds: Wall time of its share of the work; what a batch does at once is divided evenly.
        cpu_seconds: CPU time of the same.
    """

    object_id: str
    micro: npt.NDArray[np.float32] | None
    coefficients: npt.NDArray[np.float32]
    curve: list[tuple[int, float]] = field(default_factory=list)
    failure: str | None = None
    failure_kind: str = "fit_diverged"
    steps: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
