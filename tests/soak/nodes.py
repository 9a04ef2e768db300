"""Three Ray nodes of which some are lost, some are taken away and some join while a stage works."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.run import read_events
from storage import layout
from storage.store import Store
from tests.soak.case import SHARDS_PER_WORKER, WHOLE_LIMIT_S, Case
from tests.soak.compare import Comparison, compare
from tests.soak.leftovers import Leftovers, in_environment
from tests.soak.work import Attempt, attempts, begun_again

MOST_NODES = 3
SMALL: dict[str, Any] = {"object_store_memory": 100 * 2**20}
GRACE_S = 10.0
"""Seconds that a node which is taken away has to end by itself, as a kubelet gives it 30."""


@dataclass(frozen=True)
class Weather:
    """How often nodes change.

    Attributes:
        every_s: Between two changes, drawn between these.
        fewest: Nodes that stay.
    """

    every_s: tuple[float, float] = (3.0, 8.0)
    fewest: int = 0


@dataclass(frozen=True)
class Change:
    """A node that came or went.

    Attributes:
        how: "lost" (SIGKILL), "removed" (SIGTERM) or "added".
        at: Unix time.
        raylet: Id of its main process.
        in_flight: Shards that it was working on.
    """

    how: str
    at: float
    raylet: int
    in_flight: tuple[int, ...] = ()


@dataclass
class StageReport:
    """What became of one stage.

    Attributes:
        stage: Its name.
        shards: It has so many.
        seconds: It took so long.
        changes: Nodes that came and went.
        in_flight: Shards under way on a node when it went.
        begun_again: Shards that were computed more than once.
        retried: Class of failure → attempts, by the events of the run.
        comparison: With the undisturbed dataset.
        problems: What must not be.
    """

    stage: str
    shards: int
    seconds: float
    changes: dict[str, int]
    in_flight: int
    begun_again: int
    retried: dict[str, int]
    comparison: Comparison | None = None
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
        return asdict(self)


class Nodes:
    """A cluster whose head has no CPUs and whose other nodes come and go; a context manager.

    Args:
        draws: Decides what happens, and when.
    """

    def __init__(self, draws: random.Random) -> None:
        self.changes: list[Change] = []
        self._draws = draws

    def __enter__(self) -> Nodes:
        from ray.cluster_utils import Cluster

        head = {
            "num_cpus": 0,
            "include_dashboard": False,
            **SMALL,
        }
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self.address = str(self._cluster.address)
        for _ in range(MOST_NODES):
            self._cluster.add_node(num_cpus=1, **SMALL)
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()

    @property
    def raylets(self) -> tuple[int, ...]:
        """Ids of the main processes of the nodes, the head apart."""
        return tuple(_raylet(node).pid for node in self._cluster.worker_nodes)

    def disturb(self, process: subprocess.Popen[str], notes: Path, weather: Weather) -> None:
        """Lets nodes come and go until a process ends, and makes the cluster whole afterwards."""
        deadline = time.monotonic() + WHOLE_LIMIT_S
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self._draws.uniform(*weather.every_s))
                break
            if time.monotonic() > deadline:
                raise RuntimeError(f"the stage did not end within {WHOLE_LIMIT_S:g} s")
            n_nodes = len(self._cluster.worker_nodes)
            goes = n_nodes > weather.fewest and (n_nodes == MOST_NODES or self._draws.random() < 0.5)
            self._remove(notes, self._draws.random() < 0.5) if goes else self._add()
        while len(self._cluster.worker_nodes) < MOST_NODES:
            self._cluster.add_node(num_cpus=1, **SMALL)

    def _add(self) -> None:
        node = self._cluster.add_node(num_cpus=1, **SMALL)
        self.changes.append(Change("added", time.time(), _raylet(node).pid))

    def _remove(self, notes: Path, with_grace: bool) -> None:
        nodes = sorted(self._cluster.worker_nodes, key=lambda node: int(_raylet(node).pid))
        node = self._draws.choice(nodes)
        raylet = _raylet(node)
        at = time.time()
        if with_grace:
            raylet.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                raylet.wait(GRACE_S)
        self._cluster.remove_node(node, allow_graceful=False)
        gone = time.time()
        in_flight = tuple(
            attempt.shard
            for attempt in attempts(notes)
            if attempt.parent == raylet.pid and attempt.was_running(at, gone)
        )
        how = "removed" if with_grace else "lost"
        self.changes.append(Change(how, at, raylet.pid, in_flight))


def _raylet(node: Any) -> Any:
    return node.all_processes["raylet"][0].process


@contextlib.contextmanager
def cluster(draws: random.Random, leftovers: Leftovers) -> Iterator[Nodes]:
    """Yields a cluster; nothing of it is there afterwards."""
    environment = {**leftovers.environment, "RAY_USAGE_STATS_ENABLED": "0"}
    with in_environment(environment), Nodes(draws) as nodes:
        yield nodes
    left, _ = leftovers.nothing()
    if left:
        raise RuntimeError(f"left after the end of the cluster: {left}")


def disturbed_stage(
    case: Case,
    stage: str,
    root: Path,
    undisturbed: Path,
    nodes: Nodes,
    weather: Weather,
    leftovers: Leftovers,
) -> StageReport:
    """Runs one stage while nodes come and go, and looks at what it leaves.

    Args:
        case: What the dataset is made of.
        stage: "render" or "fit-objects".
        root: The dataset.
        undisturbed: A finished one.
        nodes: The cluster.
        weather: How often they change.
        leftovers: Knows what is running.
    """
    before, began = len(nodes.changes), time.monotonic()
    workers = str(case.shards // SHARDS_PER_WORKER)
    with case.running(stage, root, "--ray-address", nodes.address, "--workers", workers) as process:
        nodes.disturb(process, case.notes(stage), weather)
    seconds = time.monotonic() - began
    changes = nodes.changes[before:]
    found = attempts(case.notes(stage))
    again = begun_again(found)
    gone = {change.raylet for change in changes if change.how != "added"}
    report = StageReport(
        stage,
        len({attempt.shard for attempt in found}),
        round(seconds, 1),
        {how: sum(change.how == how for change in changes) for how in ("lost", "removed", "added")},
        sum(len(change.in_flight) for change in changes),
        len(again),
        retried(Store(root), stage),
    )
    if process.returncode:
        report.problems.append(f"exit code {process.returncode}: {case.said.read_text()[-2000:]}")
    report.problems += _needless(found, gone)
    report.problems += leftovers.orphans({attempt.pid for attempt in found}, root)
    report.comparison = compare(root, undisturbed, with_fits=stage == "fit-objects")
    report.problems += report.comparison.problems
    return report


def retried(store: Store, stage: str) -> dict[str, int]:
    """Returns class of failure → attempts that failed so, by the events of all runs of a stage."""
    counts = Counter[str]()
    for run in store.list(f"{layout.RUNS}/{stage}"):
        for event in read_events(store, stage, run):
            counts.update(event.get("retried", {}))
    return dict(counts)


def _needless(found: Sequence[Attempt], gone: set[int]) -> list[str]:
    """Says which attempts were lost although their node had stayed."""
    last = {attempt.shard: attempt for attempt in found}
    return [
        f"shard {attempt.shard} was begun again although the node of process {attempt.pid} had not gone"
        for attempt in found
        if attempt is not last[attempt.shard] and not attempt.skipped and attempt.parent not in gone
    ]
