"""What a dataset of ten million objects costs to open, to resume, to look at and to check.

    python -m tests.benchmarks.bench_scale [--shards 10000,100000] [--folder DIR] [--keys 5000]

Makes synthetic stores (see `scale_fixture`) of 100 objects per shard and measures, each in a new process:

    open          open_planes with the summary of the done shards; `open_without`: before there is one
    find          the first dataset["id"], which makes the index of ids, then the mean of 1000 more
    resume        the render stage of a store in which all shards are done
    rest          the same with 100 shards left, done by a stub: no work, no commit
    status        fpipe status
    summary       writing the summaries of all shards of views and fit
    verify        verify --quick of a fit's shards (with sidecars, first size only)

Each line has seconds, those of the CPU (others may use the machine), the peak of resident memory in MiB
(`imports` has that of the imports alone), and the calls to the store by kind, a listing counted as one call
per 1000 names. The last line is of an S3 server on this machine (moto), which is slow: seconds per page of a
listing, per small read alone and per small read of 64 at a time, and those of our own CPU in each.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.compute import ComputeSession
from pipeline.config import PipelineConfig
from pipeline.executor import Task, TaskFunction, TaskOutcome, TaskResources
from pipeline.planned import stored_config
from pipeline.render_stage import render
from pipeline.status import dataset_status
from storage.parallel import in_parallel
from storage.planes import PlanesStore
from storage.reader import open_planes
from storage.store import Store
from storage.summary import update_summary
from storage.verify_shards import check_shards
from storage.views import ViewsStore
from tests.benchmarks.scale_fixture import PER_SHARD, plan_rows, stored_bytes, write_dataset

PAGE = 1000
LEFT = 100


class CountedStore:
    """Counts the calls of all stores of this process.

    Args:
        put: Puts a function in the place of another; setattr, or what undoes it later.
    """

    def __init__(self, put: Callable[[type[Store], str, Any], None] = setattr) -> None:
        self.calls: Counter[str] = Counter()
        self._put = put
        for name in ("read", "read_range", "read_tail", "size", "version", "create", "replace"):
            self._count(name, lambda result, arguments: 1)
        self._count("read_tails", lambda result, arguments: len(result))
        self._count("list", lambda result, arguments: max(1, -(-len(result) // PAGE)))

    def _count(self, name: str, weight: Callable[[Any, Any], int]) -> None:
        real = getattr(Store, name)

        def counted(store: Store, *arguments: Any) -> Any:
            result = real(store, *arguments)
            self.calls[name] += weight(result, arguments)
            return result

        self._put(Store, name, counted)


class Stub:
    """An executor whose tasks do nothing and commit nothing."""

    name = "stub"
    grace_s = 0.0

    def run(
        self, function: TaskFunction, tasks: Sequence[Task], resources: TaskResources, *_: Any
    ) -> Iterator[TaskOutcome]:
        for task in tasks:
            yield TaskOutcome(
                task.shard, 1, {"n_ok": PER_SHARD, "n_failed": 0, "attempt": "stub"}, None, node="-"
            )


class Silent:
    """Progress that nobody sees."""

    def start(self, stage: str, total: int, unit: str, done: int = 0, work_unit: str = "") -> None: ...
    def advance(self, amount: int = 1, work: float | None = None, **figures: Any) -> None: ...
    def finish(self) -> None: ...
    def say(self, message: str) -> None: ...


def resume(root: str) -> dict[str, Any]:
    """Runs the render stage; its tasks, if any are left, by the stub."""
    store = Store(root)
    config = PipelineConfig.model_validate(stored_config(store))
    session = ComputeSession(config.compute)
    session._executor = Stub()
    result = render(store, config, "all", session, Silent(), {})
    return {"skipped": result.skipped, "done": result.done}


def measure_open(root: str) -> dict[str, Any]:
    """Opens the fit as a reader does."""
    return {"objects": len(open_planes(root))}


def measure_find(root: str) -> dict[str, Any]:
    """Finds objects by id."""
    dataset = open_planes(root)
    rows = np.random.default_rng(0).choice(len(dataset.status), 1000, replace=False).tolist()
    ids = [next(plan_rows(row, row + 1)).object_id for row in rows]
    began = time.monotonic()
    assert ids[0] in dataset or dataset.status[rows[0]] == 2
    first = time.monotonic() - began
    began = time.monotonic()
    found = [dataset.planes_store.plan.row_of(object_id) for object_id in sorted(ids)]
    assert sorted(found) == sorted(rows)
    return {"first_find_s": round(first, 3), "find_ms": round(time.monotonic() - began, 4)}


def measure_status(root: str) -> dict[str, Any]:
    """Asks as `fpipe status` does."""
    found = dataset_status(Store(root))
    return {"kinds": found["fits"]["main"]["failure_kinds"]}


def measure_summary(root: str) -> dict[str, Any]:
    """Writes the summaries of views and fit anew."""
    store = Store(root)
    assert update_summary(ViewsStore.open(store), anew=True)
    assert update_summary(PlanesStore.open(store), anew=True)
    return {"bytes": store.size("maintenance/fits/main/planes.zarr.summary.json")}


def measure_verify(root: str) -> dict[str, Any]:
    """Checks the end and the marker of every shard of the fit."""
    planes = PlanesStore.open(Store(root))
    problems = list(check_shards(planes, full=False, with_rows=True))
    others = [problem for problem in problems if "/c." not in problem.key]  # derived arrays are not all there
    return {"findings": len(others)}


def measure_imports(root: str) -> dict[str, Any]:
    """Nothing: what memory the imports take."""
    return {}


MEASURES: dict[str, Callable[[str], dict[str, Any]]] = {
    "imports": measure_imports,
    "open": measure_open,
    "find": measure_find,
    "resume": resume,
    "status": measure_status,
    "summary": measure_summary,
    "verify": measure_verify,
}


def tell(values: dict[str, Any]) -> None:
    """Prints one JSON line."""
    print(json.dumps(values), flush=True)  # noqa: T201


def measured(name: str, root: Path, label: str = "") -> None:
    """Runs one measure in a new process, and prints its line."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_scale", "--measure", name, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    tell({"measure": label or name, **json.loads(done.stdout)})


