"""What objects cost in an earlier dataset, from the usage in the events of its runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from pipeline.calibration import Measured
from pipeline.calibration_fit import FitBytes
from pipeline.config import PipelineConfig
from pipeline.forecast_costs import Cost, Range
from pipeline.planned import stored_config
from pipeline.report.records import StageRun
from pipeline.report.run_records import read_runs
from pipeline.shard_table import shard_rows
from storage.documents import differences
from storage.errors import UsageError
from storage.passes import PassStore
from storage.planes import PlanesStore, published_fit
from storage.shared import read_published_shared, rendering_files
from storage.store import Store
from storage.views import ViewsStore

IGNORED = {"render": {"seed"}, "train": {"objects", "seed"}, "fit": {"seed"}}
"""Fields that do not change what an object costs."""
SHARDS_LOOKED_AT = 16
"""For the bytes of their channel statistics."""
Shards = dict[str, list[dict[str, Any]]]


def finished_shards(store: Store, fit: str) -> Shards:
    """Returns stage → rows of the shards that were computed, see `pipeline.shard_table.shard_rows`.

    Of the shards of fits only those of one fit.
    """
    found: Shards = defaultdict(list)
    for row in shard_rows(store):
        known = row["state"] == "done" and row["n_ok"] and row["cpu_seconds"] is not None
        if known and row["fit"] in (None, fit):
            found[row["stage"]].append(row)
    return found


def measured_before(store: Store, config: PipelineConfig) -> Measured:
    """Returns what objects of an earlier dataset cost; a shard's time is spread evenly over its objects.

    Args:
        store: the earlier dataset.
        config: what is to be forecast.

    Raises:
        UsageError: There is no dataset or no finished run of a stage, or an object would cost something else
            there: names the settings that differ.
    """
    _require_same(store, config)
    fit = _published_fit(store)
    shards = finished_shards(store, fit)
    # The latest of each stage.
    runs = {run.stage: run for run in read_runs(store) if run.seconds and run.fit in (None, fit)}
    trained = runs.get("train-shared")
    if trained is not None and (
        trained.summary.get("resumed_after_step") or not trained.summary.get("cpu_seconds")
    ):
        trained = None  # what it took before it was resumed is not known
    published = read_published_shared(store)
    needed = {name: name in runs and bool(shards.get(name)) for name in ("render", "fit-objects")}
    missing = [name for name, there in needed.items() if not there]
    if trained is None or published is None:
        missing.append("train-shared")
    if missing or trained is None or published is None:
        raise UsageError(
            f"--from {store.url}: no run of {', '.join(missing)} there says all that it took (a training that"
            " was resumed does not); leave --from out to measure on a few objects"
        )
    views = ViewsStore.open(store)
    n_ok = sum(row["n_ok"] for row in shards["render"])
    whole = Range.of([trained.seconds or 0.0])
    _require_same_devices(store, config, runs)
    return Measured(
        basis=(
            f"runs of {store.url}: low and high as if every shard cost per object as the cheapest and the"
            " dearest there; of a training there is one figure"
        ),
        views_bytes=sum(row["n_bytes"] for row in shards["render"]) // n_ok,
        pass_bytes={name: PassStore.open(store, name).n_bytes() // n_ok for name in _passes(views)},
        shared_bytes=sum(rendering_files(store, str(published["shared_version"])).values()),
        planes=_planes_bytes(store, fit, shards["fit-objects"]),
        render=_per_object(shards["render"]),
        train=Cost(Range.of([trained.training_cpu_s]), whole),
        fit=_per_object(shards["fit-objects"]),
        knows_gpus=True,
    )


def _published_fit(store: Store) -> str:
    try:
        return published_fit(store)
    except UsageError:
        return ""  # there is none, which is said below


def _planes_bytes(store: Store, fit: str, rows: list[dict[str, Any]]) -> FitBytes:
    planes = PlanesStore.open(store, fit)
    blocks = [planes.sidecar(int(row["shard"])).statistics for row in rows[:SHARDS_LOOKED_AT]]
    one = sum(block.n_bytes for block in blocks if block) // len(blocks)
    return FitBytes.of([row["n_bytes"] for row in rows], [row["n_ok"] for row in rows], [one] * len(rows))


def _require_same_devices(store: Store, config: PipelineConfig, runs: Mapping[str, StageRun]) -> None:
    for stage, name in (("train-shared", "train_gpus"), ("fit-objects", "fit_gpus")):
        before = float(runs[stage].config.get("compute", {}).get(name) or 0.0)
        asked = float(getattr(config.compute, name))
        if bool(before) != bool(asked):
            raise UsageError(
                f"--from {store.url}: compute.{name} was {before:g} there, {asked:g} is asked for"
            )


def _passes(views: ViewsStore) -> list[str]:
    return list(views.plan.header.render_config.get("passes", []))


def _per_object(rows: list[dict[str, Any]]) -> Cost:
    def spread(name: str) -> Range:
        each = [row[name] / row["n_ok"] for row in rows]
        mean = sum(row[name] for row in rows) / sum(row["n_ok"] for row in rows)
        return Range(min(each), mean, max(each))

    starts = [row["at_s"] - row["seconds"] for row in rows if row["at_s"] is not None]
    return Cost(spread("cpu_seconds"), spread("seconds"), start_s=max(0.0, min(starts, default=0.0)))


def _require_same(store: Store, config: PipelineConfig) -> None:
    before = stored_config(store)
    if before is None:
        raise UsageError(f"--from {store.url}: there is no dataset")
    published = read_published_shared(store)
    learned = published["config"] if published else before
    sections: Mapping[str, Mapping[str, Any]] = {**learned, "render": before["render"]}
    found = [
        f"{name}.{text}"
        for name, ignored in IGNORED.items()
        for text in differences(
            _without(config.content(name), ignored),  # type: ignore[arg-type]  # the keys are its literals
            _without(sections[name], ignored),
        )
    ]
    if found:
        raise UsageError(
            f"--from {store.url}: an object costs something else there: {'; '.join(found[:8])}. "
            "Leave --from out to measure on a few objects"
        )


def _without(values: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
