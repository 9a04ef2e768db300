"""A morphable head without a licence: made by formulas, with the same statistics as a real model's file."""

from __future__ import annotations

import functools

import numpy as np

from render_jobs.sources.morphable.head import Array, build_head
from render_jobs.sources.morphable.model import FloatArray, LinearModel, MorphableModel

SYNTHETIC_VERSION = 1
"""Rises when the same numbers would give another face."""
LEVEL = 5


@functools.lru_cache(maxsize=2)
def synthetic_model(level: int = LEVEL) -> MorphableModel:
    """Returns the head of 10·4^level + 2 vertices, with shape, colour and expression.

    To have it as a file: `write_scalismo(synthetic_model(), Path("head.h5"))`.
    """
    head = build_head(level)
    return MorphableModel(
        shape=LinearModel(_flat(head.vertices), _principal(head.shapes)),
        color=LinearModel(_flat(head.colours), _principal(head.paints)),
        expression=LinearModel(np.zeros(head.vertices.size, dtype=np.float32), _principal(head.expressions)),
        cells=head.cells,
        digest=f"synthetic-{SYNTHETIC_VERSION}-{level}",
    )


def _principal(fields: Array) -> FloatArray:
    """Returns directions [3N, K], orthogonal and largest first, whose Gaussian is that of the fields.

    The eigenvectors V of FᵀF turn the fields F [3N, K] into principal directions FV: FV (FV)ᵀ = F Fᵀ.
    """
    flat = fields.reshape(len(fields), -1)
    _, vectors = np.linalg.eigh(flat @ flat.T)
    vectors = vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(len(fields))])  # a sign is the library's whim
    return np.ascontiguousarray((vectors.T @ flat).T, dtype=np.float32)


def _flat(values: Array) -> FloatArray:
    return values.astype(np.float32).ravel()
