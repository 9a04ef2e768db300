"""`make chaos`: the chaos test on the local disk and on S3, ours and a naive store; JSON lines and a table.

    python -m tests.chaos [--small] [--minutes M] [--seed S] [--backends local s3] [--kinds ours naive]

A run is repeated by its seed: the same tasks, the same draws of faults, kills and pauses at the same moments.
What the operating system does in between is not the same. Exit code 1 when something was found in ours, when
nothing was in the naive store, or when too few kills and faults happened.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.chaos.actors import Setting
from tests.chaos.faults import KINDS, Faults
from tests.chaos.running import CREDENTIALS, RunningProxy, running_moto, running_proxy
from tests.chaos.storm import Report, Storm, Weather

READ_TIMEOUT_S = 1.0
STALL_S = 1.5
BUCKET = "chaos"
RATES = {
    "error_500": 0.02,
    "slow_down": 0.02,
    "reset_before": 0.02,
    "reset_after": 0.02,
    "stall": 0.004,
    "late": 0.004,
    "truncate": 0.02,
    "lost_put": 0.06,
}
WEATHER = {
    "local": Weather(min_kills=20, min_replaced=80),
    "s3": Weather(
        writers=4,
        readers=1,
        slot_s=0.5,
        kill_every_s=1.5,
        pause_every_s=6.0,
        pause_s=3.0,
        min_kills=12,
        min_replaced=15,
    ),
}
SHARDS = {"local": 200, "s3": 60}
SMALL_SHARDS = {"local": 40, "s3": 8}
SMALL_WEATHER = {
    "local": Weather(kill_every_s=0.4, min_kills=12, min_replaced=20),
    "s3": replace(WEATHER["s3"], kill_every_s=2.0, min_kills=5, min_replaced=3),
}
LEASE_S = {"local": 1.5, "s3": 2.5}
COUNTS = ("inconsistent_shards", "lost_objects", "doubly_committed", "bad_reads")


@contextmanager
def _place(backend: str, kind: str, seed: int, folder: Path) -> Iterator[tuple[Setting, RunningProxy | None]]:
    """Make an empty place for one run."""
    logs = folder / "logs"
    logs.mkdir()
    common: dict[str, Any] = {"kind": kind, "folder": logs, "seed": seed, "lease_s": LEASE_S[backend]}
    if backend == "local":
        yield Setting(url=str(folder / "data"), n_shards=0, doom=0.1, doom_within_s=0.03, **common), None
        return
    with ExitStack() as stack:
        upstream = stack.enter_context(running_moto())
        proxy = stack.enter_context(running_proxy(upstream, Faults(seed=seed, stall_s=STALL_S)))
        client = {"connect_timeout": 5, "read_timeout": READ_TIMEOUT_S, "retries": {"total_max_attempts": 2}}
        yield (
            Setting(
                url=f"s3://{BUCKET}/root",
                n_shards=0,
                doom=0.08,
                doom_within_s=0.3,
                idle_s=1.0,
                options={"config_kwargs": client, "use_listings_cache": False, "endpoint_url": proxy.url},
                environment=CREDENTIALS,
                **common,
            ),
            proxy,
        )


def run(backend: str, kind: str, seed: int, is_small: bool, root: Path | None = None) -> Report:
    """Make a dataset, let a storm rage on it, and check it; the files are kept where ours failed."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=root))
    shards = (SMALL_SHARDS if is_small else SHARDS)[backend]
    weather = (SMALL_WEATHER if is_small else WEATHER)[backend]
    with _place(backend, kind, seed, folder) as (setting, proxy):
        setting = replace(setting, n_shards=shards)
        subject = setting.subject()
        if proxy is not None:
            import s3fs

            s3fs.S3FileSystem(skip_instance_cache=True, endpoint_url=proxy.url).mkdir(BUCKET)
        subject.create()
        if proxy is not None:
            proxy.change(rates=RATES)
        report = Storm(setting, weather).run(proxy)
    if kind == "ours" and (report.findings.total or report.stuck or report.crashed):
        say(f"kept for inspection: {folder}")
    else:
        shutil.rmtree(folder)
    return report


def as_line(backend: str, kind: str, seed: int, shards: int, report: Report) -> dict[str, Any]:
    """What is printed as JSON about one run."""
    values = report.as_json()
    findings = values.pop("findings")
    messages = findings.pop("messages")
    proxy = values.pop("proxy")
    faults = {name: count for name, count in proxy.items() if name in KINDS}
    return {
        "backend": backend,
        "store": kind,
        "seed": seed,
        "shards": shards,
        **findings,
        **values,
        "seconds": round(report.seconds, 1),
        "check_seconds": round(report.check_seconds, 1),
        "requests": proxy.get("requests", 0),
        "faults": faults,
        "faults_total": sum(faults.values()),
        "messages": messages[:5],
    }


def complaints(lines: list[dict[str, Any]], is_small: bool) -> list[str]:
    """What makes the whole a failure."""
    found = []
    for line in lines:
        name = f"{line['backend']} {line['store']} seed {line['seed']}"
        must_be_zero = (*COUNTS, "wrong_configs", "leftovers", "stuck", "crashed")
        wrong = {key: line[key] for key in must_be_zero if line[key]}
        if line["store"] == "ours" and wrong:
            found.append(f"{name}: {wrong}: {line['messages'][:5]}")
        if line["store"] == "naive" and not any(line[key] for key in COUNTS):
            found.append(f"{name}: nothing was found in the naive store, so the test shows nothing")
    ours = [line for line in lines if line["store"] == "ours"]
    totals = Counter[str]()
    for line in ours:
        totals.update({"kills": line["kills"], "faults": line["faults_total"]})
    is_s3 = any(line["backend"] == "s3" for line in ours)
    runs = len(ours)
    needed = {"kills": runs * (5 if is_small else 15), "faults": (60 if is_small else 200) * is_s3}
    return found + [
        f"only {totals[name]} {name}, {number} are needed"
        for name, number in needed.items()
        if ours and totals[name] < number
    ]


def table(lines: list[dict[str, Any]]) -> str:
    """The counts side by side."""
    names = ("shards", *COUNTS, "kills", "faults_total", "replaced", "seconds")
    rows = [["backend", "store", *names]]
    rows += [[str(line[name]) for name in ("backend", "store", *names)] for line in lines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="of the first run; the next ones count up")
    parser.add_argument("--minutes", type=float, default=0.0, help="go on with further seeds for so long")
    parser.add_argument("--small", action="store_true", help="a minute in all, for CI")
    parser.add_argument("--backends", nargs="+", choices=sorted(SHARDS), default=["local", "s3"])
    parser.add_argument("--kinds", nargs="+", choices=["ours", "naive"], default=["ours", "naive"])
    parser.add_argument("--root", type=Path, default=None, help="folder for the local datasets and logbooks")
    options = parser.parse_args()
    if options.root is not None:
        options.root.mkdir(parents=True, exist_ok=True)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    say(f"seed {seed}")
    shards = SMALL_SHARDS if options.small else SHARDS
    lines: list[dict[str, Any]] = []
    end = time.monotonic() + 60 * options.minutes
    while not lines or time.monotonic() < end:
        for backend in options.backends:
            for kind in options.kinds:
                report = run(backend, kind, seed, options.small, options.root)
                line = as_line(backend, kind, seed, shards[backend], report)
                print(json.dumps(line), flush=True)  # noqa: T201
                lines.append(line)
        seed += 1
    say(table(lines))
    found = complaints(lines, options.small)
    say("\n".join(found) or "ours: nothing; naive: as expected")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
