"""Servers of the chaos test as context managers: processes that end with the block or with their parent."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.chaos.faults import Faults

CONTROL = "/-/"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "NO_PROXY": "127.0.0.1",
}


@dataclass(frozen=True)
class RunningProxy:
    """A proxy process.

    Attributes:
        url: What clients use as the endpoint.
    """

    url: str

    def told(self) -> dict[str, Any]:
        """Return "counts", "methods" and "writes", as `FaultProxy` has them."""
        with urllib.request.urlopen(f"{self.url}{CONTROL}counts", timeout=30) as answer:
            return dict(json.load(answer))

    def counts(self) -> dict[str, int]:
        """Return how often each fault was injected, and the number of requests."""
        return dict(self.told()["counts"])

    def change(self, **fields: Any) -> None:
        """Replace some fields of `Faults`; the draws begin anew."""
        data = json.dumps(fields).encode()
        request = urllib.request.Request(f"{self.url}{CONTROL}faults", data=data, method="POST")
        with urllib.request.urlopen(request, timeout=30):
            pass


@contextmanager
def running_proxy(upstream: str, faults: Faults | None = None) -> Iterator[RunningProxy]:
    """Run a proxy in a process of its own as long as the block lasts; it also ends when this process does."""
    command = [sys.executable, "-m", "tests.chaos.proxy", "--upstream", upstream, "--until-stdin-ends"]
    with running_server([*command, "--json", json.dumps((faults or Faults()).as_json())]) as url:
        yield RunningProxy(url)


def end_with_stdin(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    """In a server that `running_server` runs: set the event when standard input ends, from a thread."""

    def wait() -> None:
        while os.read(0, 1 << 16):  # not sys.stdin: a thread inside it breaks the interpreter's exit
            pass
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def running_server(command: list[str]) -> Iterator[str]:
    """Run a server that prints {"url": …} and ends with its standard input; yields the URL."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{command[2]} ended at once with code {process.wait()}")
        yield str(json.loads(line)["url"])
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextmanager
def running_moto() -> Iterator[str]:
    """Run a server as long as the block lasts; yields its URL. What it holds is gone afterwards."""
    with running_server([sys.executable, "-m", "tests.chaos.server"]) as url:
        yield url
