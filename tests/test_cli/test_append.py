"""`fpipe append` on a dataset that went through every real stage, killed, read meanwhile, and finished."""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.append import append
from storage.errors import FpipeError, StoreMismatchError, UsageError
from storage.reader import open_planes
from storage.store import Store
from storage.verify import verify
from tests.conftest import fpipe
from tests.test_storage.fatal_calls import die_at

OPTIONS = ("--classes", "car:3,chair:1")
LOCAL = ("--executor", "local", "--json")


def hashes(root: Path) -> dict[str, str]:
    """Of all files but records and reports."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    found = {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return {name: digest for name, digest in found.items() if not name.startswith(("runs/", "reports/"))}


def _append_and_die(root: Path, fatal_call: int) -> None:
    from cli.main import app

    die_at(fatal_call, ("link", "replace"))
    app(["append", str(root), *OPTIONS], standalone_mode=False)


def kill_at(root: Path, fatal_call: int) -> int | None:
    child = multiprocessing.get_context("spawn").Process(target=_append_and_die, args=(root, fatal_call))
    child.start()
    child.join(120)
    return child.exitcode


def test_objects_are_added_rendered_and_fitted(tiny_dataset: Path, tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    shutil.copytree(tiny_dataset, root)
    before = hashes(root)
    reader = open_planes(root)
    first = {item.object_id: item.planes() for item in reader}
    sample = reader["car-000000"].micro()

    assert kill_at(root, 1) == -9 and hashes(root) == before, "nothing has a name yet"
    assert kill_at(root, 2) == -9, "the segment, but not the document that makes it part of the plan"
    assert fpipe("status", root, "--json").json()["objects"] == 8
    assert kill_at(root, 5) == -9, "among the metadata"
    assert fpipe("status", root, "--json").json()["objects"] == 10
    assert fpipe("verify", root).code == 42, "an append was interrupted"
    done = fpipe("append", root, *OPTIONS, "--json")
    assert done.code == 0, done.err
    assert (done.json()["added"], done.json()["known"], done.json()["objects"]) == (0, 4, 10)
    assert verify(Store(root), full=True) == []

    status = fpipe("status", root, "--json").json()
    assert status["stages"]["render"]["left"] == status["fits"]["default"]["left"] == [8, 9]
    assert status["next"] == f"fpipe render {root}"
    assert fpipe("render", root, *LOCAL).json()["done"] == 2
    assert fpipe("train-shared", root, *LOCAL).json()["skipped"] == 1, "the shared components stay"
    assert fpipe("fit-objects", root, *LOCAL).json()["done"] == 2
    after = hashes(root)
    changed = {name for name, digest in before.items() if after[name] != digest}
    assert {name.rpartition("/")[2] for name in changed} == {"zarr.json"}, "files of shards stay as they are"
    assert verify(Store(root), full=True) == []

    assert len(reader) == 8 and np.array_equal(reader["car-000000"].micro(), sample)
    reader.refresh()
    assert len(reader) == 10 and reader.classes[-1] == "chair"
    assert np.isfinite(reader["chair-000000"].planes()).all()
    for object_id, planes in first.items():
        assert np.array_equal(reader[object_id].planes(), planes)
    evaluation: dict[str, Any] = fpipe("evaluate", root, "--json").json()
    assert (evaluation["all"]["objects"], evaluation["regime1"]["objects"]) == (10, 4)
    assert fpipe("report", root).code == 0
    exported = fpipe("export", root, "--to", "npy", "--out", tmp_path / "out", "--classes", "chair", "--json")
    assert exported.code == 0 and exported.json()["written"] == 1, exported.err
    info = fpipe("info", root, "--json").json()
    assert info["appended"][0]["objects"] == 2 and info["classes"]["chair"] == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"settings": ["render.views=9"]}, StoreMismatchError, r"views: 8 \(existing\) -> 9 \(asked for\)"),
        ({"source": "folder", "path": "/no/such/folder"}, UsageError, "is not a folder"),
        ({"source": "folder"}, UsageError, "--source folder needs --path"),
        ({"classes": "boat:1"}, UsageError, "has no class 'boat'"),
    ],
)
def test_what_cannot_be_appended_is_refused(
    tiny_dataset: Path, options: dict[str, Any], error: type[FpipeError], message: str
) -> None:
    before = hashes(tiny_dataset)
    with pytest.raises(error, match=message):
        append(str(tiny_dataset), **options)
    assert hashes(tiny_dataset) == before


def test_nothing_new_and_nothing_to_append_to(
    tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hashes(tiny_dataset)
    append(str(tiny_dataset))
    assert "nothing new: all 8 objects of the source are in the dataset" in capsys.readouterr().err
    assert hashes(tiny_dataset) == before
    with pytest.raises(UsageError, match=r"no dataset at .* to append to; start with fpipe render"):
        append(str(tmp_path / "nowhere"), classes="car:1")
