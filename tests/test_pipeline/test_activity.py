"""What goes on in a dataset: signs of life, pace of several runs together, stuck shards, the shard table."""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cli.prometheus import METRICS, metrics_text
from cli.status_text import status_text
from pipeline import live as live_module
from pipeline import run as run_module
from pipeline.activity import LiveRun, activity, live_runs
from pipeline.executor import TaskFailure, TaskOutcome, TaskUsage
from pipeline.pace import Pace
from pipeline.progress import Progress
from pipeline.run import Run, read_events, record_run
from pipeline.shard_table import shard_table
from pipeline.status import _eta_s, dataset_status
from storage.errors import UsageError
from storage.store import Store
from tests.test_pipeline.small_dataset import write_small_dataset
from tests.test_storage.builders import full_dataset


class Silent:
    def start(self, *_: Any) -> None: ...
    def advance(self, *_: Any, **__: Any) -> None: ...
    def finish(self) -> None: ...
    def say(self, message: str) -> None: ...


def done(shard: int, seconds: float, node: str = "n1", attempts: int = 1) -> TaskOutcome:
    usage = TaskUsage(seconds, seconds / 2, 300_000_000)
    return TaskOutcome(shard, attempts, {"n_ok": 3, "n_failed": 0}, node=node, usage=usage)


def later(seconds: float) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)


def begun(store: Store, stage: str = "fit-objects", **about: str) -> tuple[Run, Progress]:
    run = Run(store, stage, {})
    run.about = dict(about)
    progress = run.watched(Silent())
    progress.start(stage, 12, "objects")
    run.write("running")
    return run, progress


