"""Says before anything runs what a dataset will hold and cost: views, bytes, requests, hours, money.

What an object costs comes from doing a little of every stage on a few objects (`pipeline.calibration`).
Limits: objects vary, which the ranges say; meshes that are fetched over a network are not counted, nor is the
report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipeline.calibration import Measured, calibrated
from pipeline.calibration_fit import FitBytes
from pipeline.compute import usable_cores
from pipeline.config import PipelineConfig
from pipeline.forecast_costs import Cost, Load, stage_figures
from pipeline.forecast_history import measured_before
from pipeline.forecast_memory import worker_memory
from pipeline.forecast_requests import fit_command, render_command, train_command
from pipeline.planned import planned
from pipeline.render_stage import (
    pass_bytes_per_object,
    render_resources,
    shard_bytes_per_object,
    views_bytes_per_object,
)
from storage.plan import choose_objects_per_shard, shard_count
from storage.planes import code_bytes
from storage.store import Store

STATISTICS_BYTES_PER_CHANNEL = 500
"""Stored bytes of a shard's statistics, where nothing was measured; seen with preset demo: 464 to 481."""
STAGES = ("render", "train_shared", "fit_objects")


def forecast(
    config: PipelineConfig,
    calibrate: bool = True,
    prices: Mapping[str, float] | None = None,
    earlier: Store | None = None,
    fit: str = "default",
) -> dict[str, Any]:
    """Returns counts, bytes and requests and, when calibrated, hours, seconds and money per stage.

    Args:
        config: resolved configuration.
        calibrate: measure on a few objects (about a minute on 2 cores); without it no times are given.
        prices: name → price, see `pipeline.prices.read_prices`; None for no money.
        earlier: a finished dataset whose runs say what an object costs; nothing is measured then.
        fit: name of the fit that will be made.

    Raises:
        UsageError: the source's folder is missing, it has too few objects, or the earlier runs do not say.
    """
    config, entries = planned(config)
    workers = config.compute.workers or usable_cores()
    n, views, train = len(entries), config.render.views, config.train
    views_shard = choose_objects_per_shard(n, shard_bytes_per_object(config), workers)
    fits_shard = _fits_per_shard(config, n, workers)
    measured = None
    if earlier is not None:
        measured = measured_before(earlier, config)
    elif calibrate:
        measured = calibrated(config, entries, fits_shard)
    planes = (measured and measured.planes) or _planes_bytes(config)
    planes_bytes = n * planes.per_object + shard_count(n, fits_shard) * planes.per_shard
    object_bytes = measured.views_bytes if measured else views_bytes_per_object(config)
    pass_bytes = measured.pass_bytes if measured else pass_bytes_per_object(config)
    found: dict[str, Any] = {
        "objects": n,
        "classes": dict(Counter(entry.class_name for entry in entries)),
        "views": n * views,
        "views_per_object": views,
        "size_px": [config.render.height, config.render.width],
        "regime1_objects": min(train.objects, n),
        "view_shards": shard_count(n, views_shard),
        "bytes": {
            "views": n * object_bytes,
            "passes": {name: n * n_bytes for name, n_bytes in pass_bytes.items()},
            "planes": planes_bytes,
            "views_per_object": object_bytes,
            "passes_per_object": pass_bytes,
            "planes_per_object": planes_bytes // n,
            "shared": measured.shared_bytes if measured else None,
        },
        "memory": worker_memory(config, n),
        "fit": fit,
        "workers": workers,
        "basis": measured.basis if measured else None,
    }
    loads = _loads(config, found["bytes"], n, views_shard, fits_shard)
    costs = _costs(config, measured)
    at_a_time = {"train_shared": 1}
    found["stages"] = {
        name: stage_figures(loads[name], costs[name], at_a_time.get(name, workers), dict(prices or {}))
        for name in STAGES
    }
    found["seconds"] = _seconds(found["stages"])
    found["money"] = _money(found["stages"], dict(prices or {}))
    return found


