"""`fpipe status` beside a real run: what it sees while shards are rendered, and after a kill."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli import status as cli_status
from pipeline import status as status_module
from storage.errors import TransientError
from storage.store import Store
from tests.conftest import TINY, clean_environment, command, fpipe

pytestmark = pytest.mark.bpy


def wait_for(root: Path, what: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        seen = fpipe("status", root, "--json")
        if seen.code == 0 and what(found := seen.json()):
            return found
        time.sleep(0.5)
    raise AssertionError("the status never said so")


def test_status_sees_a_run_from_outside_and_a_killed_one_as_killed(tmp_path: Path) -> None:
    root = tmp_path / "d"
    more = (
        "--set",
        "source.classes.car=12",
        "--set",
        "render.views=60",
        "--executor",
        "local",
        "--workers",
        "1",
    )
    arguments = command("render", root, "--preset", TINY, *more)
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL, env=clean_environment()) as driver:
        doing = wait_for(root, lambda found: found["activity"].get("render", {}).get("n_running"))
        assert doing["next"] == f"fpipe status {root} --watch"
        assert doing["activity"]["render"]["running"][0]["attempt"] == 1
        driver.kill()
    killed = fpipe("status", root)
    assert f"process {driver.pid}) was killed with shards" in killed.out
    assert killed.out.rstrip().endswith(f"next: fpipe render {root}")


def test_watching_goes_on_after_a_store_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second and third looks fail; the fourth sees that all is done. A first look that fails ends it."""
    over = {"activity": {}, "stages": {}, "fits": {"default": {"left": []}}}
    busy = {**over, "activity": {"render": {}}}
    refused = TransientError("s3://b: SlowDown")
    looks: list[Any] = [busy, refused, refused, over]

    def look(*_: Any) -> Any:
        if isinstance(found := looks.pop(0), Exception):
            raise found
        return found

    monkeypatch.setattr(status_module, "dataset_status", look)
    monkeypatch.setattr(cli_status.time, "sleep", lambda seconds: None)
    shown: list[Any] = []
    cli_status._repeat(Store(tmp_path), True, 5.0, shown.append)
    assert shown == [busy, over]
    assert capsys.readouterr().err == "fpipe: s3://b: SlowDown; looking again every 5 s\n"
    looks.append(refused)
    with pytest.raises(TransientError):
        cli_status._repeat(Store(tmp_path), True, 5.0, shown.append)


def test_watching_ends_when_all_is_done(tiny_dataset: Path, tmp_path: Path) -> None:
    seen = fpipe("status", tiny_dataset, "--watch")
    assert seen.code == 0
    assert seen.out.count("next: ") == 1
    target = tmp_path / "fpipe.prom"
    assert fpipe("status", tiny_dataset, "--watch", "--prometheus", target).code == 0
    assert 'fpipe_objects{root="' in target.read_text()
    assert (
        fpipe("status", tiny_dataset, "--shards", "-")
        .out.splitlines()[0]
        .startswith("stage,run,fit,shard,state")
    )
