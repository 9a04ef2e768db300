"""Many objects in one run: memory that does not grow, nothing left behind; see bench_soak for figures."""

from __future__ import annotations

import pytest

from tests.benchmarks.bench_soak import soak


@pytest.mark.slow
@pytest.mark.bpy
def test_many_objects_and_many_deaths_leave_nothing() -> None:
    found = soak(n_objects=150, views=8, size=64)
    assert found["ok"][0] == 150
    assert found["processes"][0] == 1
    assert found["rss_mib"][9] < found["rss_mib"][4] + 30, found
    assert found["kills"] > 3
    assert found["processes"][1] > found["kills"] / 2
    assert sum(found["ok"][1:] + found["failed"][1:]) == 50, "every object has ended somehow"
    assert found["fds_after"] <= found["fds_before"] + 2, found
    assert (found["zombies"], found["processes_left"], found["files_left"]) == (0, 0, 0), found
