"""Retries of failed renders and fits, through the real jobs and the real store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import ComputeConfig, PipelineConfig
from pipeline.executor import Task, TaskFunction, TaskOutcome, TaskResources, run_task, to_outcome
from pipeline.fit.repro import repro_fit
from pipeline.retry_stage import Selection, retry_fit, retry_render
from pipeline.stages import ShardsFailedError
from render_jobs import retry as retry_module
from render_jobs.outputs import ShardOutputs
from storage.errors import LeaseHeldError, UsageError
from storage.lease import Lease
from storage.planes import PlanesStore
from storage.records import Failure, ObjectViews, Status
from storage.replacement import finish_round, open_round, redo_objects
from storage.shards import unpack_tail
from storage.store import Store
from storage.verify import verify
from storage.views import ViewsStore
from tests.test_pipeline.small_dataset import object_views, write_small_dataset
from tests.test_pipeline.test_fit_job import BROKEN, _dataset, _fit_all
from tests.test_pipeline.toy import toy_object


class InProcess:
    """An executor that runs tasks one after the other in this process."""

    name = "in process"
    grace_s = 0.0

    def run(
        self, function: TaskFunction, tasks: Sequence[Task], resources: TaskResources, *_: Any
    ) -> Iterator[TaskOutcome]:
        for task in tasks:
            yield to_outcome(task, 1, run_task(function, None, task.arguments))


class Session:
    """Stands for a ComputeSession."""

    executor = InProcess()


class Silent:
    """A progress that nobody sees."""

    def start(self, *args: Any) -> None: ...
    def advance(self, *args: Any, **figures: Any) -> None: ...
    def finish(self) -> None: ...
    def say(self, message: str) -> None: ...


@dataclass
class FakeRenderer:
    """Renders what `works` holds; in the place of Blender."""

    works: set[str]

    def add(self, outputs: ShardOutputs, worker: object, row: Any) -> float:
        if row.object_id in self.works:
            outputs.add(row.row, object_views(row.row), {}, {"warnings": []})
        else:
            outputs.fail(row.row, Failure("timeout", "not finished after 600 s", repro="fpipe repro"))
        return 1.0


class NoWorker:
    """In the place of a Blender process."""

    def __init__(self, limits: object) -> None: ...
    def __enter__(self) -> NoWorker:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Objects that render now."""
    names: set[str] = set()
    monkeypatch.setattr(retry_module, "BlenderWorker", NoWorker)
    monkeypatch.setattr(
        retry_module.ObjectRenderer,
        "of_plan",
        staticmethod(lambda root_url, plan, row: FakeRenderer(names)),
    )
    return names


def render_again(store: Store, **selection: Any) -> Any:
    return retry_render(store, PipelineConfig(), Selection(**selection), Session(), Silent(), "fpipe retry")


def test_only_failed_objects_are_rendered_and_only_their_shards_change(
    tmp_path: Path, works: set[str]
) -> None:
    store = write_small_dataset(tmp_path)
    before = {shard: ViewsStore.open(store).sidecar(shard).attempt for shard in range(3)}
    works.add("object-002")
    result = render_again(store)
    assert (result.tried, result.mended, result.failing, result.exit_code) == (1, ["object-002"], {}, 0)
    assert result.fits == ["base"]
    views = ViewsStore.open(store)
    assert (views.status() == Status.OK).all()
    after = {shard: views.sidecar(shard).attempt for shard in range(3)}
    assert [shard for shard in before if before[shard] != after[shard]] == [0]
    assert views.sidecar(0).info["redone"]["render_s"] == 1.0
    assert verify(store, full=True) == []
    again = render_again(store)
    assert (again.tried, again.mended, again.exit_code) == (0, [], 0)


@pytest.mark.parametrize(
    ("setting", "deadline_s"),
    [({"render_deadline_s": 90.0}, 90.0), ({}, 1800 + 4 * 480), ({"render_deadline_s": 0.0}, 1800 + 4 * 480)],
)
def test_a_render_task_has_a_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: dict[str, float], deadline_s: float
) -> None:
    """Unset, it is four objects of 300 s and a start of 180 s each, and half an hour for all else."""
    asked: list[TaskResources] = []

    def run(_: Any, function: Any, tasks: Any, resources: TaskResources, *__: Any) -> Iterator[TaskOutcome]:
        asked.append(resources)
        return iter(())

    store = write_small_dataset(tmp_path)
    assert ViewsStore.open(store).spec.objects_per_shard == 4
    monkeypatch.setattr(InProcess, "run", run)
    config = PipelineConfig(compute=ComputeConfig(**setting))
    retry_render(store, config, Selection(), Session(), Silent(), "fpipe retry")
    assert [resources.deadline_s for resources in asked] == [deadline_s]


def test_what_still_fails_is_recorded_anew(tmp_path: Path, works: set[str]) -> None:
    store = write_small_dataset(tmp_path)
    result = render_again(store)
    assert result.failing == {"object-002": ("timeout", "not finished after 600 s")}
    assert (result.mended, result.exit_code, result.fits) == ([], 42, [])
    assert [failure.kind for *_, failure in ViewsStore.open(store).failures()] == ["timeout"]


