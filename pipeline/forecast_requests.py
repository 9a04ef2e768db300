"""How many requests the shards of a stage make of an object store: a property of the code, held by a test.

What is written once per dataset (plan, metadata of the arrays, shared components, checkpoints) and the
heartbeat of a run (two requests in 30 s) are left out: they do not grow with the dataset. Limits: each shard
is tried once, and requests to the source of the meshes are not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from storage.plan import shard_count


@dataclass(frozen=True)
class Requests:
    """Requests: those that write or list, which S3 prices alike, and those that read."""

    puts: int
    gets: int


VIEWS_SHARD = Requests(puts=10, gets=9)
"""Puts: the shard, seven derived arrays, the marker, one listing of appends. Gets: header, metadata, marker,
segment of the plan, conditions, journal, and the shard before, at and after its commit."""
PASS_SHARD = Requests(puts=4, gets=4)
"""More where there is depth, and again where there are normals."""
FIT_SHARD = Requests(puts=9, gets=26)
"""Puts: the shard, five derived arrays, the marker, two listings. Gets: as above, and shared components."""


def render_requests(n_objects: int, per_shard: int, n_passes: int) -> Requests:
    """Returns the requests of the render stage."""
    n_shards = shard_count(n_objects, per_shard)
    puts = VIEWS_SHARD.puts + n_passes * PASS_SHARD.puts
    return Requests(n_shards * puts, n_shards * (VIEWS_SHARD.gets + n_passes * PASS_SHARD.gets))


def fit_requests(n_objects: int, per_shard: int, per_views_shard: int) -> Requests:
    """Returns the requests of the fit stage.

    A shard reads marker and tail of every shard of views that it needs, and each object's views at once.
    """
    n_shards = shard_count(n_objects, per_shard)
    both = shard_count(n_objects, math.lcm(per_shard, per_views_shard))
    pairs = n_shards + shard_count(n_objects, per_views_shard) - both
    return Requests(n_shards * FIT_SHARD.puts, n_shards * FIT_SHARD.gets + 2 * pairs + n_objects)
