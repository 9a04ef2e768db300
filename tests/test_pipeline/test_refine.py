"""Fits that are fitted further: through the real job and the real store."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import metrics, refine_stage
from pipeline.config import PipelineConfig, load_config
from pipeline.evaluate import recompute_figures
from pipeline.fit import batch, job
from pipeline.fit.draws import object_key
from pipeline.fit.judge import JUDGED_VIEWS, judged_views
from pipeline.fit.lane import Lane
from pipeline.fit.settings import FitSettings
from pipeline.fit_views import FitRenderer
from pipeline.flags import convergence
from pipeline.refine_stage import RefineResult, refine_fit
from pipeline.refinements import RefinementNote, refinements
from pipeline.report.collect import collect
from pipeline.stages import ShardsFailedError
from pipeline.status import dataset_status
from storage.errors import ConfigError, LeaseHeldError, StaleSnapshotError, StoreMismatchError, UsageError
from storage.lease import Lease
from storage.planes import PlanesShardBuilder, PlanesStore
from storage.records import Status
from storage.store import Store
from storage.verify import verify
from storage.views import ViewsStore
from tests.test_pipeline.test_fit_job import BROKEN, FIT, N, _dataset, _fit_all
from tests.test_pipeline.test_retry_stage import Session, Silent

FITTED = [row for row in range(N) if row != BROKEN]
MORE = {"latent_steps": 60, "rgb_steps": 10}
WILD = {"latent_steps": 5, "rgb_steps": 0, "lr_micro": 80.0, "lr_final": 1.0}


def fitted(root: Path, **how: Any) -> Store:
    store = _dataset(root, **how)
    _fit_all(store)
    return store


def config(**values: Any) -> PipelineConfig:
    return load_config({"fit": FIT.model_dump(mode="json") | values})


def refine(store: Store, shards: str = "all", **values: Any) -> RefineResult:
    command = f"fpipe fit-objects {store.url} --refine"
    return refine_fit(store, config(**values), "base", shards, Session(), Silent(), command, {})  # type: ignore[arg-type]


def codes(store: Store) -> dict[int, bytes]:
    planes = PlanesStore.open(store, "base")
    found = {row: planes.read(row) for row in FITTED}
    return {row: np.asarray(fit.micro).tobytes() + fit.coefficients.tobytes() for row, fit in found.items()}


def judged_psnr(store: Store, row: int) -> float:
    """PSNR of the stored fit on the training views that decide, computed from the store alone."""
    planes, own = PlanesStore.open(store, "base"), ViewsStore.open(store).read(row)
    fit, numbers = planes.read(row), np.flatnonzero(~own.heldout)  # five: all of them are judged
    renderer = FitRenderer.open(store, planes.header.shared_version)
    drawn = renderer.render(fit.micro, fit.coefficients, own.cam2world[numbers], own.intrinsics[numbers])
    error = np.square(np.clip(drawn, 0, 1) - metrics.composite(own.images[numbers])).mean()
    return float(-10 * np.log10(error))


def test_judged_views_are_a_fixed_lot_of_training_views() -> None:
    heldout = np.arange(30) % 3 == 0
    chosen = judged_views("car-1", heldout)
    assert len(chosen) == JUDGED_VIEWS == len(set(chosen.tolist()))
    assert not heldout[chosen].any()
    np.testing.assert_array_equal(chosen, judged_views("car-1", heldout))
    assert chosen.tolist() != judged_views("car-2", heldout).tolist()
    assert judged_views("car-1", np.array([False, True, False])).tolist() == [0, 2]


def test_objects_are_fitted_further(tmp_path: Path) -> None:
    store = fitted(tmp_path)
    before = {row: judged_psnr(store, row) for row in FITTED}
    figures = PlanesStore.open(store, "base").metrics()["psnr_db"]
    result = refine(store, **MORE)
    assert (result.shards, result.skipped, result.times, result.refined) == (2, 0, 1, 5)
    assert (result.improved, result.without_fit, result.exit_code) == (5, 1, 42)
    planes = PlanesStore.open(store, "base")
    for row in FITTED:
        assert judged_psnr(store, row) > before[row]
    stored, again = planes.metrics(), recompute_figures(store, planes)
    np.testing.assert_allclose(stored["psnr_db"], again["psnr_db"], atol=1e-4)
    assert result.psnr_db == pytest.approx((np.nanmean(figures), np.nanmean(stored["psnr_db"])), abs=1e-4)
    assert planes.status()[BROKEN] == Status.FAILED, "left to a retry"
    assert planes.regime().tolist() == [1, 1, 1, 2, 0, 2]
    info = planes.shard_info(1)["toy-3"]
    assert info["steps"] == [3, 2], "the first fit's record stays"
    assert (info["refined"]["times"], info["refined"]["times_improved"]) == (1, 1)
    assert info["refined"]["steps"] == [60, 10]
    assert [step for step, _ in info["refined"]["curve"]] == [20, 40, 60, 70]
    (note,) = planes.sidecar(0).info["refinements"]
    assert note["fit_config"]["latent_steps"] == 60
    assert planes.header.fit_config["latent_steps"] == 3
    assert verify(store, full=True) == []
    assert collect_facts(store)["refined"] == "once: 2 shards"
    assert refine(store, "1", **WILD).improved == 0
    info = PlanesStore.open(store, "base").record(3).info
    assert info["refined"]["steps"] == [5, 0]
    assert [step for step, _ in convergence(info)[0]] == [20, 40, 60, 70], "of the code that it has"


def test_a_batch_is_planned_for_the_settings_of_the_refinement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fitted(tmp_path)  # two objects at a time
    planned_for: list[int] = []

    def plan(shared: Any, settings: FitSettings, *rest: Any) -> int:
        planned_for.append(settings.latent_pixels)
        return 3

    monkeypatch.setattr(job, "planned_batch", plan)
    refine(store, "0", batch=0, latent_pixels=48)
    assert planned_for == [48]
    (note,) = refinements(PlanesStore.open(store, "base").sidecar(0))
    made = note.circumstances
    assert (made["batch"], made["device"], made["threads"], made["kernel"]) == (3, "cpu", 1, "torch")
    assert made["host"] == socket.gethostname()


def test_notes_of_older_refinements_are_read() -> None:
    older = {"fit_config": {"seed": 1}, "fit_config_hash": "h", "seconds": 2.0, "host": "a", "device": "cpu"}
    note = RefinementNote.from_json(older)
    assert note == RefinementNote({"seed": 1}, "h", 2.0, {"host": "a", "device": "cpu"})
    assert note.as_json() == older


def collect_facts(store: Store) -> Any:
    """What a report says about the fit."""
    views = ViewsStore.open(store)
    return collect(store, views, views.status(), PlanesStore.open(store, "base")).facts


def test_an_object_that_gets_worse_keeps_its_code(tmp_path: Path) -> None:
    store = fitted(tmp_path)
    before, planes = codes(store), PlanesStore.open(store, "base")
    crcs = [planes.record(row).crc32c for row in FITTED]
    figures = planes.metrics()
    result = refine(store, **WILD)
    assert (result.refined, result.improved, result.times) == (5, 0, 1)
    assert result.psnr_db is not None
    assert result.psnr_db[0] == result.psnr_db[1]
    assert codes(store) == before
    after = PlanesStore.open(store, "base")
    assert [after.record(row).crc32c for row in FITTED] == crcs
    np.testing.assert_array_equal(after.metrics()["psnr_db"], figures["psnr_db"])
    note = after.record(3).info["refined"]
    assert (note["improved"], note["times"], note["times_improved"]) == (False, 1, 0)
    assert note["training_mse"][0] < note["training_mse"][1]
    assert refine(store, **WILD).times == 2


def test_every_refinement_draws_other_numbers_and_the_same_ones_when_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _dataset(tmp_path)
    keys: list[int] = []
    real = batch.open_lane

    def seen(*args: Any) -> Lane:
        lane = real(*args)
        if lane.views.object_id == "toy-0":
            keys.append(lane.key)
        return lane

    monkeypatch.setattr(batch, "open_lane", seen)
    _fit_all(store)
    assert keys == [object_key("fit", FIT.seed, "toy-0")], "a first fit's numbers are those of older versions"
    curves = []
    for _ in range(2):  # codes stay: both begin with the same ones
        assert refine(store, "0", **WILD).improved == 0
        curves.append(PlanesStore.open(store, "base").record(0).info["refined"]["curve"])
    assert curves[0] != curves[1]
    assert len(set(keys)) == 3
    with pytest.raises(ShardsFailedError), monkeypatch.context() as killed:
        killed.setattr(PlanesShardBuilder, "pack", unreachable)
        refine(store, "0", **WILD)
    refine(store, "0", **WILD)
    assert keys[3] == keys[4] not in keys[:3], "another attempt at the third refinement"


def unreachable(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("the store is away")


def test_an_object_beyond_the_stored_type_keeps_its_code_and_is_named(tmp_path: Path) -> None:
    store = fitted(tmp_path)
    before = codes(store)
    result = refine(store, **{**WILD, "lr_micro": 1e6})
    assert (result.refined, result.n_failures, result.exit_code) == (0, 5, 42)
    assert "beyond the stored type" in result.failures["toy-3"]
    assert codes(store) == before


def test_a_bug_ends_the_shard_and_leaves_it_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fitted(tmp_path)
    before = codes(store)
    monkeypatch.setattr(job, "evaluate_object", lambda *_: {"beauty": 1.0})
    with pytest.raises(ShardsFailedError, match="'beauty'"):
        refine(store, "0", **MORE)
    planes = PlanesStore.open(store, "base")
    assert codes(store) == before
    assert "refined" not in planes.record(0).info
    assert refinements(planes.sidecar(0)) == []


def test_heldout_views_do_not_decide(tmp_path: Path) -> None:
    clean, noisy = fitted(tmp_path / "clean"), fitted(tmp_path / "noisy", noise=True)
    assert refine(clean, **MORE).improved == refine(noisy, **MORE).improved
    assert codes(clean) == codes(noisy)


def test_what_cannot_be_refined_is_refused(tmp_path: Path) -> None:
    store = _dataset(tmp_path)
    with pytest.raises(UsageError, match=r"shards 0-1 of fit base are not fitted yet: run fpipe fit-objects"):
        refine(store)
    _fit_all(store)
    with pytest.raises(ConfigError, match="both 0: nothing would be fitted"):
        refine(store, latent_steps=0, rgb_steps=0)
    with pytest.raises(StoreMismatchError, match="dtype: float16"):
        refine(store, dtype="float32")
    with pytest.raises(UsageError, match="no fit 'nobody'"):
        refine_fit(store, config(), "nobody", "all", Session(), Silent(), "fpipe", {})  # type: ignore[arg-type]
    with Lease(store, "fpipe retry /data"), pytest.raises(LeaseHeldError, match="fpipe retry /data"):
        refine(store)
    assert PlanesStore.open(store, "base").sidecar(0).generation == 0


def test_the_same_command_goes_on_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, whole = fitted(tmp_path / "store"), fitted(tmp_path / "whole")
    assert refine(whole, **MORE).improved == 5
    real = refine_stage.refine_shard

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if kwargs["shard"] == 1:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(refine_stage, "refine_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        refine(store, **MORE)
    monkeypatch.undo()
    assert dataset_status(store)["next"] == f"fpipe fit-objects {store.url} --refine"
    with pytest.raises(StoreMismatchError, match=r"fit.latent_steps: 60 \(existing\) -> 61 \(asked for\)"):
        refine(store, **{**MORE, "latent_steps": 61})
    assert dataset_status(store)["next"] == f"fpipe fit-objects {store.url} --refine", "refused, nothing done"
    result = refine(store, **MORE, batch=1)
    assert (result.shards, result.skipped, result.times, result.improved) == (2, 1, 1, 5)
    planes, other = PlanesStore.open(store, "base"), PlanesStore.open(whole, "base")
    for row in FITTED:  # batch=1 may round otherwise
        np.testing.assert_allclose(planes.read(row).coefficients, other.read(row).coefficients, atol=1e-3)
    assert dataset_status(store)["next"] != f"fpipe fit-objects {store.url} --refine"
    assert refine(store, "0", **MORE).times == 2
    behind = refine(store, "1", latent_steps=4)
    assert (behind.times, behind.skipped) == (2, 0)
    assert verify(store, full=True) == []
    refine(store, "0", **MORE)
    assert collect_facts(store)["refined"] == "3 times: 1 shard; twice: 1 shard"


def test_a_shard_that_could_not_be_done_is_reported_and_the_round_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fitted(tmp_path)

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(refine_stage, "refine_shard", broken)
    with pytest.raises(ShardsFailedError, match="a bug"):
        refine(store, **MORE)
    monkeypatch.undo()
    assert PlanesStore.open(store, "base").journal().open == frozenset()
    assert refine(store, **MORE).times == 1


def test_a_reader_sees_the_old_fit_or_the_new_one(tmp_path: Path) -> None:
    store = fitted(tmp_path)
    reader, late = PlanesStore.open(store, "base"), PlanesStore.open(store, "base")
    old = codes(store)
    held = reader.read(0)
    refine(store, "0", **MORE)
    with pytest.raises(StaleSnapshotError):
        reader.read(0)
    with pytest.raises(StaleSnapshotError):
        reader.metrics()
    assert np.asarray(held.micro).tobytes() + held.coefficients.tobytes() == old[0]
    reader.refresh()
    new = codes(store)
    for planes in (reader, late):
        fit = planes.read(0)
        assert np.asarray(fit.micro).tobytes() + fit.coefficients.tobytes() == new[0] != old[0]
        assert planes.metrics()["psnr_db"][0] == np.float32(fit.metrics["psnr_db"])
