"""Refuses several writers where the store could not tell which of two was first."""

from __future__ import annotations

from pipeline.compute import usable_cores
from pipeline.config import ComputeConfig
from storage.errors import EnvironmentProblem
from storage.store import Store

ONE_AT_A_TIME = (
    "the server ignores create-only writes (If-None-Match), so that of two writers of one shard both would "
    "believe to be the first: one command at a time may write there, with one worker"
)


def require_writers(store: Store, compute: ComputeConfig, shards: str = "all") -> None:
    """Refuse what would write with several processes to a store that takes one.

    Args:
        store: The dataset; what it honours is found out and recorded if that is not yet known.
        compute: Where the command runs.
        shards: The text of `--shard`: whoever divides the shards runs several commands.

    Raises:
        EnvironmentProblem: Several writers, and the store ignores create-only writes.
    """
    if store.settle().create:
        return
    several = compute.executor == "ray" or (compute.workers or usable_cores()) > 1 or shards != "all"
    if several:
        raise EnvironmentProblem(
            f"{store.url}: {ONE_AT_A_TIME}; add --executor local --workers 1 and leave out --shard"
        )
