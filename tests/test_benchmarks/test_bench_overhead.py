"""How the benchmark of overhead divides time: every moment once, to the innermost part."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.benchmarks import bench_overhead, parts_of_task


def spin(cpu_s: float) -> None:
    until = time.process_time() + cpu_s
    while time.process_time() < until:
        pass


def test_the_innermost_part_is_charged_and_nothing_twice() -> None:
    parts, began = parts_of_task.Parts(), time.process_time()
    with parts.span("task"):
        spin(0.02)
        with parts.span("commit"):
            spin(0.05)
            time.sleep(0.1)
        spin(0.01)
    assert parts.cpu["commit"] == pytest.approx(0.05, abs=0.02)
    assert parts.wall["commit"] > 0.14
    assert sum(parts.cpu.values()) == pytest.approx(time.process_time() - began, abs=0.005)


def test_a_part_that_ends_with_an_error_is_charged() -> None:
    parts = parts_of_task.Parts()
    with pytest.raises(KeyError), parts.span("task"), parts.span("read"):
        spin(0.02)
        raise KeyError
    assert parts.cpu["read"] >= 0.02
    assert parts.cpu["task"] < 0.01


def task(process: int, cpu_s: float, **parts: float) -> dict[str, Any]:
    return {
        "cpu": parts,
        "before": {"start": (0.5, 3.0)},
        "children_cpu_s": 2.0,
        "process": process,
        "process_cpu_s": cpu_s,
    }


def test_work_is_what_makes_the_data() -> None:
    tasks = [task(1, 1.5, encode=0.25, source=0.125, task=0.0625), task(1, 3.0, encode=0.25, pipes=0.5)]
    work, parts = bench_overhead.split("render", tasks, inside_s=3.5)
    assert work == 3.5 + 0.25 + 0.25 + 0.125
    assert parts == {"start": 1.0, "task": 0.0625, "pipes": 0.5, "blender: start and pipes": 0.5}
    assert bench_overhead.last_of_each_process(tasks) == [tasks[1]]
