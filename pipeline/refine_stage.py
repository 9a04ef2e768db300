"""Fits the objects of a finished fit further (`fpipe fit-objects --refine`), shard by shard.

A command brings the chosen shards that were refined least one refinement further. So after an interruption
the same command does those that are left, and after a complete refinement it begins the next one. Shards are
replaced in a round (see `storage.replacement`) under the dataset's lease.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from pipeline.compute import ComputeSession
from pipeline.config import PipelineConfig
from pipeline.fit.refine import refine_shard
from pipeline.fit.resources import FitResources
from pipeline.progress import Progress
from pipeline.refinements import OBJECT_NOTE, refinements
from pipeline.run import Run, record_run
from pipeline.shard_spec import parse_shards, shards_text
from pipeline.sidecars import REQUESTS
from pipeline.stages import FAILED_OBJECTS_EXIT_CODE, ShardsFailedError, StageResult, run_shards
from pipeline.statistics_stage import store_statistics
from pipeline.writers import require_writers
from storage.documents import differences
from storage.errors import ConfigError, StoreMismatchError, UsageError
from storage.lease import Lease
from storage.planes import FitHeader, PlanesStore
from storage.records import Status
from storage.replacement import Round, finish_round, open_round
from storage.shards import Sidecar
from storage.store import Store
from storage.summary import update_summary

T = TypeVar("T")

NAMED: Final = 20
"""Objects that could not be refined which a result names at most."""


@dataclass
class RefineResult:
    """What a refinement did, including what an interrupted command did of it before.

    Attributes:
        fit: Name of the fit.
        shards: Shards that were asked for.
        skipped: Those of them that were refined before this command began.
        times: How often they are refined now.
        refined: Objects that were fitted further.
        improved: Those that are better on their training views, and got their new code.
        failures: Objects whose code stays because they could not be fitted further, object id → reason; not
            more than `NAMED`.
        n_failures: Their number.
        without_fit: Objects of the shards that have no fit: a retry's business.
        psnr_db: Mean on held-out views before and after, of the objects refined; None where no view is held
            out.
        seconds: Wall time of this command.
    """

    fit: str
    shards: int = 0
    skipped: int = 0
    times: int = 0
    refined: int = 0
    improved: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    n_failures: int = 0
    without_fit: int = 0
    psnr_db: tuple[float, float] | None = None
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Returns the result as plain JSON values."""
        return {**vars(self), "psnr_db": None if self.psnr_db is None else list(self.psnr_db)}

    @property
    def exit_code(self) -> int:
        """0, or 42 while objects of the shards have no fit or could not be fitted further."""
        return FAILED_OBJECTS_EXIT_CODE if self.without_fit or self.n_failures else 0


@dataclass(frozen=True)
class _Shard:
    """What is known about a shard before it is refined.

    Attributes:
        times: How often it was.
        last: Configuration of the last refinement.
        n_objects: Those that have a fit.
    """

    times: int
    last: dict[str, Any]
    n_objects: int


def refine_fit(
    store: Store,
    config: PipelineConfig,
    name: str,
    shards: str,
    session: ComputeSession,
    progress: Progress,
    command: str,
    environment: Mapping[str, str],
) -> RefineResult:
    """Fits objects further from their stored codes; those that get worse on training views keep theirs.

    Args:
        store: The dataset.
        config: Resolved configuration; `fit` may differ from the one that made the fit, except in `dtype`.
        name: Of the fit.
        shards: The text of `--shard`.
        session: Computes.
        progress: Is told.
        command: Shown to others who want to change the dataset meanwhile, and to whoever finds it
            interrupted.
        environment: For `--shard auto`.

    Raises:
        UsageError: No dataset or fit, or chosen shards that are not fitted.
        ConfigError: No steps.
        StoreMismatchError: Another `dtype`, or other settings than the refinement that this goes on with.
        LeaseHeldError: Somebody else is replacing shards.
        ShardsFailedError: Some shards could not be done; the others are.
    """
    planes = PlanesStore.open(store, name)
    _check_config(planes.header, config)
    chosen = planes.with_objects(parse_shards(shards, planes.n_shards, environment))
    _require_done(planes, chosen)
    if not chosen:
        return RefineResult(name)
    require_writers(store, config.compute, shards)
    with Lease(store, command) as lease:
        planes.refresh()
        found = dict(zip(chosen, _each_sidecar(planes, chosen, _shard), strict=True))
        times = min(shard.times for shard in found.values()) + 1
        _require_same_settings(config, [shard for shard in found.values() if shard.times == times])
        done = frozenset(shard for shard in chosen if found[shard].times >= times)
        current = open_round(planes, lease.token, set(chosen) - done, command)  # ends one that was killed
        sizes = {shard: found[shard].n_objects for shard in chosen}
        with record_run(store, "refine-fit", config.model_dump(mode="json")) as run:
            unfinished = None
            try:
                stage = _run(planes, config, current, sizes, done, session, progress, run)
            except ShardsFailedError as error:
                unfinished, stage = error, error.result
            finish_round(planes, lease.token)
            update_summary(planes)
            store_statistics(planes, progress)
            result = _look_again(planes, chosen, times)
            result.skipped, result.seconds = len(done), stage.seconds
            run.summary = {**run.summary, **result.as_json()}
            if unfinished is not None:
                raise unfinished
    return result


