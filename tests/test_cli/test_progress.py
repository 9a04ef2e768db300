"""Progress: the pace of a stage and the time left, on a terminal and in log lines."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cli.logs import LineProgress
from cli.pace import left_text, rate_text
from cli.terminal import TerminalProgress
from cli.text import duration_text, figures_text
from pipeline.pace import Pace


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(Pace.__init__, "__defaults__", (clock,))
    return clock


def test_time_left_of_a_resumed_run_comes_from_the_work_done_now() -> None:
    clock = Clock()
    resumed = Pace(1000, done=900, clock=clock)
    assert resumed.left_s() is None
    clock.now += 40
    resumed.advance(10, 1600)  # 10 objects in 40 s, 90 to go: 360 s; counting all 910 it would be 4 s
    assert resumed.left_s() == pytest.approx(360)
    assert resumed.work_per_s() == pytest.approx(40)
    clock.now += 40
    assert resumed.left_s() == pytest.approx(320), "counts down while nothing comes"
    clock.now += 960  # 10 objects in 1000 s, the last 40 of which may be those of the next ones
    assert resumed.units_per_s() == pytest.approx(0.01)
    assert resumed.left_s() == pytest.approx(90 / 0.01 - 1000)
    nearly_done = Pace(12, done=0, clock=clock)
    clock.now += 40
    nearly_done.advance(10, 10)
    clock.now += 30
    assert nearly_done.left_s() == 0
    assert left_text(nearly_done) == "taking longer than expected"


def test_the_pace_falls_while_results_fail_to_come_and_recovers() -> None:
    clock = Clock()
    stalled = Pace(1000, done=0, clock=clock)
    for _ in range(100):
        clock.now += 10
        stalled.advance(1, 1)
    assert stalled.units_per_s() == pytest.approx(0.1)
    clock.now += 10
    assert stalled.units_per_s() == pytest.approx(0.1), "the next one may come now"
    clock.now += 3600  # the window holds 600 s with 60 results
    assert stalled.units_per_s() == pytest.approx(60 / 4200)
    for _ in range(61):
        clock.now += 10
        stalled.advance(1, 1)
    assert stalled.work_per_s() == pytest.approx(0.1)


def test_bursts_and_results_far_apart_give_a_steady_rate() -> None:
    """Two workers, shards of 10 objects and 40 s that end within a second of each other."""
    clock = Clock()
    steady = Pace(400, done=0, clock=clock)
    for _ in range(5):
        clock.now += 39.5
        steady.advance(10, 10)
        clock.now += 0.5
        steady.advance(10, 10)
        assert steady.left_s() == pytest.approx((400 - steady.done) * 2, rel=0.02)


def test_the_pace_follows_a_change_within_its_window() -> None:
    clock = Clock()
    changing = Pace(100_000, done=0, clock=clock)
    for _ in range(2000):
        clock.now += 1
        changing.advance(10, 10)
    for _ in range(700):
        clock.now += 1
        changing.advance(1, 1)
    assert changing.work_per_s() == pytest.approx(1.0, rel=0.01)


def test_what_somebody_else_did_moves_the_bar_and_not_the_pace() -> None:
    clock = Clock()
    shared = Pace(100, done=0, clock=clock)
    clock.now += 5
    shared.advance(40, 0)
    assert (shared.done, shared.left_s()) == (40, None)
    clock.now += 10
    shared.advance(10, 10)
    assert shared.left_s() == pytest.approx(50), "10 in 10 s, since the 40 were met"


def test_rates_have_a_unit_that_suits_them() -> None:
    assert [rate_text(value, "views") for value in (None, 0, 170.4, 3.14, 0.8, 0.0009)] == [
        *("", "", "170 views/s", "3.1 views/s", "48 views/min", "3.2 views/h"),
    ]
    assert [duration_text(value) for value in (42, 185, 7800)] == ["42 s", "3 min 05 s", "2 h 10 min"]


def test_log_lines_say_objects_rate_failures_and_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = LineProgress()
    lines.start("render", 160, "objects", 60, "views")
    for failed in (1, 2):
        clock.now += 8
        lines.advance(20, 20 * 40, failed=failed)
    clock.now += 2
    lines.finish()
    assert capsys.readouterr().err.splitlines() == [
        "render: 160 objects, 60 done before",
        "render: 100/160 objects, 24 s left, 100 views/s, failed 2",
        "render: 100/160 objects, in 18 s, 100 views/s, failed 2",
    ]


@pytest.mark.parametrize("width", [80, 140])
def test_the_bar_says_objects_rate_failures_and_time_left(clock: Clock, width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    bar = TerminalProgress(console)
    bar.start("render", 50_000, "objects", 12_000, "views")
    clock.now += 30
    bar.advance(345, 345 * 160, failed=12)
    bar._bar.refresh()
    drawn = console.file.getvalue().replace("\r", "\n").splitlines()[-1]
    bar.finish()
    assert "12345/50000 objects" in drawn
    assert "54 min 34 s left" in drawn  # 37655 objects at 11.5 a second
    assert "1840 views/s · failed 12" in drawn
    assert len(drawn.split("\x1b[2K")[-1].rstrip()) <= width


def test_figures_of_an_earlier_phase_are_not_shown() -> None:
    assert figures_text({"phase": "joint", "ae": None, "rgb": 0.5}) == ["phase joint", "rgb 0.5"]
