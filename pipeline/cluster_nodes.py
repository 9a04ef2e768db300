"""What a cluster's nodes offer to tasks: how many fit at once, and what to say where none ever will.

Pure functions on what `ray.nodes()` returns. A node counts with all that it has, whether it is busy or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.executor import TaskResources


def places(nodes: Sequence[Mapping[str, Any]], needs: TaskResources) -> int:
    """Returns how many such tasks the nodes can run at once."""
    return sum(_places_of(node, needs) for node in nodes if node["Alive"])


def has_label(labels: Mapping[str, str], name: str, condition: str) -> bool:
    """Says whether labels of a node meet one condition of Ray's label selector.

    The condition is a value, "!value", "in(a,b)" or "!in(a,b)"; a node without the label meets the negated
    ones.
    """
    negated, rest = condition.startswith("!"), condition.removeprefix("!")
    listed = rest.startswith("in(") and rest.endswith(")")
    values = [value.strip() for value in rest[3:-1].split(",")] if listed else [rest]
    return (labels.get(name) in values) != negated


def described(needs: TaskResources) -> str:
    """Returns what one task needs, in words."""
    parts = [f"{needs.cpus:g} CPU"]
    if needs.gpus:
        parts.append(f"{needs.gpus:g} GPU")
    if needs.memory_bytes:
        parts.append(f"{needs.memory_bytes / 2**30:.1f} GiB of memory")
    parts += [f"{amount:g} {name}" for name, amount in sorted(needs.custom.items())]
    parts += [f"label {name}={condition}" for name, condition in sorted(needs.labels.items())]
    return ", ".join(parts)


def offered(nodes: Sequence[Mapping[str, Any]], needs: TaskResources) -> str:
    """Returns what the live nodes have of what a task needs, equal ones together, in words."""
    counts: dict[str, int] = {}
    for node in nodes:
        if node["Alive"]:
            has = node["Resources"]
            text = described(
                TaskResources(
                    has.get("CPU", 0.0),
                    has.get("GPU", 0.0) if needs.gpus else 0.0,
                    int(has.get("memory", 0)) if needs.memory_bytes else 0,
                    {name: node["Labels"].get(name, "(none)") for name in needs.labels},
                    {name: has.get(name, 0.0) for name in needs.custom},
                )
            )
            counts[text] = counts.get(text, 0) + 1
    return "; ".join(f"{number} with {text}" for text, number in counts.items()) or "none is alive"


def _places_of(node: Mapping[str, Any], needs: TaskResources) -> int:
    if not all(has_label(node["Labels"], name, condition) for name, condition in needs.labels.items()):
        return 0
    has: Mapping[str, float] = node["Resources"]
    asked = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": float(needs.memory_bytes)} | dict(needs.custom)
    # 1e-9: three tasks of a third of a GPU fit on one
    numbers = [int(has.get(name, 0.0) / amount + 1e-9) for name, amount in asked.items() if amount]
    return min(numbers, default=1)