def _run(
    planes: PlanesStore,
    config: PipelineConfig,
    current: Round,
    sizes: Mapping[int, int],
    done: frozenset[int],
    session: ComputeSession,
    progress: Progress,
    run: Run,
) -> StageResult:
    fit_config, compute = config.content("fit"), config.compute
    arguments = {
        "root_url": planes.store.url,
        "fit_name": planes.header.name,
        "fit_config": fit_config,
        "resources": FitResources.of(compute.fit_cpus, compute.fit_gpus, compute.kernel),
        **vars(current),
    }
    return run_shards(
        f"refine {planes.header.name}",
        session.executor,
        refine_shard,
        arguments,
        sorted(sizes),
        sizes,
        done,
        compute.fit_task(),
        progress,
        run,
    )


def _check_config(header: FitHeader, config: PipelineConfig) -> None:
    fit = config.fit
    if not fit.latent_steps and not fit.rgb_steps:
        raise ConfigError("--refine: fit.latent_steps and fit.rgb_steps are both 0: nothing would be fitted")
    if fit.dtype != header.dtype:
        raise StoreMismatchError(
            f"fit.dtype: {header.dtype} (fit {header.name}) -> {fit.dtype}: a refinement keeps the stored "
            "type; fit the objects under another --name"
        )


def _require_done(planes: PlanesStore, chosen: Sequence[int]) -> None:
    missing = sorted(set(chosen) - planes.done())
    if missing:
        names = shards_text(missing)
        raise UsageError(
            f"--refine: shards {names} of fit {planes.header.name} are not fitted yet: run fpipe fit-objects "
            f"{planes.store.url} --name {planes.header.name} --shard {names}, or choose others with --shard"
        )


def _each_sidecar(planes: PlanesStore, shards: Sequence[int], take: Callable[[Sidecar], T]) -> list[T]:
    """What `take` makes of each sidecar of one snapshot."""
    with ThreadPoolExecutor(REQUESTS) as pool:
        return list(pool.map(lambda shard: take(planes.sidecar(shard)), shards))


def _shard(sidecar: Sidecar) -> _Shard:
    notes = refinements(sidecar)
    n_objects = int((sidecar.status == Status.OK).sum())
    return _Shard(len(notes), notes[-1].fit_config if notes else {}, n_objects)


def _require_same_settings(config: PipelineConfig, done: Sequence[_Shard]) -> None:
    """Refuses to go on with a refinement under other settings: a fit would hold two kinds of objects."""
    own = config.content("fit")
    for shard in done:
        found = differences({**own, "batch": None}, {**shard.last, "batch": None}, "fit")
        if found:
            raise StoreMismatchError(
                f"--refine: {len(done)} of the chosen shards are refined further than the others, with other "
                f"settings: {'; '.join(found[:8])}. Give the same ones to finish that refinement, or choose "
                "shards with --shard"
            )


def _look_again(planes: PlanesStore, chosen: Sequence[int], times: int) -> RefineResult:
    """Counts what the refinement did in the shards that are refined so often, by whichever command."""
    result = RefineResult(planes.header.name, shards=len(chosen), times=times)
    pairs: list[tuple[float, float]] = []
    for without_fit, notes in _each_sidecar(planes, chosen, lambda sidecar: _notes(sidecar, times)):
        result.without_fit += without_fit
        for object_id, note in notes:
            if "failure" in note:
                result.n_failures += 1
                if len(result.failures) < NAMED:
                    result.failures[object_id] = note["failure"]
                continue
            result.refined += 1
            result.improved += bool(note["improved"])
            if None not in note["psnr_db"]:
                pairs.append((note["psnr_db"][0], note["psnr_db"][1]))
    if pairs:
        before, after = zip(*pairs, strict=True)
        result.psnr_db = (sum(before) / len(pairs), sum(after) / len(pairs))
    return result


def _notes(sidecar: Sidecar, times: int) -> tuple[int, list[tuple[str, dict[str, Any]]]]:
    """Objects without a fit, and what the last refinement noted of the others if it is number `times`."""
    without_fit = int((sidecar.status == Status.FAILED).sum())
    if len(refinements(sidecar)) != times:
        return without_fit, []
    notes = [(record.object_id, record.info.get(OBJECT_NOTE)) for record in sidecar.objects]
    return without_fit, [(object_id, note) for object_id, note in notes if note is not None]
