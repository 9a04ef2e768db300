"""A real S3 server on this machine (moto), and a shim in front of it that misbehaves on purpose.

with S3Server() as server:
    os.environ.update(server.environment())
    with Shim(server.url, strip_conditions) as shim:
        os.environ.update(server.environment(shim.url))
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class S3Server:
    """The chaos tests' moto server (its conditional writes are atomic) in a process; a context manager.

    Attributes:
        url: Its endpoint, once it is entered.
    """

    url = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        self.url = json.loads(self._process.stdout.readline())["url"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()  # closes its stdin, which ends it

    def make_bucket(self, name: str) -> None:
        """Makes an empty bucket; moto asks for no signature."""
        answer = _forward(urlsplit(self.url).netloc, Request("PUT", f"/{name}", {}, b""))
        assert answer.status == 200, answer

    def environment(self, url: str = "") -> dict[str, str]:
        """Variables that lead every AWS program to the server, or to what stands in front of it."""
        return {
            "AWS_ENDPOINT_URL": url or self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
        }


@dataclass
class Request:
    """What a client sent; a rule may change it before it is passed on."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What a shim says in the server's place."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


Rule = Callable[[Request], Answer | None]


class Shim:
    """An HTTP server that passes requests on, unless its rule answers them itself; a context manager.

    Args:
        upstream: Endpoint of the real server.
        rule: Sees every request first.

    Attributes:
        url: Where clients come to.
        requests: Method and path of all requests so far.
    """

    def __init__(self, upstream: str, rule: Rule = lambda request: None) -> None:
        self.requests: list[tuple[str, str]] = []
        self.rule = rule
        shim, place = self, urlsplit(upstream).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = Request(self.command, self.path, dict(self.headers), body)
                shim.requests.append((request.method, request.path))
                answer = shim.rule(request) or _forward(place, request)
                self.send_response_only(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if not any(name.lower() == "content-length" for name in answer.headers):
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if request.method != "HEAD":
                    with contextlib.suppress(ConnectionError):  # a client that lost patience
                        self.wfile.write(answer.body)
                    said = int(dict(answer.headers).get("Content-Length", len(answer.body)))
                    self.close_connection = said != len(answer.body)

            def __getattr__(self, name: str) -> Callable[[], None]:
                if name.startswith("do_"):  # every method
                    return self.pass_on
                raise AttributeError(name)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _forward(place: str, request: Request) -> Answer:
    connection = http.client.HTTPConnection(place, timeout=60)
    try:
        connection.request(request.method, request.path, request.body, request.headers)
        found = connection.getresponse()
        body = found.read()
    finally:
        connection.close()
    skipped = {"connection", "transfer-encoding", "keep-alive"}
    headers = {name: value for name, value in found.getheaders() if name.lower() not in skipped}
    if request.method != "HEAD":
        headers = {name: value for name, value in headers.items() if name.lower() != "content-length"}
    return Answer(found.status, headers, body)


def forwarded(upstream: str, request: Request) -> Answer:
    """The real server's answer, for rules that change it."""
    return _forward(urlsplit(upstream).netloc, request)


def without_headers(*names: str) -> Rule:
    """A rule that takes headers away, as servers do that do not know them."""

    def rule(request: Request) -> None:
        request.headers = {
            name: value for name, value in request.headers.items() if name.lower() not in names
        }

    return rule


def refusal(status: int, code: str, words: str = "", **headers: str) -> Answer:
    """An answer of S3 with an error code."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{words or code}</Message></Error>"
    return Answer(status, {"Content-Type": "application/xml", **headers}, body.encode())
