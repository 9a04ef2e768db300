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
from pipeline.compute import usable_cores
from pipeline.config import PipelineConfig
from pipeline.forecast_costs import Cost, Load, stage_figures
from pipeline.forecast_history import measured_before
from pipeline.forecast_memory import worker_memory
from pipeline.forecast_requests import fit_requests, render_requests
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

RAY_START_S = 15.0
"""Seconds for Ray and its worker processes to start, once per command; seen on 2 cores: 6 to 20."""
MOST_AT_A_TIME = 8
"""Fits of one step on a processor, see `pipeline.fit.resources`, which needs torch."""
STAGES = ("render", "train_shared", "fit_objects")


def forecast(
    config: PipelineConfig,
    calibrate: bool = True,
    prices: Mapping[str, float] | None = None,
    earlier: Store | None = None,
) -> dict[str, Any]:
    """Returns counts, bytes and requests and, when calibrated, hours, seconds and money per stage.

    Args:
        config: resolved configuration.
        calibrate: measure on a few objects (about a minute on 2 cores); without it no times are given.
        prices: name → price, see `pipeline.prices.read_prices`; None for no money.
        earlier: a finished dataset whose runs say what an object costs; nothing is measured then.

    Raises:
        UsageError: the source's folder is missing, it has too few objects, or the earlier runs do not say.
    """
    config, entries = planned(config)
    workers = config.compute.workers or usable_cores()
    n, views, train = len(entries), config.render.views, config.train
    planes_bytes = sum(code_bytes(train.f_mic, train.resolution, train.n_base, config.fit.dtype))
    views_shard = choose_objects_per_shard(n, shard_bytes_per_object(config), workers)
    fits_shard = _fits_per_shard(config, n, workers)
    measured = None
    if earlier is not None:
        measured = measured_before(earlier, config)
    elif calibrate:
        measured = calibrated(config, entries, min(fits_shard, config.fit.batch or MOST_AT_A_TIME))
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
            "planes": n * planes_bytes,
            "views_per_object": object_bytes,
            "passes_per_object": pass_bytes,
            "planes_per_object": planes_bytes,
            "shared": measured.shared_bytes if measured else None,
        },
        "memory": worker_memory(config, n),
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
    rendering = render_requests(n, views_shard, len(passes))
    fitting = fit_requests(n, fits_shard, views_shard)
    trained, ranks = min(config.train.objects, n), config.compute.train_workers
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
            1, 1, 0, trained + n_views_shards, shared, learned + shared, ranks * compute.train_gpus
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
    """Returns the likely wall seconds per stage, with what starts once; None where nothing was measured."""
    walls = {name: stage["wall_s"] and stage["wall_s"]["likely"] for name, stage in stages.items()}
    if not any(wall is not None for wall in walls.values()):
        return None
    seconds = {"start": RAY_START_S, **walls}
    known = [value for value in seconds.values() if value is not None]
    total = sum(known) if len(known) == len(seconds) else None
    rounded = {name: None if value is None else round(value, 1) for name, value in seconds.items()}
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