def run_measure(name: str, root: str) -> None:
    """Runs one measure in this process."""
    store = CountedStore()
    began, cpu = time.monotonic(), time.process_time()
    found = MEASURES[name](root)
    seconds, cpu_s = round(time.monotonic() - began, 3), round(time.process_time() - cpu, 3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    tell({"seconds": seconds, "cpu_s": cpu_s, "rss_mib": peak, "calls": dict(store.calls), **found})


def unmark(root: Path, shards: Sequence[int]) -> None:
    """Takes the markers of some views away, as if they were not rendered."""
    for shard in shards:
        (root / "done/views" / str(shard)).unlink()


def bench_local(folder: Path, n_shards: int, with_shard_files: bool) -> None:
    """Measures one synthetic store."""
    root = folder / f"scale-{n_shards}"
    began = time.monotonic()
    write_dataset(root, n_shards, with_shard_files)
    made = {
        "shards": n_shards,
        "objects": n_shards * PER_SHARD,
        "made_in_s": round(time.monotonic() - began, 1),
    }
    tell({**made, "bytes": stored_bytes(root)})
    try:
        measured("imports", root)
        measured("open", root, "open_without")
        measured("status", root, "status_without")
        measured("summary", root)
        for name in ("open", "find", "resume", "status"):
            measured(name, root)
        if with_shard_files:
            measured("verify", root)
        unmark(root, range(0, n_shards, n_shards // LEFT))
        measured("resume", root, "rest")
    finally:
        shutil.rmtree(root)


def bench_s3(n_keys: int) -> None:
    """Measures single requests of a real S3 server on this machine."""
    import s3fs

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    options = {"key": "test", "secret": "test", "endpoint_url": f"http://127.0.0.1:{port}"}
    try:
        _wait_for(port)
        s3fs.S3FileSystem(**options).mkdir("bench")
        _measure_requests(options, n_keys)
    finally:
        server.kill()
        server.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError("the S3 server did not start")


def _measure_requests(options: dict[str, str], n_keys: int) -> None:
    store = Store("s3://bench/root", **options)
    keys = [f"done/{number}" for number in range(n_keys)]
    list(in_parallel(lambda key: store.create(key, b"x" * 160), keys))
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "list_page": (lambda: store.list("done"), -(-n_keys // PAGE)),
        "get": (lambda: [store.read(key) for key in keys[:300]], 300),
        "get_of_64": (lambda: store.read_tails(keys, 1024), n_keys),
    }
    found = {}
    for name, (call, times) in calls.items():
        began, cpu = time.monotonic(), time.process_time()
        call()
        found[f"{name}_s"] = round((time.monotonic() - began) / times, 6)
        found[f"{name}_cpu_s"] = round((time.process_time() - cpu) / times, 6)
    tell({"measure": "moto", **found})


def main() -> None:
    """Reads the command line and runs what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", default="10000,100000")
    parser.add_argument("--folder", type=Path, help="where the stores are made; default: a temporary folder")
    parser.add_argument("--keys", type=int, default=5000, help="keys of the S3 server; 0: no server")
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "ROOT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        run_measure(*given.measure)
        return
    with tempfile.TemporaryDirectory(prefix="bench-scale-", dir=given.folder) as folder:
        for position, n_shards in enumerate(map(int, given.shards.split(","))):
            bench_local(Path(folder), n_shards, with_shard_files=position == 0)
    if given.keys:
        bench_s3(given.keys)


if __name__ == "__main__":
    main()
