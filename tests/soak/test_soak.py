"""A small soak of each kind, and that what a soak looks for is found when it is there."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storage.planes import PlanesStore
from storage.records import ObjectFit, ObjectViews
from storage.store import Store
from storage.views import ViewsStore
from tests.soak import drivers as drivers_module
from tests.soak import leftovers as leftovers_module
from tests.soak.case import Case
from tests.soak.compare import compare
from tests.soak.drivers import Killer, Plan
from tests.soak.leftovers import Leftovers, short_folder
from tests.soak.nodes import Weather, cluster, disturbed_stage
from tests.soak.work import attempts, begun_again

SHARDS = 8  # of tests/tiny.yaml
SEED = 3


@pytest.fixture
def leftovers() -> Iterator[Leftovers]:
    with short_folder() as folder, Leftovers(folder / "t") as found:
        yield found


@pytest.mark.slow
def test_nodes_that_come_and_go_while_objects_are_fitted(
    tiny_dataset: Path, leftovers: Leftovers, tmp_path: Path
) -> None:
    root = tmp_path / "dataset"
    shutil.copytree(tiny_dataset, root, ignore=shutil.ignore_patterns("fits"))
    case = Case(SHARDS, tmp_path, leftovers.environment)
    draws = random.Random(SEED)
    with cluster(draws, leftovers) as nodes:
        weather = Weather(every_s=(1.0, 3.0), fewest=1)
        report = disturbed_stage(case, "fit-objects", root, tiny_dataset, nodes, weather, leftovers)
    assert report.problems == []
    assert report.shards == SHARDS
    assert report.changes["lost"] + report.changes["removed"] >= 1
    assert report.begun_again <= report.in_flight


def test_drivers_that_are_killed_while_objects_are_rendered(
    tiny_dataset: Path, leftovers: Leftovers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drivers_module, "EARLY_SHARE", 0.0)  # eight shards are done before a late one
    killer = Killer(
        Case(SHARDS, tmp_path, leftovers.environment), tmp_path / "dataset", random.Random(SEED), leftovers
    )
    report = killer.run(Plan({"render": 2}, {"render": 0.3}), tiny_dataset)
    assert report.problems == []
    assert sum(report.kills.values()) == 2
    assert report.begun_again <= report.in_flight


@pytest.mark.slow
def test_the_whole_soak(tmp_path: Path) -> None:
    options = [
        "--seed",
        "1",
        "--shards",
        "16",
        "--kills",
        "6",
        "--undisturbed",
        str(tmp_path / "undisturbed"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", *options],
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["part"] for line in done.stdout.splitlines()][:3] == [
        "nodes",
        "nodes",
        "drivers",
    ]


def test_what_is_left_is_found(leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(leftovers_module, "GONE_WITHIN_S", 0.1)
    assert leftovers.nothing()[0] == []
    script = "sleep 60 >/dev/null & echo $!"  # its parent ends at once
    with leftovers_module.in_environment(leftovers.environment):
        parent = subprocess.run(["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    (leftovers.folder / "scratch").mkdir()
    (tmp_path / ".tmp").mkdir()
    (tmp_path / ".tmp" / "half").touch()
    found = leftovers.nothing(tmp_path)[0]
    assert [text.split("/")[-1] for text in found] == [f"{parent.stdout.strip()} sleep 60", "half", "scratch"]
    assert [text.removeprefix("left: ") for text in leftovers.orphans(set(), tmp_path)] == found
    subprocess.run(["kill", parent.stdout.strip()], check=True)


def test_attempts_are_counted_by_their_notes(tmp_path: Path) -> None:
    """Shard 0: one that died, one that ended. Shard 1: ended, then only published. Shard 2: one that died."""
    notes = [
        ("begun", 0, 10),
        ("begun", 1, 11),
        ("ended", 1, 11),
        ("begun", 0, 11),
        ("ended", 0, 11),
        ("begun", 1, 12),
        ("skipped", 1, 12),
        ("begun", 2, 12),
    ]
    for at, (what, shard, pid) in enumerate(notes):
        values = {"what": what, "shard": shard, "pid": pid, "parent": 1, "at": at}
        (tmp_path / f"{at}.json").write_text(json.dumps(values))
    found = attempts(tmp_path)
    assert [(one.shard, one.began, one.ended, one.skipped) for one in found] == [
        (0, 0, None, False),
        (1, 1, 2, False),
        (0, 3, 4, False),
        (1, 5, 6, True),
        (2, 7, None, False),
    ]
    assert begun_again(found) == {0: 1}
    assert [one.was_running(2.5, 3.5) for one in found] == [True, False, True, False, False]


def test_shards_that_are_missing_are_found(tiny_dataset: Path, tmp_path: Path) -> None:
    same = compare(tiny_dataset, tiny_dataset, with_fits=True)
    assert (same.objects, same.views_differ, same.fits_differ, same.problems) == (8, 0, 0, [])
    root = tmp_path / "dataset"
    shutil.copytree(tiny_dataset, root)
    next((root / "done/views").iterdir()).unlink()
    assert any("are not done" in problem for problem in compare(root, tiny_dataset, with_fits=False).problems)


def test_other_views_and_fits_are_found(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Object 3 has other views, object 1 a fit that is 0.2 dB better, object 2 one that hardly differs."""
    root = tmp_path / "dataset"
    shutil.copytree(tiny_dataset, root)
    read_views, read_fit, better_db = ViewsStore.read, PlanesStore.read, {1: 0.2, 2: 0.01}

    def views(store: ViewsStore, row: int) -> ObjectViews:
        found = read_views(store, row)
        is_other = store.store.url == Store(root).url and row == 3
        return replace(found, images=np.bitwise_not(found.images)) if is_other else found

    def fit(store: PlanesStore, row: int) -> ObjectFit:
        found = read_fit(store, row)
        if store.store.url != Store(root).url or row not in better_db:
            return found
        metrics = {**found.metrics, "psnr_db": found.metrics["psnr_db"] + better_db[row]}
        return replace(found, coefficients=found.coefficients + 1, metrics=metrics)

    monkeypatch.setattr(ViewsStore, "read", views)
    monkeypatch.setattr(PlanesStore, "read", fit)
    found = compare(root, tiny_dataset, with_fits=True)
    assert (found.views_differ, found.fits_differ) == (1, 2)
    assert found.most_db == pytest.approx(0.2)
    assert [problem.split(": ")[1] for problem in found.problems] == [
        "its views are others",
        "its fit differs by 0.200 dB",
    ]
