"""GET requests with nothing around them: what a server and a connection can do. No signatures, no retries."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from typing import Any

import aiohttp


class RawGet:
    """Reads ranges of the files below one s3:// folder at the same time, in a thread of its own."""

    def __init__(self, root: str, connections: int) -> None:
        self._base = f"{os.environ['AWS_ENDPOINT_URL']}/{root.partition('://')[2]}"
        self._connections = connections
        self._session: Any = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def read(self, spans: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Return the bytes [start, end) of each (name, start, end)."""
        return asyncio.run_coroutine_threadsafe(self._read(spans), self._loop).result()

    async def _read(self, spans: Sequence[tuple[str, int, int]]) -> list[bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=self._connections))
        return await asyncio.gather(*(self._one(*span) for span in spans))

    async def _one(self, name: str, start: int, end: int) -> bytes:
        headers = {"Range": f"bytes={start}-{end - 1}"}
        async with self._session.get(f"{self._base}/{name}", headers=headers) as answer:
            return bytes(await answer.read())
