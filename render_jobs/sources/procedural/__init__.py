"""The embedded source: an unlimited, seeded family of objects of several classes, made by formulas.

Classes: cars, sofas, cabinets, speakers and chairs. Object k of a class is the same on every machine: every
number comes from a stream seeded by class name, k and `GENERATOR_VERSION`. All objects of a class share one
frame: y up, front along -z (as in ShapeNetCore v2), bounding box centred with diagonal 1.
"""

from __future__ import annotations

from render_jobs.sources.procedural.draw import GENERATOR_VERSION
from render_jobs.sources.procedural.source import CLASSES, ProceduralSource, build, object_id, write_object

__all__ = ["CLASSES", "GENERATOR_VERSION", "ProceduralSource", "build", "object_id", "write_object"]
