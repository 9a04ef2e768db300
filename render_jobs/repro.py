"""Renders one object of a dataset again and says what happens: `python -m render_jobs.repro ROOT OBJECT_ID`.

Nothing is written to the dataset. Exit code 0 when the object renders, 42 when it fails.
"""

from __future__ import annotations

import logging
import sys

from render_jobs.config import ExecutionLimits
from render_jobs.job import ObjectRenderer
from render_jobs.worker import BlenderWorker, RenderFailure
from storage.errors import UsageError
from storage.plan import read_plan
from storage.store import Store

LOGGER = logging.getLogger(__name__)

FAILED_EXIT_CODE = 42


def repro(root_url: str, object_id: str, limits: ExecutionLimits | None = None) -> int:
    """Renders one object and logs the outcome; returns the exit code.

    Raises:
        UsageError: No dataset, or no such object.
    """
    plan = read_plan(Store(root_url))
    try:
        row = plan.rows[plan.row_of(object_id)]
    except KeyError as error:
        raise UsageError(f"{root_url} has no object {object_id}") from error
    with BlenderWorker(limits) as worker:
        try:
            _, info = ObjectRenderer.of_plan(root_url, plan).render(worker, row)
        except RenderFailure as error:
            LOGGER.error(
                "%s fails: %s: %s\n%s",
                object_id,
                error.failure.kind,
                error.failure.reason,
                error.failure.detail,
            )
            return FAILED_EXIT_CODE
    LOGGER.info("%s renders: %s", object_id, info)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if len(sys.argv) != 3:
        sys.exit("usage: python -m render_jobs.repro ROOT OBJECT_ID")
    sys.exit(repro(sys.argv[1], sys.argv[2]))
