"""How many requests a stage makes of an object store: a property of the code, held by tests.

Limits: each shard is tried once, by one command. Left out are requests to the source of the meshes, and what
grows with time: the heartbeat of a run (two puts in 30 s) and the checkpoints of a training. A listing of
more than 1000 shards counts once and takes more.
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

    def plus(self, other: Requests) -> Requests:
        """Returns the sum."""
        return Requests(self.puts + other.puts, self.gets + other.gets)


RENDER_ONCE = Requests(puts=28, gets=16)
"""Of the command, besides its shards: plan, metadata of the arrays, record of the run, listings."""
TRAIN_ONCE = Requests(puts=37, gets=34)
"""Besides views: shared components, curve, pictures, record of the run, listings."""
FIT_ONCE = Requests(puts=33, gets=18)
"""As of rendering."""
VIEWS_SHARD = Requests(puts=10, gets=9)
"""Puts: the shard, seven derived arrays, the marker, one listing of appends. Gets: header, metadata, marker,
segment of the plan, conditions, journal, and the shard before, at and after its commit."""
PASS_SHARD = Requests(puts=4, gets=4)
"""More where there is depth, and again where there are normals."""
FIT_SHARD = Requests(puts=9, gets=26)
"""Puts: the shard, five derived arrays, the marker, two listings. Gets: as above, and shared components."""


def render_requests(n_objects: int, per_shard: int, n_passes: int) -> Requests:
    """Returns the requests of the tasks of the render stage."""
    n_shards = shard_count(n_objects, per_shard)
    puts = VIEWS_SHARD.puts + n_passes * PASS_SHARD.puts
    return Requests(n_shards * puts, n_shards * (VIEWS_SHARD.gets + n_passes * PASS_SHARD.gets))


def fit_requests(n_objects: int, per_shard: int, per_views_shard: int) -> Requests:
    """Returns the requests of the tasks of the fit stage.

    A shard reads marker and tail of every shard of views that it needs, and each object's views at once.
    """
    n_shards = shard_count(n_objects, per_shard)
    both = shard_count(n_objects, math.lcm(per_shard, per_views_shard))
    pairs = n_shards + shard_count(n_objects, per_views_shard) - both
    return Requests(n_shards * FIT_SHARD.puts, n_shards * FIT_SHARD.gets + 2 * pairs + n_objects)


def render_command(n_objects: int, per_shard: int, n_passes: int) -> Requests:
    """Returns the requests of one `fpipe render` that does all shards."""
    return render_requests(n_objects, per_shard, n_passes).plus(RENDER_ONCE)


def train_command(n_trained: int, n_views_shards: int) -> Requests:
    """Returns the requests of one `fpipe train-shared`: each shard's status, views of trained objects."""
    return Requests(0, 3 * n_views_shards + 2 * n_trained).plus(TRAIN_ONCE)


def fit_command(n_objects: int, per_shard: int, per_views_shard: int) -> Requests:
    """Returns the requests of one `fpipe fit-objects`, ended by status and statistics of all shards."""
    merged = Requests(0, 4 * shard_count(n_objects, per_shard))
    return fit_requests(n_objects, per_shard, per_views_shard).plus(merged).plus(FIT_ONCE)
