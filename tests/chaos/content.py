"""What the writers write: cheap content that follows from an object's id and the attempt that made it.

So whoever reads an object can compute what it must look like, and two attempts never look alike.
"""

from __future__ import annotations

import hashlib

import numpy as np

from storage.plan import PlanHeader
from storage.planes import FitHeader
from storage.records import Failure, ObjectFit, PlanRow

FIT = "chaos"
OBJECTS_PER_SHARD = 4
F_MIC, K, M = 4, 16, 8
METRIC = "psnr_db"


def plan_header(n_shards: int) -> PlanHeader:
    """The last shard is not full."""
    n = n_shards * OBJECTS_PER_SHARD - 1
    return PlanHeader(n_objects=n, n_views=2, height=8, width=8, objects_per_views_shard=OBJECTS_PER_SHARD)


def plan_rows(n_objects: int) -> list[PlanRow]:
    names = ("car", "sofa")
    return [PlanRow(row, object_id(row), names[row % 2], "chaos", str(row), "") for row in range(n_objects)]


def object_id(row: int) -> str:
    return f"{('car', 'sofa')[row % 2]}-{row:05d}"


def fit_header(n_objects: int, name: str = FIT, steps: int = 2) -> FitHeader:
    """Another number of steps is another configuration."""
    return FitHeader(
        name=name,
        shared_version="c0de" * 4,
        fit_config={"steps": steps},
        fit_config_hash=f"steps-{steps}",
        n_objects=n_objects,
        f_mic=F_MIC,
        resolution=K,
        n_base=M,
        objects_per_shard=OBJECTS_PER_SHARD,
        metric_names=(METRIC,),
    )


def first_fails(name: str) -> bool:
    """Whether the first attempt at an object fails, whoever makes it."""
    return hashlib.sha256(name.encode()).digest()[0] % 5 == 0


def outcome(name: str, label: str, is_first: bool) -> ObjectFit | Failure:
    """What the attempt called `label` makes of an object."""
    if is_first and first_fails(name):
        return Failure("nan", f"attempt {label} came to nothing")
    seed = hashlib.sha256(f"{name} {label}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(seed[:8], "little"))
    micro = rng.normal(size=(3, F_MIC, K, K)).astype(np.float16)
    coefficients = rng.normal(size=M).astype(np.float32)
    return ObjectFit(micro, coefficients, 2, {METRIC: float(np.float32(rng.normal()))})


def same_fit(fit: ObjectFit, expected: ObjectFit | Failure) -> bool:
    """Whether all of a fit is what the attempt made: planes, coefficients, metrics."""
    return (
        isinstance(expected, ObjectFit)
        and np.array_equal(np.asarray(fit.micro), np.asarray(expected.micro))
        and np.array_equal(fit.coefficients, expected.coefficients)
        and fit.metrics == expected.metrics
    )
