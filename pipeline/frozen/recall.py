"""Whether an object that is fitted twice is found again by its coefficients: recall@1, and its uncertainty.

Query i and gallery entry i are two fits of one object. Plain numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]

MEASURE: Final = "euclidean"
"""The measure that counts, chosen before anything was measured: the space as it is stored, with no constant
and no statistics of a gallery, as a downstream user would search it. The others stand beside it."""

RESAMPLES: Final = 10_000
_TINY: Final = 1e-30


def euclidean(queries: Vectors, gallery: Vectors) -> Vectors:
    """Distances [Q, G] between coefficients [Q, M] and [G, M] as they are."""
    return np.asarray(np.linalg.norm(queries[:, None] - gallery[None], axis=2), dtype=np.float64)


def cosine(queries: Vectors, gallery: Vectors) -> Vectors:
    """One minus the cosine of the angles [Q, G] between coefficients [Q, M] and [G, M]."""
    a, b = (
        vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _TINY)
        for vectors in (queries, gallery)
    )
    return np.asarray(1.0 - a @ b.T, dtype=np.float64)


def standardised(queries: Vectors, gallery: Vectors) -> Vectors:
    """Distances [Q, G] after division by each coefficient's standard deviation in the gallery.

    A coefficient that is the same in the whole gallery is left out.
    """
    spread = np.nanstd(gallery, axis=0)
    keep = spread > 0
    return euclidean(queries[:, keep] / spread[keep], gallery[:, keep] / spread[keep])


MEASURES: Final[Mapping[str, Callable[[Vectors, Vectors], Vectors]]] = {
    "euclidean": euclidean,
    "cosine": cosine,
    "standardised": standardised,
}


def hits_at_1(distances: Vectors) -> Vectors:
    """How far each query is found: 1 if gallery entry i is the nearest one to query i, 0 if another one is.

    Where k entries are equally near, and entry i is one of them, it is 1/k: a space in which all codes are
    equal gives chance level. An object without a code (NaN) is never found.

    Args:
        distances: [N, N], row i of query i, column j of gallery entry j.

    Returns:
        [N] in [0, 1]; their mean is recall@1.

    Raises:
        ValueError: Not square, or empty.
    """
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1] or not len(distances):
        raise ValueError(f"expected distances [N, N] of N queries and their N matches, got {distances.shape}")
    found = np.where(np.isnan(distances), np.inf, distances)
    nearest = found.min(axis=1, keepdims=True)
    is_nearest = (found == nearest) & np.isfinite(found)
    ties = np.maximum(is_nearest.sum(axis=1), 1)
    return np.asarray(np.diagonal(is_nearest) / ties, dtype=np.float64)


def bootstrap_interval(
    values: NDArray[np.float64], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95% percentile interval of a mean over objects, which are drawn again with replacement.

    Args:
        values: [N], one per object; NaN (an object without the figure) is left out.
        seed: Of the draws.
        resamples: How often N objects are drawn.

    Returns:
        The 2.5th and the 97.5th percentile of the means; NaN without values. Values that are all equal have
        an interval of no width, which says nothing about rare misses: 3/N bounds their rate then.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(0, len(values), size=(resamples, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
