"""The same objects in our store and in what people use instead: one JSON line per way and place.

Run: make bench-store, or python -m tests.benchmarks.bench_store [--objects 400] [--size 10x64] [--moto]
      [--places local s3-0ms s3-20ms] [--out FOLDER]

Places: a local folder (warm page cache), and an S3 server on this machine with 0 and 20 ms added to every
request (`range_server`; `--moto`: moto behind the chaos tests' proxy, whose own CPU time then dominates).
An object is its micro planes and coefficients; every way reads both.

- `random`: single objects at random positions, milliseconds. `random_micro`: the micro planes alone.
- `batch`: 32 random objects at once; `epoch`: all objects, in blocks of 32 in random order (tar: in order);
  objects per second of the quickest of several, in rounds in which every way has its turn.
- `requests`: to the server, per object. Warm: every way has read every shard before.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import s3fs

from tests.benchmarks.bars import Panel, save_bars
from tests.benchmarks.store_backends import WAYS
from tests.benchmarks.store_data import Data
from tests.chaos.running import CREDENTIALS, running_moto, running_proxy, running_server

BATCH, BATCHES = 32, 4  # objects of a batch, batches of a round
BUCKET = "bench-store"
ROUNDS = {"local": (15, 40), "s3": (8, 8)}  # rounds, single reads of each


@dataclass(frozen=True)
class Place:
    """Where a way is measured.

    Attributes:
        name: Of the place.
        root: Folder or s3:// URL.
        requests: Returns the requests that its server has got.
    """

    name: str
    root: str
    requests: Callable[[], int]


def make_data(n: int, features: int, resolution: int) -> Data:
    """Random micro planes and coefficients: no way can profit from compression, as with real ones in fp16."""
    rng = np.random.default_rng(0)
    micro = rng.normal(size=(n, 3, features, resolution, resolution)).astype(np.float16)
    return Data(micro, rng.normal(size=(n, 50)).astype(np.float32))


@contextmanager
def s3_place(name: str, latency_ms: float, moto: bool) -> Iterator[tuple[Place, Callable[[float], None]]]:
    """Run a server; yields the place and what sets its latency."""
    with _range_server() if not moto else _moto() as (url, requests, set_latency):
        os.environ.update(CREDENTIALS, AWS_ENDPOINT_URL=url)
        s3fs.S3FileSystem.clear_instance_cache()  # connections to the server before
        request = urllib.request.Request(f"{url}/{BUCKET}", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
        yield Place(name, f"s3://{BUCKET}/{name}", requests), lambda: set_latency(latency_ms)


@contextmanager
def _range_server() -> Iterator[tuple[str, Callable[[], int], Callable[[float], None]]]:
    import sys

    with running_server([sys.executable, "-m", "tests.benchmarks.range_server"]) as url:

        def requests() -> int:
            with urllib.request.urlopen(f"{url}/-/counts", timeout=30) as answer:
                return sum(json.load(answer).values())

        def set_latency(ms: float) -> None:
            urllib.request.urlopen(
                urllib.request.Request(f"{url}/-/latency?ms={ms}", method="POST"), timeout=30
            ).close()

        yield url, requests, set_latency


@contextmanager
def _moto() -> Iterator[tuple[str, Callable[[], int], Callable[[float], None]]]:
    with running_moto() as upstream, running_proxy(upstream) as proxy:
        yield proxy.url, lambda: proxy.counts()["requests"], lambda ms: proxy.change(latency_ms=ms)


@contextmanager
def local_place() -> Iterator[tuple[Place, Callable[[], None]]]:
    """A folder on the disk of the working directory."""
    folder = Path(tempfile.mkdtemp(prefix="bench-store-", dir="."))
    try:
        yield Place("local", str(folder.resolve()), lambda: 0), lambda: None
    finally:
        shutil.rmtree(folder)


class Measured:
    """What was measured of one way in one place."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.requests: dict[str, int] = defaultdict(int)
        self.objects: dict[str, int] = defaultdict(int)
        self.write_mb_s = 0.0

    def time(self, place: Place, name: str, n_objects: int, call: Callable[[], Any]) -> Any:
        """Call, and note the time and the requests."""
        before = place.requests()
        start = time.perf_counter()
        result = call()
        self.seconds[name].append(time.perf_counter() - start)
        self.requests[name] += place.requests() - before
        self.objects[name] += n_objects
        return result

    def line(self, way: str, place: Place) -> dict[str, Any]:
        """Return the JSON line."""
        values: dict[str, Any] = {"place": place.name, "way": way, "write_mb_s": round(self.write_mb_s, 1)}
        for name in ("random", "random_micro"):
            if times := self.seconds.get(name):
                values[f"{name}_p50_ms"] = round(1e3 * float(np.percentile(times, 50)), 3)
                values[f"{name}_p99_ms"] = round(1e3 * float(np.percentile(times, 99)), 3)
        for name in ("batch", "epoch"):
            if times := self.seconds.get(name):
                each = self.objects[name] / len(times)
                values[f"{name}_objects_s"] = round(each / min(times), 1)
        if any(self.requests.values()):
            values["requests"] = {
                name: round(self.requests[name] / self.objects[name], 3) for name in self.seconds
            }
        return values


