"""Signals to a command that runs shards: what runs may end, nothing more begins, and then the signal acts.

The tests send real signals to this process, whose handler for SIGINT is Python's own, and one for SIGTERM.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from cli.status_text import status_text
from pipeline.activity import activity, live_runs
from pipeline.drain import Drain
from pipeline.executor import TaskResources
from pipeline.local_executor import LocalExecutor
from pipeline.run import Run, read_events, record_run
from pipeline.stages import run_shards
from pipeline.status import dataset_status
from storage.store import Store
from tests.conformance import faults
from tests.test_pipeline.small_dataset import write_small_dataset
from tests.test_pipeline.test_stages import Listening

N_SHARDS = 5


class StoppedError(Exception):
    """What the handler for SIGTERM raises."""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Handlers as a command has them, and the proof that they are back afterwards."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise StoppedError

    before = signal.signal(signal.SIGTERM, stop)
    own = (stop, signal.getsignal(signal.SIGINT))
    yield
    found = (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    signal.signal(signal.SIGTERM, before)
    assert found == own


def send(number: signal.Signals, when: Callable[[], object]) -> None:
    once(when, lambda: os.kill(os.getpid(), number))


def once(when: Callable[[], object], what: Callable[[], object]) -> None:
    """Does something, from another thread, as soon as something holds."""

    def wait() -> None:
        deadline = time.monotonic() + 60
        while not when():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        what()

    threading.Thread(target=wait, daemon=True).start()


def is_draining(progress: Listening) -> bool:
    return any("draining" in str(told[0]) for told in progress.told)


def run_stage(run: Run, folder: Path, grace_s: float, progress: Listening) -> None:
    run_shards(
        "render",
        LocalExecutor(2, grace_s=grace_s),
        _without_attempt,
        {"folder": str(folder)},
        shards=range(N_SHARDS),
        sizes=dict.fromkeys(range(N_SHARDS), 1),
        done=frozenset(),
        resources=TaskResources(),
        progress=progress,
        run=run,
    )


def _without_attempt(attempt: str, **arguments: Any) -> dict[str, Any]:
    return faults.write_pid_and_wait(**arguments)


def pids(folder: Path) -> list[int]:
    return [int(path.read_text()) for path in folder.glob("*.pid")]


@pytest.mark.parametrize(
    ("number", "error", "name"),
    [(signal.SIGTERM, StoppedError, "SIGTERM"), (signal.SIGINT, KeyboardInterrupt, "Ctrl-C")],
)
def test_what_runs_may_end(
    tmp_path: Path, number: signal.Signals, error: type[BaseException], name: str
) -> None:
    store, progress = Store(tmp_path / "d"), Listening()
    send(number, lambda: len(pids(tmp_path)) == 2)
    once(lambda: is_draining(progress), (tmp_path / "go").touch)
    with pytest.raises(error), record_run(store, "render", {}) as run:
        run_stage(run, tmp_path, 60.0, progress)
    assert len(pids(tmp_path)) == 2, "nothing was begun after the signal"
    said = [told[0] for told in progress.told if isinstance(told[0], str)]
    assert f"render: draining, 2 shards running, up to 60 s; {name} again to stop now" in said
    assert said[-1] == "render: drained: 2 shards that were running ended, 0 abandoned"
    found = [event["event"] for event in read_events(store, "render", run.run_id)]
    assert found == ["drain", "shard_done", "shard_done", "drained", "error"]
    assert run.summary["done"] == 2


def test_what_takes_longer_is_abandoned(tmp_path: Path) -> None:
    store, progress = Store(tmp_path / "d"), Listening()
    send(signal.SIGTERM, lambda: len(pids(tmp_path)) == 2)
    with pytest.raises(StoppedError), record_run(store, "render", {}) as run:
        run_stage(run, tmp_path, 0.5, progress)
    assert not any(map(faults.is_alive, pids(tmp_path)))
    assert progress.told[-1] == ("render: drained: 0 shards that were running ended, 2 abandoned (0-1)",)
    events = list(read_events(store, "render", run.run_id))
    assert events[0]["signal"] == "SIGTERM"
    assert events[-2]["abandoned"] == [0, 1]


def test_a_second_signal_stops_now(tmp_path: Path) -> None:
    progress = Listening()
    send(signal.SIGINT, lambda: len(pids(tmp_path)) == 2)
    send(signal.SIGTERM, lambda: is_draining(progress))
    began = time.monotonic()
    with pytest.raises(StoppedError), record_run(Store(tmp_path / "d"), "render", {}) as run:
        run_stage(run, tmp_path, 600.0, progress)
    assert time.monotonic() - began < 60
    assert not any(map(faults.is_alive, pids(tmp_path)))


def test_without_a_grace_period_the_first_one_stops() -> None:
    with pytest.raises(StoppedError), Drain(0.0):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)


def test_signals_without_a_handler_of_pythons_are_left_alone() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with Drain(1.0) as drain:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        assert not drain.asked
    signal.signal(signal.SIGTERM, before)


def test_the_status_says_so_at_once(tmp_path: Path) -> None:
    write_small_dataset(tmp_path)
    store = Store(tmp_path)
    with record_run(store, "render", {}) as run:
        run.watched(Listening()).start("render", 12, "objects")
        run.live.started(3, 1)
        run.live.draining(20.0)
        run.beat_soon()
        deadline = time.monotonic() + 4  # the next beat of its own would come after 5 s
        while not (doing := activity(live_runs(store))["render"])["draining"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert 15 < doing["drain_s"] <= 20
        assert "render: draining: asked to stop, what runs may end within" in status_text(
            dataset_status(store)
        )
