"""Stores the channel statistics of a fit at the end of whatever completes or changes it."""

from __future__ import annotations

import logging

from pipeline.progress import Progress
from storage.errors import IntegrityError, StaleSnapshotError, UsageError
from storage.fit_statistics import write_statistics
from storage.planes import PlanesStore
from storage.records import Status

LOGGER = logging.getLogger(__name__)


def store_statistics(planes: PlanesStore, progress: Progress) -> str | None:
    """Stores the statistics of a fit whose shards are all done; returns their version.

    Nothing fails for lack of them: readers merge them from the shards where they are not stored. So what
    stands in the way is only said.
    """
    try:
        planes.refresh()
        if len(planes.done()) < planes.n_shards or not (planes.status() == Status.OK).any():
            return None
        return write_statistics(planes).version
    except (StaleSnapshotError, IntegrityError, UsageError) as error:
        LOGGER.warning("channel statistics of fit %s are not stored: %s", planes.header.name, error)
        name = planes.header.name
        progress.say(
            f"no channel statistics ({error}); fpipe stats {planes.store.url} --name {name} stores them"
        )
        return None