def measure(
    place: Place, set_latency: Callable[[], None], data: Data, names: Sequence[str], rounds: int | None = None
) -> list[Any]:
    """Measure all ways in one place, in turns; returns their lines."""
    ways = {name: WAYS[name](f"{place.root}/{name.split()[0]}", data) for name in names}
    measured = {name: Measured() for name in ways}
    for name, way in ways.items():
        if hasattr(way, "prepare"):
            way.prepare()
        start = time.perf_counter()
        way.write()
        measured[name].write_mb_s = data.n_bytes / 1e6 / (time.perf_counter() - start)
    set_latency()
    for way in ways.values():
        way.open()
        if way.batch is not None:
            every = data.objects_per_shard // 4
            way.batch(list(range(0, len(data), every)))
    rng = np.random.default_rng(1)
    usual, singles = ROUNDS[place.name.partition("-")[0]]
    for _ in range(rounds or usual):
        positions = rng.permutation(len(data)).tolist()
        for name, way in ways.items():
            _round(place, measured[name], way, data, positions, singles)
    return [measured[name].line(name, place) for name in ways]


def _round(
    place: Place, measured: Measured, way: Any, data: Data, positions: list[int], singles: int
) -> None:
    if way.one is not None:
        for position in positions[:singles]:
            micro, own = measured.time(place, "random", 1, lambda p=position: way.one(p))
        assert np.array_equal(micro, data.micro[position])
        assert np.array_equal(own, data.coefficients[position])
    if hasattr(way, "micro"):
        for position in positions[:singles]:
            measured.time(place, "random_micro", 1, lambda p=position: way.micro(p))
    if way.batch is not None:
        for number in range(BATCHES):
            chosen = [positions[(number * BATCH + k) % len(data)] for k in range(BATCH)]
            micro, own = measured.time(place, "batch", BATCH, lambda c=chosen: way.batch(c))
            assert np.array_equal(micro, data.micro[chosen])
            assert np.array_equal(own, data.coefficients[chosen])
    measured.time(place, "epoch", len(data), lambda: _epoch(way, len(data), positions))


def _epoch(way: Any, n: int, positions: list[int]) -> None:
    if way.batch is None:
        assert sum(1 for _ in way.stream()) == n
        return
    for block in (position for position in positions if position < -(-n // BATCH)):
        way.batch(list(range(block * BATCH, min(n, (block + 1) * BATCH))))


def save(folder: Path, data: Data, lines: list[dict[str, Any]]) -> None:
    """Write bench-store.json and bench-store.png."""
    micro, coefficients = list(data.micro.shape[1:]), list(data.coefficients.shape[1:])
    facts = {
        "objects": len(data),
        "object": f"micro planes f16 {micro}, coefficients f32 {coefficients}",
        "object_bytes": data.n_bytes // len(data),
        "objects_per_shard": data.objects_per_shard,
        "cores": os.cpu_count(),
        "lines": lines,
    }
    (folder / "bench-store.json").write_text(json.dumps(facts, indent=1) + "\n")
    titles = {
        "random_p50_ms": "random read, p50, ms (less is better)",
        "batch_objects_s": f"batch of {BATCH}, objects/s",
        "epoch_objects_s": "epoch, objects/s",
    }
    rows = []
    for place in dict.fromkeys(line["place"] for line in lines):
        own = [line for line in lines if line["place"] == place]
        rows.append(
            [
                Panel(f"{place}: {title}", {line["way"]: line[name] for line in own if name in line})
                for name, title in titles.items()
            ]
        )
    save_bars(folder / "bench-store.png", rows, list(dict.fromkeys(line["way"] for line in lines)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_store")
    parser.add_argument("--objects", type=int, default=400)
    parser.add_argument("--size", default="10x64", help="features x resolution of a micro plane")
    parser.add_argument("--places", nargs="*", default=["local", "s3-0ms", "s3-20ms"])
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--rounds", type=int, help="of each place, instead of the usual number")
    parser.add_argument("--moto", action="store_true", help="moto behind a proxy as the server; no ceiling")
    parser.add_argument("--out", type=Path, help="folder for bench-store.json and bench-store.png")
    arguments = parser.parse_args()
    features, resolution = map(int, arguments.size.split("x"))
    data = make_data(arguments.objects, features, resolution)
    if arguments.moto:  # it wants signatures, and the ceiling has none
        arguments.ways = [way for way in arguments.ways if way != "ceiling"]
    lines = []
    for name in arguments.places:
        latency_ms = float(name.partition("-")[2].removesuffix("ms") or 0)
        with (
            local_place() if name == "local" else s3_place(name, latency_ms, arguments.moto) as (place, wait)
        ):
            for line in measure(place, wait, data, arguments.ways, arguments.rounds):
                print(json.dumps(line), flush=True)  # noqa: T201
                lines.append(line)
    if arguments.out:
        save(arguments.out, data, lines)


if __name__ == "__main__":
    main()