def _planes_bytes(config: PipelineConfig) -> FitBytes:
    """Returns what follows from the sizes: codes, which are not compressed, and statistics from above."""
    train = config.train
    channels = 3 * (train.f_mic + (train.f_mac if train.n_base else 0))
    own = sum(code_bytes(train.f_mic, train.resolution, train.n_base, config.fit.dtype))
    return FitBytes(own, channels * STATISTICS_BYTES_PER_CHANNEL)


def _fits_per_shard(config: PipelineConfig, n: int, workers: int) -> int:
    """Returns S of the fits, see `pipeline.fit_stage.fit_header`."""
    train = config.train
    micro_bytes, _ = code_bytes(train.f_mic, train.resolution, train.n_base, config.fit.dtype)
    return choose_objects_per_shard(n, micro_bytes + 4096, workers, at_least=config.least_fit_objects())


def _loads(
    config: PipelineConfig, sizes: Mapping[str, Any], n: int, views_shard: int, fits_shard: int
) -> dict[str, Load]:
    """Returns what every stage does; each reads what the one before it has stored."""
    passes = sizes["passes"]
    rendered = sizes["views"] + sum(passes.values())
    n_views_shards, n_fits_shards = shard_count(n, views_shard), shard_count(n, fits_shard)
    rendering = render_command(n, views_shard, len(passes))
    fitting = fit_command(n, fits_shard, views_shard)
    trained, ranks = min(config.train.objects, n), config.compute.train_workers
    training = train_command(trained, n_views_shards)
    shared = sizes["shared"] or 0
    learned = trained * sizes["views_per_object"]
    read = sizes["views"] + n_fits_shards * shared
    compute = config.compute
    return {
        "render": Load(
            n, n_views_shards, rendering.puts, rendering.gets, rendered, rendered,
            render_resources(compute).gpus,
        ),
        "train_shared": Load(
            1, 1, training.puts, training.gets, shared, learned + shared, ranks * compute.train_gpus
        ),
        "fit_objects": Load(
            n, n_fits_shards, fitting.puts, fitting.gets, sizes["planes"], sizes["planes"] + read,
            compute.fit_gpus,
        ),
    }  # fmt: skip


def _costs(config: PipelineConfig, measured: Measured | None) -> dict[str, Cost | None]:
    """Returns what is known of every stage: a processor says nothing about the time that a GPU takes."""
    if measured is None:
        return dict.fromkeys(STAGES)
    on_gpu = {"train_shared": config.compute.train_gpus, "fit_objects": config.compute.fit_gpus}
    costs = {"render": measured.render, "train_shared": measured.train, "fit_objects": measured.fit}
    if measured.knows_gpus:
        return costs
    return {name: None if on_gpu.get(name) else cost for name, cost in costs.items()}


def _seconds(stages: Mapping[str, Any]) -> dict[str, float | None] | None:
    """Returns the likely wall seconds per stage, each a command; None where nothing was measured."""
    walls = {name: stage["wall_s"] and stage["wall_s"]["likely"] for name, stage in stages.items()}
    known = [value for value in walls.values() if value is not None]
    if not known:
        return None
    total = sum(known) if len(known) == len(walls) else None
    rounded = {name: None if value is None else round(value, 1) for name, value in walls.items()}
    return {**rounded, "total": None if total is None else round(total, 1)}


def _money(stages: Mapping[str, Any], prices: dict[str, float]) -> dict[str, Any] | None:
    """Returns what computing costs in all, and a month of what stays; None without prices."""
    if not prices:
        return None
    spent = [stage["money"] for stage in stages.values()]
    stored = sum(stage["bytes"]["stored"] for stage in stages.values())
    total = None
    if all(spent):
        total = {name: round(sum(money[name] for money in spent), 6) for name in ("low", "likely", "high")}
    per_month = stored / 1e9 * prices.get("gb-month", 0.0)
    return {"prices": prices, "total": total, "storage_per_month": round(per_month, 6)}
