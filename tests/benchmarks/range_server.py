"""A small S3 server for benchmarks: objects in memory, ranges without copies, answers after a latency.

moto copies a whole shard for every range, one request at a time; clients that it serves cannot be compared.
This one knows what the benchmark needs (PUT, also with If-None-Match, GET with ranges, HEAD, ListObjectsV2)
and counts requests. A process of its own; prints one JSON line with its `url`:

    python -m tests.benchmarks.range_server

GET `/-/counts` returns the requests so far; POST `/-/latency?ms=20` sets what every request waits.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import Counter
from xml.sax.saxutils import escape

from aiohttp import web

from tests.chaos.running import end_with_stdin

MAX_BODY_BYTES = 1 << 31
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class RangeServer:
    """The objects of all buckets, and how requests are answered."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._counts: Counter[str] = Counter()
        self._latency_s = 0.0

    def application(self) -> web.Application:
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.router.add_get("/-/counts", self._tell)
        application.router.add_post("/-/latency", self._set_latency)
        application.router.add_route("*", "/{path:.*}", self._handle)
        return application

    async def _tell(self, _: web.Request) -> web.Response:
        return web.json_response(dict(self._counts))

    async def _set_latency(self, request: web.Request) -> web.Response:
        self._latency_s = float(request.query["ms"]) / 1000
        return web.Response()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self._counts[request.method] += 1
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        path = request.path.strip("/")
        if request.method == "PUT":
            return self._put(request, path, body)
        if request.method == "GET" and ("list-type" in request.query or "/" not in path):
            return self._list(path, request.query.get("prefix", ""), request.query.get("delimiter", ""))
        if path not in self._objects:
            return _error(404, "NoSuchKey")
        return await self._get(request, self._objects[path])

    def _put(self, request: web.Request, path: str, body: bytes) -> web.Response:
        if request.headers.get("Content-Encoding", "").startswith("aws-chunked"):
            return _error(501, "NotImplemented")
        if "If-None-Match" in request.headers and path in self._objects:
            return _error(412, "PreconditionFailed")
        self._objects[path] = body
        return web.Response(headers={"ETag": _etag(body)})

    async def _get(self, request: web.Request, data: bytes) -> web.StreamResponse:
        first, last, status = 0, len(data) - 1, 200
        if found := _RANGE.fullmatch(request.headers.get("Range", "")):
            status = 206
            if found[1]:
                first, last = int(found[1]), min(last, int(found[2] or last))
            else:
                first = max(0, len(data) - int(found[2]))
            if first > last:
                return _error(416, "InvalidRange")
        headers = {
            "Content-Length": str(last + 1 - first),
            "Content-Range": f"bytes {first}-{last}/{len(data)}",
            "ETag": _etag(data),
            "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
        }
        answer = web.StreamResponse(status=status, headers=headers)
        await answer.prepare(request)
        if request.method == "GET":
            await answer.write(memoryview(data)[first : last + 1])
        await answer.write_eof()
        return answer

    def _list(self, bucket: str, prefix: str, delimiter: str) -> web.Response:
        start = f"{bucket}/{prefix}"
        keys, folders = [], set()
        for path in sorted(path for path in self._objects if path.startswith(start)):
            rest = path[len(start) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                keys.append(
                    f"<Contents><Key>{escape(path[len(bucket) + 1 :])}</Key>"
                    f"<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                    f"<ETag>{escape(_etag(b''))}</ETag><Size>{len(self._objects[path])}</Size></Contents>"
                )
        shared = [f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders]
        body = f"<IsTruncated>false</IsTruncated><KeyCount>{len(keys) + len(shared)}</KeyCount>"
        text = f"<ListBucketResult>{body}{''.join(keys + shared)}</ListBucketResult>"
        return web.Response(text=text, content_type="application/xml")


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data[:64] + str(len(data)).encode()).hexdigest()}"'


def _error(status: int, code: str) -> web.Response:
    text = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")


async def _serve() -> None:
    runner = web.AppRunner(RangeServer().application(), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=512).start()
    host, port = runner.addresses[0][:2]
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    end_with_stdin(loop, ended)
    print(json.dumps({"url": f"http://{host}:{port}"}), flush=True)  # noqa: T201
    await ended.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_serve())
