"""Which of two codes of one object is better: by training views alone, never by held-out ones.

A fixed lot of an object's training views, drawn by its id, is rendered from what the store holds, as
evaluation renders: by the real decoder, and without a visual hull, so that what a fit leaves in empty space
counts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline import metrics
from pipeline.fit.draws import object_key
from pipeline.fit_views import FitRenderer
from storage.records import ObjectFit, ObjectViews

JUDGED_VIEWS = 8


def judged_views(object_id: str, heldout: NDArray[np.bool_]) -> NDArray[np.int64]:
    """At most `JUDGED_VIEWS` training views of an object, always the same ones, ascending.

    Args:
        object_id: The object.
        heldout: bool [V].
    """
    training = np.flatnonzero(~heldout)
    drawn = np.random.default_rng(object_key("judged views", object_id)).permutation(training)
    return np.sort(drawn[:JUDGED_VIEWS])


def training_error(renderer: FitRenderer, fit: ObjectFit, views: ObjectViews, object_id: str) -> float:
    """Mean squared RGB error of a fit on the object's judged views, over white; NaN if it is not finite."""
    numbers = judged_views(object_id, views.heldout)
    drawn = renderer.render(fit.micro, fit.coefficients, views.cam2world[numbers], views.intrinsics[numbers])
    truth = metrics.composite(views.images[numbers])
    return float(np.square(np.clip(drawn, 0, 1) - truth, dtype=np.float64).mean())