def test_classes_and_objects_choose(tmp_path: Path, works: set[str]) -> None:
    store = write_small_dataset(tmp_path)
    works.add("object-002")
    other = render_again(store, kinds=["crash"])
    assert (other.tried, other.other_kinds, other.exit_code) == (0, {"no_faces": 1}, 0)
    good = render_again(store, objects=["object-004"])
    assert (good.tried, good.mended) == (0, [])
    with pytest.raises(UsageError, match="no object 'nobody'"):
        render_again(store, objects=["nobody"])
    chosen = render_again(store, kinds=["no_faces"], objects=["object-002", "object-003"])
    assert chosen.mended == ["object-002"]


def test_shards_that_are_not_done_are_not_touched(tmp_path: Path, works: set[str]) -> None:
    store = write_small_dataset(tmp_path)
    (tmp_path / "done/views/1").unlink()
    works.add("object-002")
    with pytest.raises(UsageError, match=r"object-005 is in shard 1, which is not done: run fpipe render"):
        render_again(store, objects=["object-005"])
    assert render_again(store).undone == 1
    assert ViewsStore.open(store).done() == {0, 2}


def test_the_second_of_two_is_refused(tmp_path: Path, works: set[str]) -> None:
    store = write_small_dataset(tmp_path)
    with Lease(store, "fpipe retry /data"), pytest.raises(LeaseHeldError, match="fpipe retry /data"):
        render_again(store)
    works.add("object-002")
    assert render_again(store).mended == ["object-002"]


def test_a_shard_that_could_not_be_done_is_reported_and_the_round_is_closed(
    tmp_path: Path, works: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_small_dataset(tmp_path)

    def refuse(*args: Any, **kwargs: Any) -> float:
        raise RuntimeError("a bug")

    monkeypatch.setattr(FakeRenderer, "add", refuse)
    with pytest.raises(ShardsFailedError, match="a bug"):
        render_again(store)
    monkeypatch.undo()
    assert ViewsStore.open(store).journal().open == frozenset()
    assert verify(store, full=True) == []


def mend_views(store: Store) -> None:
    """Give the toy whose rendering failed its views."""
    views, toy = ViewsStore.open(store), toy_object(BROKEN)
    shard = views.shard_of(BROKEN)
    with Lease(store, "test") as lease, views.builder(shard, "mended") as builder:

        def work(rows: list[int]) -> dict[str, int]:
            mesh_to_world = np.eye(4, dtype=np.float32)
            found = ObjectViews(toy.images, toy.cam2world, toy.intrinsics, toy.heldout, mesh_to_world)
            builder.add(BROKEN, found)
            return {}

        current = open_round(views, lease.token, [shard])
        redo_objects(views, builder, current, lambda record: record.row == BROKEN, work)
        finish_round(views, lease.token)


def test_objects_that_have_views_now_are_fitted(tmp_path: Path) -> None:
    store = _dataset(tmp_path)
    _fit_all(store)
    before = PlanesStore.open(store, "base")
    (failure,) = [failure for *_, failure in before.failures()]
    assert failure.repro == f"fpipe repro {store.url} toy-4"

    def fit_again() -> Any:
        config = PipelineConfig()
        return retry_fit(store, config, "base", Selection(), Session(), Silent(), "fpipe retry")

    waiting = fit_again()
    assert (waiting.tried, waiting.waiting, waiting.exit_code) == (0, ["toy-4"], 42)
    lost = repro_fit(store.url, "base", "toy-4").failure
    assert lost is not None
    assert lost.kind == "no_views"
    mend_views(store)
    alone = repro_fit(store.url, "base", "toy-4", out=tmp_path / "pictures")
    assert alone.failure is None
    assert alone.pictures and all(path.exists() for path in alone.pictures)
    assert before.status()[BROKEN] == Status.FAILED, "repro writes nothing"
    result = fit_again()
    assert (result.tried, result.mended, result.exit_code) == (1, ["toy-4"], 0)
    after = PlanesStore.open(store, "base")
    assert (after.status() == Status.OK).all()
    assert after.regime()[BROKEN] == 2
    assert after.read(BROKEN).metrics["psnr_db"] == pytest.approx(alone.info["psnr_db"], abs=0.05)
    for row in (3, 5):
        np.testing.assert_array_equal(after.read(row).coefficients, before_values(store, after, row))
    assert verify(store, full=True) == []


def before_values(store: Store, planes: PlanesStore, row: int) -> np.ndarray[Any, Any]:
    """Coefficients of a row in the file that was replaced."""
    shard = planes.shard_of(row)
    folder, _, name = f"quarantine/{planes.spec.shard_key(shard)}".rpartition("/")
    (kept,) = [found for found in store.list(folder) if found.startswith(f"{name}.")]
    tail = unpack_tail(store.read(f"{folder}/{kept}"), planes.spec.chunks_per_shard, kept)
    values: np.ndarray[Any, Any] = tail.sidecar.arrays["coefficients"][row - planes.shard_rows(shard).start]
    return values
