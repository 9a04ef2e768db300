from __future__ import annotations

import json

import pytest

from pipeline.run import record_run
from storage.store import Store


def record(store: Store, stage: str = "render") -> dict:
    (run,) = store.list(f"runs/{stage}")
    return json.loads(store.read(f"runs/{stage}/{run}/run.json"))


def test_a_run_leaves_its_config_versions_and_events(tmp_path):
    store = Store(tmp_path)
    with record_run(store, "render", {"render": {"views": 3}}) as run:
        assert record(store)["state"] == "running"
        run.event("shard_done", shard=4, seconds=9.5)
        run.summary = {"done": 1}
    found = record(store)
    assert found["state"] == "done"
    assert found["config"] == {"render": {"views": 3}}
    assert found["summary"] == {"done": 1}
    assert found["versions"]["python"].startswith("3.")
    assert found["hardware"]["cores"] >= 1
    (line,) = store.read(f"runs/render/{run.run_id}/events-0000.jsonl").decode().splitlines()
    event = json.loads(line)
    assert event["event"] == "shard_done"
    assert event["seconds"] == 9.5, "the task's own seconds are not overwritten"
    assert 0 <= event["at_s"] < 5


def test_a_failing_run_says_so(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(RuntimeError, match="boom"), record_run(store, "render", {}):
        raise RuntimeError("boom")
    found = record(store)
    assert found["state"] == "failed"
    assert "boom" in store.read(f"runs/render/{found['run_id']}/events-0000.jsonl").decode()


def test_a_signal_in_compiled_code_stops_a_run(tmp_path):
    """What ray.wait makes of a handler that raises."""
    store = Store(tmp_path)
    with pytest.raises(SystemError), record_run(store, "render", {}):
        try:
            raise KeyboardInterrupt("SIGTERM")
        except KeyboardInterrupt as signalled:
            raise SystemError("returned a result with an exception set") from signalled
    found = record(store)
    assert found["state"] == "stopped"
    events = store.read(f"runs/render/{found['run_id']}/events-0000.jsonl").decode()
    assert json.loads(events)["error"] == "KeyboardInterrupt: SIGTERM"


def test_a_system_error_of_its_own_fails_a_run(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(SystemError), record_run(store, "render", {}):
        raise SystemError("bad call") from ValueError("x")
    assert record(store)["state"] == "failed"
