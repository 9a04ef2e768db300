"""Which of an object's views are taken, and which of them are held out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from render_jobs.cameras import heldout_mask
from render_jobs.transforms import Frame

BoolArray = npt.NDArray[np.bool_]


def choose_views(
    frames: Sequence[Frame], n: int, heldout_fraction: float, seed: int
) -> tuple[list[Frame], BoolArray]:
    """Takes n of an object's views, in file order.

    Where the data has a split it decides: training and held-out views keep their proportion (at least one of
    each), the first of each kind are taken. Where it has none the first n are taken, and a seeded part of
    them is held out, as for renders.

    Args:
        frames: At least n.
        n: Views wanted, at least 2.
        heldout_fraction: Part that is held out where the data does not say.
        seed: Seed of that choice.

    Raises:
        ValueError: The data holds out every view.
    """
    said = np.array([bool(frame.heldout) for frame in frames])
    if not said.any():
        return list(frames[:n]), heldout_mask(n, heldout_fraction, seed)
    if said.all():
        raise ValueError(f"all {len(frames)} views are held out: none is left to train on")
    n_heldout = min(max(1, round(n * said.mean()), n - int((~said).sum())), n - 1)
    chosen = np.concatenate([np.flatnonzero(said)[:n_heldout], np.flatnonzero(~said)[: n - n_heldout]])
    chosen.sort()
    return [frames[i] for i in chosen], said[chosen]
