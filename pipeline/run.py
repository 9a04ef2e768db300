"""Records what a run of a stage did, below runs/<stage>/<run>/ in the dataset.

run.json holds the resolved config, versions, hardware, git revision and a summary; live.json what the run is
doing (rewritten at every beat, also after its end); events-0000.jsonl, events-0001.jsonl, … one line per
event. Credentials never reach any of them: only named facts are written, never an environment, and texts go
through storage.redaction.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.live import LiveState, WatchedProgress
from pipeline.progress import Progress
from pipeline.provenance import git_revision, hardware, versions
from storage.errors import FpipeError
from storage.layout import run_folder
from storage.local_files import process_tag
from storage.redaction import redacted
from storage.store import Store

LOGGER = logging.getLogger(__name__)

BEAT_S = 5.0
REMOTE_BEAT_S = 30.0
"""Seconds between two writes of what happens; an object store takes money for each."""
STOP_S = 10.0
"""Seconds that a run which is stopped takes at most to record its end."""
SEGMENT_BYTES = 256 * 1024
"""An event log is cut into files of about this size: object stores cannot append, so the last is written
whole at every beat."""
RUN_STAMP = "%Y%m%dT%H%M%S"
"""The time (UTC) at which a run begins, as its id begins with it."""
RUN, LIVE, EVENTS = "run.json", "live.json", "events"


class Run:
    """One run of a stage; made by record_run.

    Attributes:
        summary: Of what was done, for run.json.
        live: What it is doing.
    """

    def __init__(self, store: Store, stage: str, config: dict[str, Any]) -> None:
        now = datetime.datetime.now(datetime.UTC)
        self.run_id = f"{now:{RUN_STAMP}}-{secrets.token_hex(3)}"
        self.stage = stage
        self.summary: dict[str, Any] = {}
        self.live = LiveState()
        self.about: dict[str, Any] = {}
        self.beat_s = BEAT_S if store.local_path() is not None else REMOTE_BEAT_S
        self._store = store
        self._config = config
        self._started = now
        self._clock = time.monotonic()
        self._lock = threading.Lock()
        self._segment = 0
        self._events: list[str] = []
        self._written = 0  # events of this segment that are in the store
        self._wake = threading.Event()

    def watched(self, progress: Progress) -> Progress:
        """Returns a progress that the run's live state listens to."""
        return WatchedProgress(progress, self.live)

    def beat_soon(self) -> None:
        """Lets the next beat come at once; returns before it does."""
        self._wake.set()

    def await_beat(self) -> None:
        """Returns when it is time for a beat."""
        self._wake.wait(self.beat_s)
        self._wake.clear()

    def event(self, kind: str, /, **fields: Any) -> None:
        """Appends one event; its `at_s` are seconds since the start of the run."""
        at_s = round(time.monotonic() - self._clock, 3)
        with self._lock:
            self._events.append(json.dumps({"at_s": at_s, "event": kind, **redacted(fields)}))

    def write(self, state: str) -> None:
        """Writes everything, run.json with this state: "running", "done", "failed" or "stopped"."""
        ended = None if state == "running" else _iso_now()
        record = {
            "version": 1,
            "stage": self.stage,
            "run_id": self.run_id,
            "state": state,
            "started": self._started.isoformat(timespec="seconds"),
            "ended": ended,
            "seconds": round(time.monotonic() - self._clock, 3),
            "config": self._config,
            "versions": versions(),
            "hardware": hardware(),
            "git_revision": git_revision(),
            **self.about,
            "summary": self.summary,
        }
        self._store.replace(self._key(RUN), json.dumps(redacted(record), indent=1).encode())
        self.beat(state)

    def beat(self, state: str = "running") -> None:
        """Writes live.json and the events since the last beat."""
        live = {
            "version": 1,
            "stage": self.stage,
            "run_id": self.run_id,
            "state": state,
            "host": platform.node(),
            "pid": os.getpid(),
            "process": process_tag(),
            "started": self._started.isoformat(timespec="seconds"),
            "at": _iso_now(),
            "beat_s": self.beat_s,
            **self.about,
            **self.live.as_json(),
        }
        self._store.replace(self._key(LIVE), json.dumps(redacted(live)).encode())
        self._flush_events()

    def _key(self, name: str) -> str:
        return f"{run_folder(self.stage, self.run_id)}/{name}"

    def _flush_events(self) -> None:
        with self._lock:
            if len(self._events) == self._written:
                return
            lines = list(self._events)
        data = ("\n".join(lines) + "\n").encode()
        self._store.replace(self._key(f"{EVENTS}-{self._segment:04d}.jsonl"), data)
        with self._lock:
            self._written = len(lines)
            if len(data) >= SEGMENT_BYTES:
                self._segment, self._written = self._segment + 1, 0
                del self._events[: len(lines)]


@contextlib.contextmanager
def record_run(store: Store, stage: str, config: dict[str, Any], **about: Any) -> Iterator[Run]:
    """Yields a Run whose record is written at the start, at every beat, and at the end.

    Args:
        store: The dataset.
        stage: The stage.
        config: Resolved configuration.
        **about: Further facts for run.json and live.json, such as the name of the fit.
    """
    run = Run(store, stage, config)
    run.about = about
    run.write("running")
    over = threading.Event()
    heart = threading.Thread(target=_beat, args=(run, over), daemon=True, name="fpipe-run-beat")
    heart.start()

    def end(state: str) -> None:
        over.set()
        run.beat_soon()
        heart.join()
        run.write(state)

    def end_soon(state: str) -> None:
        """Whoever stopped the run does not wait until a store answers again."""
        last = threading.Thread(target=_quietly, args=(end, state), daemon=True, name="fpipe-run-end")
        last.start()
        last.join(STOP_S)

    try:
        yield run
    except BaseException as error:
        stop = _stop_within(error)
        run.event("error", error=f"{type(stop or error).__name__}: {stop or error}")
        if stop is None:
            _quietly(end, "failed")
        else:
            end_soon("stopped")
        raise
    end("done")


def _stop_within(error: BaseException) -> BaseException | None:
    """Returns what asked the run to stop (a signal's exception), None where it failed.

    A signal that arrives in compiled code (ray.wait) leaves its exception as the cause of a SystemError.
    """
    found: BaseException | None = error
    if isinstance(error, SystemError):
        while found is not None and isinstance(found, Exception):
            found = found.__cause__ or found.__context__
    return None if isinstance(found, Exception) else found


def _quietly(end: Callable[[str], None], state: str) -> None:
    """Ends a record as far as the store lets it: the error of the run itself is the one to tell."""
    with contextlib.suppress(FpipeError, OSError):
        end(state)


def _beat(run: Run, over: threading.Event) -> None:
    """Beats until the run is over; a store that does not take a beat gets the next one."""
    told = False
    while True:
        run.await_beat()
        if over.is_set():
            return
        try:
            run.beat()
            told = False
        except (FpipeError, OSError) as error:
            if not told:
                LOGGER.warning("%s: what happens cannot be recorded at the moment: %s", run.stage, error)
            told = True


def read_events(store: Store, stage: str, run_id: str) -> Iterator[dict[str, Any]]:
    """Yields the events of a run in their order; lines that are no JSON objects are passed over."""
    folder = run_folder(stage, run_id)
    for name in store.list(folder):
        if not name.startswith(EVENTS):
            continue
        for line in store.read(f"{folder}/{name}").decode(errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                LOGGER.warning("%s/%s: a line is no JSON and is left out", folder, name)
                continue
            if isinstance(event, dict):
                yield event


def _iso_now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
