"""What nodes offer to tasks, against hand-counted clusters."""

from __future__ import annotations

import pytest

from pipeline.cluster_nodes import described, has_label, offered, places
from pipeline.executor import TaskResources

GIB = 2**30


def node(alive: bool = True, labels: dict[str, str] | None = None, **resources: float) -> dict:
    return {"Alive": alive, "Labels": labels or {}, "Resources": resources}


NODES = [
    node(memory=64.0 * GIB),  # a head without CPUs
    node(CPU=5.0, memory=16.0 * GIB, labels={"group": "spot"}),
    node(CPU=3.0, memory=16.0 * GIB, labels={"group": "spot"}),
    node(CPU=8.0, GPU=1.0, memory=64.0 * GIB, licence=2.0, labels={"group": "gpu"}),
    node(alive=False, CPU=100.0, labels={"group": "spot"}),
]


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        (TaskResources(), 5 + 3 + 8),
        (TaskResources(cpus=2), 2 + 1 + 4),  # a task does not run on two nodes
        (TaskResources(cpus=6), 1),
        (TaskResources(cpus=9), 0),
        (TaskResources(gpus=1 / 3), 3),
        (TaskResources(gpus=2), 0),
        (TaskResources(memory_bytes=6 * GIB), 2 + 2 + 8),
        (TaskResources(custom={"licence": 1}), 2),
        (TaskResources(custom={"licence": 1}, labels={"group": "spot"}), 0),
        (TaskResources(labels={"group": "spot"}), 5 + 3),
        (TaskResources(labels={"group": "!spot"}), 8),
        (TaskResources(labels={"group": "in(spot, gpu)"}), 16),
        (TaskResources(labels={"group": "spot", "zone": "a"}), 0),
    ],
)
def test_places(needs, expected):
    assert places(NODES, needs) == expected


@pytest.mark.parametrize(
    ("condition", "with_a", "with_b", "without"),
    [
        ("a", True, False, False),
        ("!a", False, True, True),
        ("in(a,c)", True, False, False),
        ("!in(a,c)", False, True, True),
    ],
)
def test_conditions_of_labels(condition, with_a, with_b, without):
    found = [has_label(labels, "x", condition) for labels in ({"x": "a"}, {"x": "b"}, {})]
    assert found == [with_a, with_b, without]


def test_a_message_names_what_is_needed_and_what_there_is():
    needs = TaskResources(2, 0.5, 3 * GIB, labels={"group": "gpus"}, custom={"licence": 1.0})
    assert described(needs) == "2 CPU, 0.5 GPU, 3.0 GiB of memory, 1 licence, label group=gpus"
    assert offered(NODES[2:4], TaskResources(custom={"licence": 1.0})) == (
        "1 with 3 CPU, 0 licence; 1 with 8 CPU, 2 licence"
    )
    assert offered(NODES, TaskResources(labels={"group": "x"})) == (
        "1 with 0 CPU, label group=(none); 1 with 5 CPU, label group=spot; 1 with 3 CPU, label group=spot; "
        "1 with 8 CPU, label group=gpu"
    )
    assert offered([NODES[1], NODES[1]], TaskResources()) == "2 with 5 CPU"
    assert offered(NODES[-1:], needs) == "none is alive"