def test_two_runs_of_a_stage_are_one_activity(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for node in ("a", "b"):
        run, progress = begun(store, fit="default")
        run.live.started(0, 1)
        run.live.started(1, 2)
        run.live.ended(done(0, 9.0 if node == "a" else 4.0, node))
        progress.advance(3)
        run.beat()
    found = activity(live_runs(store))["fit-objects default"]
    assert (found["runs"], found["n_running"], found["nodes"], found["retries"]) == (
        2,
        2,
        {"a": 1, "b": 1},
        2,
    )
    assert [shard["seconds"] for shard in found["slowest"]] == [9.0, 4.0]
    assert (found["done"], found["total"]) == (6, 24)
    assert found["per_s"] > 0
    assert not found["stuck"]


def test_a_run_that_ended_is_no_activity(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with record_run(store, "render", {}) as run:
        assert [live.values["run_id"] for live in live_runs(store)] == [run.run_id]
    assert live_runs(store) == []
    with pytest.raises(KeyboardInterrupt), record_run(store, "render", {}) as run:
        raise KeyboardInterrupt
    assert live_runs(store) == []
    assert json.loads(store.read(f"runs/render/{run.run_id}/run.json"))["state"] == "stopped"


def test_a_run_without_beats_is_silent_and_its_shards_are_named(tmp_path: Path) -> None:
    write_small_dataset(tmp_path)
    store = Store(tmp_path)
    run, _ = begun(store, "refine-fit")
    run.live.started(7, 1)
    run.beat()
    assert not live_runs(store, later(19))[0].is_silent
    (live,) = live_runs(store, later(21))
    assert live.is_silent
    assert activity([live]) == {}
    values = json.loads(store.read(f"runs/refine-fit/{run.run_id}/live.json"))
    store.replace(
        f"runs/refine-fit/{run.run_id}/live.json",
        json.dumps({**values, "at": later(-700).isoformat()}).encode(),
    )
    found = dataset_status(store)
    assert found["silent"][0]["shards"] == [7]
    assert re.search(
        r"refine-fit: a run on .* no sign of life for 11 min 40 s with shards 7:", status_text(found)
    )
    assert "fpipe_runs{root=" in metrics_text(found)


def set_last_beat(store: Store, run: Run, seconds: float) -> str:
    """Puts the last beat of a run, and its begin, where a test wants them; returns its key."""
    began = run.run_id.partition("-")[0]
    run_id = run.run_id.replace(began, f"{later(seconds):%Y%m%dT%H%M%S}")
    values = json.loads(store.read(f"runs/{run.stage}/{run.run_id}/live.json"))
    shutil.rmtree(Path(store.url, f"runs/{run.stage}/{run.run_id}"))
    key = f"runs/{run.stage}/{run_id}/live.json"
    store.replace(key, json.dumps({**values, "run_id": run_id, "at": later(seconds).isoformat()}).encode())
    return key


def test_a_silent_run_is_told_until_another_one_has_begun_since(tmp_path: Path) -> None:
    write_small_dataset(tmp_path)
    store, ended = Store(tmp_path), {}
    silences = (-500, -400, -90_000)
    keys = [set_last_beat(store, begun(store, "refine-fit")[0], seconds) for seconds in silences]
    (told,) = dataset_status(store, ended)["silent"]
    assert told["run_id"] in keys[1]
    assert {key for key in ended if "refine" in key} == {keys[2]}, "one that may come back is looked at again"
    begun(store, "fit-objects", fit="default")
    assert len(dataset_status(store, ended)["silent"]) == 1, "that is another stage"
    with record_run(store, "refine-fit", {}):
        assert dataset_status(store, ended)["silent"] == []
    found = dataset_status(store, ended)
    assert found["silent"] == [], "its end says no less than its begin"
    assert 'state="silent"' not in metrics_text(found)


def test_a_silent_run_of_a_stage_that_is_done_is_not_told(tmp_path: Path) -> None:
    store, ended = Store(tmp_path), {}
    full_dataset(tmp_path)
    assert dataset_status(store)["stages"]["render"]["left"] == []
    key = set_last_beat(store, begun(store, "render")[0], -90_000)
    refined = set_last_beat(store, begun(store, "refine-fit")[0], -90_000)
    (told,) = dataset_status(store, ended)["silent"]
    assert (told["stage"], set(ended)) == ("refine-fit", {key}), "nobody knows whether a refinement is done"
    assert told["run_id"] in refined


def test_a_shard_far_slower_than_the_others_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run, _ = begun(store)
    run.live.started(0, 1)
    run.live.started(1, 1)
    run.live.ended(done(0, 30.0))
    run.beat()
    runs = live_runs(store)
    assert activity(runs, later(80))["fit-objects"]["stuck"] == []
    (stuck,) = activity(runs, later(100))["fit-objects"]["stuck"]
    assert (stuck["shard"], stuck["attempt"]) == (1, 1)
    assert 99 < stuck["seconds"] < 110


def test_shards_that_wait_for_another_attempt_neither_run_nor_are_stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New shards go first, so that those of a lost node may wait for hours."""
    write_small_dataset(tmp_path)
    store = Store(tmp_path)
    run, _ = begun(store, "render")
    with monkeypatch.context() as an_hour_ago:
        an_hour_ago.setattr(live_module, "_now", lambda: later(-3600))
        for shard in range(40):
            run.live.started(shard, 1)
            run.live.waits(shard)
    run.live.started(0, 2)
    run.live.started(1, 2)
    run.live.ended(done(1, 1.0))
    run.beat()
    doing = activity(live_runs(store))["render"]
    assert (doing["n_running"], doing["n_waiting"], doing["stuck"]) == (1, 38, [])
    assert "38 shards wait for another attempt; 2 attempts were repeated" in status_text(
        dataset_status(store)
    )


def test_time_left_is_that_of_the_whole_stage(tmp_path: Path) -> None:
    """Two machines may have been given a few shards each; what is left is told for the stage."""
    write_small_dataset(tmp_path)
    store = Store(tmp_path)
    run, progress = begun(store, "render")
    progress.advance(4)
    run.beat()
    found = dataset_status(store)
    doing, stage = found["activity"]["render"], found["stages"]["render"]
    left = stage["objects"] - stage["objects_done"]
    assert doing["eta_s"] == pytest.approx(max(0, left / doing["per_s"] - doing["last_s"]), abs=0.12)
    assert found["next"] == f"fpipe status {store.url} --watch"


def test_time_left_counts_down_and_grows_when_no_result_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of ten objects in 100 s, then none for ten times as long."""
    write_small_dataset(tmp_path)
    store, seconds = Store(tmp_path), [0.0]
    monkeypatch.setattr(Pace.__init__, "__defaults__", (lambda: seconds[0],))
    run, progress = begun(store, "refine-fit")  # no stage of the status: its own 12 objects count

    def eta_s(passed_s: float) -> float:
        seconds[0] += passed_s
        now = later(seconds[0])
        run.beat()
        doing = activity([LiveRun(live.values, 0.0, live.key) for live in live_runs(store)], now)[
            "refine-fit"
        ]
        return _eta_s(doing, None)

    monkeypatch.setattr(live_module, "_now", lambda: later(seconds[0]))
    seconds[0] = 100.0
    progress.advance(1)
    assert eta_s(0) == pytest.approx(1100, abs=5)
    assert eta_s(90) == pytest.approx(1010, abs=5)
    assert eta_s(910) == pytest.approx(11 * 1000 - 1000, abs=50)


def test_an_event_log_is_cut_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "SEGMENT_BYTES", 500)
    store = Store(tmp_path)
    with record_run(store, "render", {}) as run:
        for number in range(40):
            run.event("shard_done", shard=number)
            if number % 3 == 0:
                run.beat()
    assert len([name for name in store.list(f"runs/render/{run.run_id}") if name.startswith("events")]) > 3
    assert [event["shard"] for event in read_events(store, "render", run.run_id)] == list(range(40))


def test_a_store_that_takes_no_beat_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    monkeypatch.setattr(run_module, "BEAT_S", 0.02)
    with record_run(store, "render", {}) as run:
        folder = tmp_path / "runs" / "render" / run.run_id
        (folder / "live.json").unlink()
        (folder / "live.json").mkdir()  # whatever is in the way
        deadline = later(20)
        while "cannot be recorded" not in caplog.text:
            assert datetime.datetime.now(datetime.UTC) < deadline
        (folder / "live.json").rmdir()
        while not (folder / "live.json").is_file():
            assert datetime.datetime.now(datetime.UTC) < deadline


def test_the_shard_table_merges_all_runs(tmp_path: Path) -> None:
    write_small_dataset(tmp_path)
    store = Store(tmp_path)
    before = len(list(csv.DictReader(io.StringIO(shard_table(store)))))
    with record_run(store, "fit-objects", {}) as run:
        usage = {"seconds": 2.5, "cpu_seconds": 1.25, "peak_rss_bytes": 300_000_000}
        run.event(
            "shard_done",
            shard=3,
            attempts=2,
            node="n/1",
            n_ok=5,
            n_failed=1,
            usage=usage,
            retried={"node_lost": 1},
        )
        run.event("shard_failed", shard=4, attempts=3, node="", kind="died", error="ended with code -9")
        run.event("shard_done", shard=5, attempts=1, skipped=True, n_ok=6, n_failed=0)
    rows = list(csv.DictReader(io.StringIO(shard_table(store))))
    assert len(rows) == before + 3
    own = [row for row in rows if row["run"] == run.run_id]
    assert [(row["shard"], row["state"]) for row in own] == [("3", "done"), ("4", "failed"), ("5", "skipped")]
    assert (own[0]["seconds"], own[0]["peak_rss_mb"], own[0]["attempts"]) == ("2.5", "300.0", "2")
    assert [row["retried"] for row in own] == ["node_lost:1", "", ""]
    assert (own[1]["error"], own[1]["kind"]) == ("ended with code -9", "died")
    with pytest.raises(UsageError):
        shard_table(Store(tmp_path / "nothing"))


def test_metrics_are_in_prometheus_format(tmp_path: Path) -> None:
    write_small_dataset(tmp_path)
    store = Store(tmp_path)
    run, progress = begun(store, "render")
    run.live.started(0, 1)
    run.live.ended(TaskOutcome(0, 1, failure=TaskFailure("died", "gone")))
    progress.advance(1)
    run.beat()
    found = dataset_status(store) | {"root": 'quoted"\\\n'}
    lines = metrics_text(found).splitlines()
    sample = re.compile(r'^(fpipe_\w+)\{root="quoted\\"\\\\\\n"(,\w+="[^"]*")*\} -?[0-9.e+-]+$')
    named = {match.group(1) for line in lines if (match := sample.match(line))}
    assert all(line.startswith("# ") or sample.match(line) for line in lines)
    assert named <= set(METRICS)
    assert {"fpipe_shards", "fpipe_objects", "fpipe_stored_bytes", "fpipe_work_per_second"} <= named


def test_states_of_a_metric_add_up(tmp_path: Path) -> None:
    write_small_dataset(tmp_path)
    store = Store(tmp_path)
    run, _ = begun(store, "render")
    for shard in range(3):
        run.live.started(shard, 1)
    run.live.waits(2)
    run.beat()
    found = dataset_status(store)
    stage = found["stages"]["render"]
    stage |= {"done": 1, "left": [1, 2, 3], "shards": 4, "objects": 20, "ok": 3, "failed": 2}
    totals: Counter[str] = Counter()
    for line in metrics_text(found).splitlines():
        if sample := re.match(r'(\w+)\{.*stage="render".*\} ([0-9.]+)$', line):
            totals[sample[1]] += int(float(sample[2]))
    assert (totals["fpipe_shards"], totals["fpipe_objects"]) == (4, 20)
    assert (totals["fpipe_running_shards"], totals["fpipe_waiting_shards"]) == (2, 1)
