"""Looks at what the nodes of the Ray cluster offer, and waits for some."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import ray

from pipeline.cluster_nodes import described, offered, places
from pipeline.executor import TaskResources
from storage.errors import EnvironmentProblem

LOGGER = logging.getLogger(__name__)

LOOK_S = 1.0
"""Seconds between two looks at the cluster's nodes."""
SAY_S = 60.0
"""Seconds between two lines that say that there is no node."""


class ClusterNodes:
    """Looks now and then at what the cluster offers to tasks of one kind."""

    def __init__(self, needs: TaskResources, wait_s: float) -> None:
        self._needs, self._wait_s = needs, wait_s
        self._looked = self._said = -float("inf")
        self._places = 0
        self._without_since: float | None = None

    def places(self) -> int:
        """Returns how many tasks can run at once, 0 while there is no node for them.

        Raises:
            EnvironmentProblem: there has been no node for longer than is waited.
        """
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            nodes = ray.nodes()  # type: ignore[no-untyped-call]
            self._places = places(nodes, self._needs)
            if self._places:
                self._without_since = None
            else:
                self._none(nodes, now)
        return self._places

    def _none(self, nodes: Sequence[dict[str, Any]], now: float) -> None:
        """Tells, now and then, that no node can run a task."""
        self._without_since = now if self._without_since is None else self._without_since
        left_s = self._wait_s - (now - self._without_since)
        problem = (
            f"no node of the cluster can run a task, which needs {described(self._needs)}; "
            f"nodes: {offered(nodes, self._needs)}"
        )
        if left_s <= 0:
            waited = f" (waited {self._wait_s:g} s for one, compute.wait_for_nodes_s)" * bool(self._wait_s)
            raise EnvironmentProblem(
                f"{problem}{waited}. Add such a node, or ask for less: compute.render_*, fit_* or train_* "
                "(cpus, gpus, memory, labels)"
            )
        if now - self._said >= SAY_S:
            self._said = now
            LOGGER.warning("%s. Waiting %.0f s for one", problem, left_s)


def cluster_places(needs: TaskResources) -> int:
    """Returns how many such tasks the cluster's nodes of now can run at once."""
    return places(ray.nodes(), needs)  # type: ignore[no-untyped-call]


def await_nodes(needs: TaskResources, wait_s: float) -> None:
    """Returns when a node of the cluster can run such a task.

    Raises:
        EnvironmentProblem: no node can, and none has come within wait_s.
    """
    nodes = ClusterNodes(needs, wait_s)
    while not nodes.places():
        time.sleep(LOOK_S)
