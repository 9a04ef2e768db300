"""A proxy in front of an S3 server: injects faults, counts them, and logs which writes were accepted.

A process of its own:

    python -m tests.chaos.proxy --upstream http://127.0.0.1:9000 --faults lost_put=0.05,truncate=0.02 \
        --latency-ms 20 --port 9001

It prints one JSON line with its `url`. GET `<url>/-/counts` returns what it did so far, POST `<url>/-/faults`
replaces some of the fields of `Faults`. Without `--faults` it passes everything through. Requests and
answers are held whole in memory. The Host header is passed on unchanged, so signatures stay valid.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import struct
from collections import Counter
from typing import Any

import aiohttp
import yarl
from aiohttp import web

from tests.chaos import faults as kinds
from tests.chaos.faults import Dice, Faults, parse_rates
from tests.chaos.running import CONTROL, end_with_stdin

MAX_BODY_BYTES = 1 << 31
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "transfer-encoding",
    "expect",
    "te",
    "trailer",
    "upgrade",
    "content-length",
}
_ERRORS = {kinds.ERROR_500: (500, "InternalError"), kinds.SLOW_DOWN: (503, "SlowDown")}
_LINGER = struct.pack("ii", 1, 0)  # closing now sends RST


class FaultProxy:
    """Forwards requests to one server, through the dice.

    Args:
        upstream: URL of the server.
        faults: What to inject.

    Attributes:
        counts: "requests", "failed_upstream", "client_gone", and each kind of fault -> how often.
        methods: Method -> requests.
        writes: Path -> "create" (If-None-Match), "swap" (If-Match) or "plain" -> PUTs that were accepted.
    """

    def __init__(self, upstream: str, faults: Faults) -> None:
        self._upstream = upstream.rstrip("/")
        self._dice = Dice(faults)
        self._client: aiohttp.ClientSession | None = None
        self.counts: Counter[str] = Counter()
        self.methods: Counter[str] = Counter()
        self.writes: dict[str, Counter[str]] = {}

    def application(self) -> web.Application:
        """Return the server side."""
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.router.add_get(f"{CONTROL}counts", self._tell)
        application.router.add_post(f"{CONTROL}faults", self._change)
        application.router.add_route("*", "/{path:.*}", self._handle)
        application.cleanup_ctx.append(self._with_client)
        return application

    async def _with_client(self, _: web.Application) -> Any:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False
        ) as client:
            self._client = client
            yield

    async def _tell(self, _: web.Request) -> web.Response:
        writes = {path: dict(how) for path, how in self.writes.items()}
        return web.json_response(
            {"counts": dict(self.counts), "methods": dict(self.methods), "writes": writes}
        )

    async def _change(self, request: web.Request) -> web.Response:
        try:
            faults = Faults.from_json({**self._dice.faults.as_json(), **await request.json()})
        except (ValueError, TypeError) as error:
            return web.Response(status=400, text=str(error))
        self._dice = Dice(faults)
        return web.json_response(faults.as_json())

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._pass(request)
        except ConnectionError:
            self.counts["client_gone"] += 1  # killed, or it has given up
            return web.Response(status=500)

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        kind = self._dice.draw(request.method, request.raw_path, _key(request))
        faults = self._dice.faults
        self.counts["requests"] += 1
        self.methods[request.method] += 1
        body = await request.read()
        if faults.latency_ms:
            await asyncio.sleep(faults.latency_ms / 1000)
        if kind in _ERRORS:
            self.counts[kind] += 1
            return _error(request, *_ERRORS[kind])
        if kind == kinds.RESET_BEFORE:
            return self._reset(request, kind)
        if kind in (kinds.STALL, kinds.LATE):
            await asyncio.sleep(faults.stall_s)
        if kind == kinds.STALL:
            return self._reset(request, kind)
        return await self._answer(request, kind, *await self._forward(request, body))

    async def _answer(
        self, request: web.Request, kind: str | None, status: int, headers: dict[str, str], body: bytes
    ) -> web.StreamResponse:
        accepted = 200 <= status < 300
        if request.method == "PUT" and accepted:
            self.writes.setdefault(request.path, Counter())[_how(request)] += 1
        if kind in (kinds.RESET_AFTER, kinds.LATE) or (kind == kinds.LOST_PUT and accepted):
            return self._reset(request, kind)
        answer = web.StreamResponse(status=status, headers=headers)
        is_cut = kind == kinds.TRUNCATE and len(body) > 1
        if is_cut:
            self.counts[kinds.TRUNCATE] += 1
            answer.force_close()
        await answer.prepare(request)
        if is_cut:
            await answer.write(body[: len(body) // 2])
            if request.transport is not None:
                request.transport.close()
            return answer
        if body:
            await answer.write(body)
        await answer.write_eof()
        return answer

    async def _forward(self, request: web.Request, body: bytes) -> tuple[int, dict[str, str], bytes]:
        assert self._client is not None
        headers = [(name, value) for name, value in request.headers.items() if not _is_hop(name)]
        url = yarl.URL(self._upstream + request.raw_path, encoded=True)
        skipped = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
        data = body if body or request.method in ("PUT", "POST") else None
        try:
            async with self._client.request(
                request.method,
                url,
                data=data,
                headers=headers,
                skip_auto_headers=skipped,
                allow_redirects=False,
            ) as answer:
                content = await answer.read()
                passed = {name: value for name, value in answer.headers.items() if not _is_hop(name)}
                length = answer.headers.get("Content-Length") if request.method == "HEAD" else None
                if answer.status not in (204, 304):
                    passed["Content-Length"] = length or str(len(content))
                return answer.status, passed, content
        except aiohttp.ClientError as error:
            self.counts["failed_upstream"] += 1
            return 502, {"Content-Length": "0", "X-Proxy-Error": type(error).__name__}, b""

    def _reset(self, request: web.Request, kind: str) -> web.StreamResponse:
        self.counts[kind] += 1
        transport = request.transport
        if transport is not None:  # None: the client has gone already
            connection = transport.get_extra_info("socket")
            if connection is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            transport.abort()
        return web.Response(status=500)  # goes nowhere


def _is_hop(name: str) -> bool:
    return name.lower() in _HOP_BY_HOP


def _how(request: web.Request) -> str:
    if "If-None-Match" in request.headers:
        return "create"
    return "swap" if "If-Match" in request.headers else "plain"


def _key(request: web.Request) -> str:
    key = request.path.lstrip("/").partition("/")[2]
    return key or request.query.get("prefix", "")


def _error(request: web.Request, status: int, code: str) -> web.Response:
    text = (
        f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>injected</Message></Error>"
    )
    return web.Response(status=status, text=text, content_type="application/xml")


async def _serve(arguments: argparse.Namespace) -> None:
    rates = parse_rates(arguments.faults)
    own = {name: getattr(arguments, name) for name in ("latency_ms", "stall_s", "seed")}
    lists = {"methods": tuple(arguments.methods), "prefixes": tuple(arguments.prefixes)}
    faults = Faults.from_json(json.loads(arguments.json)) if arguments.json else Faults(rates, **own, **lists)
    runner = web.AppRunner(
        FaultProxy(arguments.upstream, faults).application(), access_log=None, shutdown_timeout=0.5
    )
    await runner.setup()
    site = web.TCPSite(runner, arguments.host, arguments.port, backlog=512)
    await site.start()
    host, port = runner.addresses[0][:2]
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    if arguments.until_stdin_ends:
        end_with_stdin(loop, ended)
    print(json.dumps({"url": f"http://{host}:{port}", "faults": faults.as_json()}), flush=True)  # noqa: T201
    await ended.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.proxy", description=__doc__)
    parser.add_argument("--upstream", required=True, help="URL of the S3 server")
    parser.add_argument(
        "--faults", default="", help=f"kind=rate,…; or all=rate; kinds: {', '.join(kinds.KINDS)}"
    )
    parser.add_argument("--latency-ms", type=float, default=0.0, help="added to every request")
    parser.add_argument(
        "--stall-s", type=float, default=5.0, help="how long stalled and late requests are held"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="*", default=[], help="only these are hit")
    parser.add_argument("--prefixes", nargs="*", default=[], help="only keys that begin so are hit")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--json", default="", help="all fields of Faults, instead of the options above")
    parser.add_argument("--until-stdin-ends", action="store_true", help="end when standard input does")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
