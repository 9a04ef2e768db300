"""Faces drawn from a statistical model of shape and colour: BFM 2009, 2017, 2019, or a built-in one."""

from __future__ import annotations

from render_jobs.sources.morphable.model import MorphableModel, draw_coefficients, make_face
from render_jobs.sources.morphable.scalismo import write_scalismo
from render_jobs.sources.morphable.source import MorphableSource, load_model
from render_jobs.sources.morphable.synthetic import synthetic_model

__all__ = [
    "MorphableModel",
    "MorphableSource",
    "draw_coefficients",
    "load_model",
    "make_face",
    "synthetic_model",
    "write_scalismo",
]
