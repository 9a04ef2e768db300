"""Faults that strike from outside of a task: signals to a driver, a node that goes, a store that is away."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import s3fs

from storage.planes import PlanesStore
from storage.store import Store
from tests.chaos.faults import RESET_BEFORE
from tests.chaos.running import RunningProxy, running_proxy
from tests.conformance.jobs import DRAINED, Job
from tests.s3_server import S3Server

DONE_BEFORE = 2
"""Shards that are done when something strikes."""


@dataclass(frozen=True)
class DriverStrike:
    """A signal to the first driver.

    Attributes:
        number: The signal.
        code: With which the driver must end.
        to_group: Whether all processes of its group get it, as after Ctrl-C in a terminal.
        grace_s: `compute.grace_s`, None for the default.
        work_s: How long a shard takes.
        delay_s: From the second shard's end to the signal, so that others are in the middle of their work.
        is_node: Whether it stands for the loss of the driver's node: who watches over the job starts it anew.
    """

    number: signal.Signals
    code: int
    to_group: bool = False
    grace_s: float | None = None
    work_s: float = 0.3
    delay_s: float = 0.0
    is_node: bool = False


DRIVER_STRIKES = {
    "driver killed": DriverStrike(signal.SIGKILL, -9),
    "driver killed with its process group": DriverStrike(signal.SIGKILL, -9, to_group=True),
    "SIGTERM to the driver": DriverStrike(signal.SIGTERM, DRAINED),
    "SIGTERM, too little grace": DriverStrike(signal.SIGTERM, DRAINED, grace_s=0.2, work_s=4.0, delay_s=2.0),
    "Ctrl-C": DriverStrike(signal.SIGINT, 130, to_group=True),
}
LOST_MEMBER = DriverStrike(signal.SIGKILL, -9, to_group=True, is_node=True)
OUTAGES_S = {"store away for 2 s": 2.0, "store away for 20 s": 20.0}


@dataclass
class Struck:
    """When a strike fell, and when the driver that it hit had ended (seconds since the epoch)."""

    at: float = 0.0
    over: float = 0.0


@contextlib.contextmanager
def struck_driver(job: Job, strike: DriverStrike) -> Iterator[Struck]:
    """Sends the signal to the first driver when it has done some shards and has others under way."""
    struck = Struck()

    def hit() -> None:
        wait_until(lambda: bool(job.processes) and len(done(job.root)) >= DONE_BEFORE, None)
        driver = job.processes[0]
        time.sleep(strike.delay_s)
        if strike.is_node:
            job.lost.append(driver)
        struck.at = time.time()
        if strike.to_group:
            os.killpg(driver.pid, strike.number)
        else:
            driver.send_signal(strike.number)
        driver.wait(120)
        struck.over = time.time()

    with _beside(hit):
        yield struck


@contextlib.contextmanager
def store_on_s3(dataset: Path) -> Iterator[tuple[str, RunningProxy]]:
    """Yields the URL of a copy of a dataset on a server, and the proxy through which drivers reach it.

    This process itself goes to the server directly.
    """
    with S3Server() as server, running_proxy(server.url) as proxy:
        bucket = f"b-{uuid.uuid4().hex}"
        server.make_bucket(bucket)
        before = dict(os.environ)
        os.environ.update(server.environment())
        s3fs.S3FileSystem.clear_instance_cache()  # its connections are those to an earlier cell's server
        try:
            store = Store(f"s3://{bucket}/d")
            for path in sorted(path for path in dataset.rglob("*") if path.is_file()):
                store.replace(path.relative_to(dataset).as_posix(), path.read_bytes())
            yield store.url, proxy
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextlib.contextmanager
def outage(job: Job, proxy: RunningProxy, seconds: float) -> Iterator[None]:
    """Resets every connection for some time, from the first request after some shards are done."""

    def cut() -> None:
        wait_until(lambda: len(done(job.root)) >= DONE_BEFORE, None)
        proxy.change(rates={RESET_BEFORE: 1.0})
        wait_until(lambda: proxy.counts().get(RESET_BEFORE, 0) > 0, None)
        time.sleep(seconds)
        proxy.change(rates={})

    with _beside(cut):
        yield


@contextlib.contextmanager
def _beside(what: Callable[[], None]) -> Iterator[None]:
    """Does something in a thread beside the block, and waits for its end."""
    thread = threading.Thread(target=what, daemon=True)
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive()


def done(root: Path | str) -> frozenset[int]:
    """Shards that are done, none where the fit is being made at this moment."""
    try:
        return PlanesStore.open(Store(root), "made").done()
    except Exception:  # noqa: BLE001 half of it is there
        return frozenset()


def wait_until(what: Callable[[], bool], process: subprocess.Popen[str] | None) -> None:
    """Returns when something holds; the process must not end before."""
    deadline = time.monotonic() + 120
    while not what():
        assert process is None or process.poll() is None, "it ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.02)
