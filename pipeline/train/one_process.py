"""Runs train-shared in one process of the local executor, which tells its progress through a pipe."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from pipeline.progress import Progress
from pipeline.train.job import train_rank

POLL_S = 0.5
"""Seconds between two messages."""


def train_in_process(connection: Connection, **arguments: Any) -> dict[str, Any]:
    """Runs train_rank with these arguments; the steps that are done go to the connection."""
    told = 0.0

    def on_step(step: int, figures: dict[str, Any]) -> None:
        nonlocal told
        if time.monotonic() - told >= POLL_S:
            told = time.monotonic()
            connection.send((step, figures))

    summary = train_rank(**arguments, on_step=on_step)
    connection.send((summary["steps"], {}))
    return summary


@contextlib.contextmanager
def told_by_process(progress: Progress, total_steps: int) -> Iterator[Connection]:
    """Yields the connection for `train_in_process`, and moves the progress along while the block runs."""
    receiver, sender = get_context("spawn").Pipe(duplex=False)
    progress.start("train-shared", total_steps, "steps")

    def listen() -> None:
        seen = 0
        with contextlib.suppress(EOFError):
            while True:
                step, figures = receiver.recv()
                if step > seen:  # the steps before the first message may be those of a checkpoint
                    progress.advance(step - seen, 0 if not seen else None, **figures)
                    seen = step

    listener = threading.Thread(target=listen, daemon=True, name="fpipe-train-listen")
    listener.start()
    try:
        yield sender
    finally:
        sender.close()
        listener.join(timeout=5.0)
        receiver.close()
        progress.finish()
