"""What was forecast, beside what the runs then took."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.forecast_costs import SECONDS_PER_HOUR
from pipeline.forecast_kept import read_forecast
from pipeline.report.records import ForecastFigure, StageForecast
from pipeline.report.run_records import read_runs
from pipeline.shard_table import shard_rows
from storage.passes import PassStore, stored_passes
from storage.planes import PlanesStore
from storage.shared import read_published_shared, rendering_files
from storage.store import Store
from storage.views import ViewsStore

FITTING = "fit-objects"
STAGES = {"render": "render", "train_shared": "train-shared", "fit_objects": FITTING}


def compared(store: Store) -> list[StageForecast]:
    """Returns the stages that have run beside what was forecast; none where no forecast is kept.

    Of fits only those of the name that was forecast count.
    """
    kept = read_forecast(store)
    if kept is None:
        return []
    rows, runs = list(shard_rows(store)), read_runs(store)
    found = []
    for name, stage in STAGES.items():
        fit = kept["fit"] if stage == FITTING else None
        own = [run for run in runs if run.stage == stage and run.fit == fit and run.seconds is not None]
        if not own:
            continue
        done = [
            row for row in rows if (row["stage"], row["fit"]) == (stage, fit) and row["state"] != "skipped"
        ]
        cpu_s = [row["cpu_seconds"] for row in done if row["cpu_seconds"] is not None]
        cpu_s += [run.training_cpu_s for run in own if "cpu_seconds" in run.summary]
        stored, complete = _stored(store, stage, kept["fit"])
        said = kept["stages"][name]
        found.append(
            StageForecast(
                stage=stage if fit is None else f"{stage} {fit}",
                cpu_s=_figure(said["cpu_hours"], sum(cpu_s) if cpu_s else None, SECONDS_PER_HOUR),
                wall_s=_figure(said["wall_s"], sum(run.seconds or 0.0 for run in own)),
                stored_bytes=ForecastFigure(said["bytes"]["stored"], stored),
                complete=complete,
            )
        )
    return found


def _figure(said: Mapping[str, float] | None, actual: float | None, unit: float = 1.0) -> ForecastFigure:
    if said is None:
        return ForecastFigure(None, actual)
    low, likely, high = (unit * said[name] for name in ("low", "likely", "high"))
    return ForecastFigure(likely, actual, low, high)


def _stored(store: Store, stage: str, fit: str) -> tuple[int | None, bool]:
    """Returns the bytes of what a stage has stored, and whether all of it is there."""
    if stage == "train-shared":
        published = read_published_shared(store)
        if published is None:
            return None, False
        return sum(rendering_files(store, str(published["shared_version"])).values()), True
    if stage == FITTING:
        planes = PlanesStore.open(store, fit)
        return planes.n_bytes(), not planes.shards_left()
    views = ViewsStore.open(store)
    passes = [PassStore.open(store, name) for name in stored_passes(store)]
    return sum(group.n_bytes() for group in (views, *passes)), not views.shards_left()
