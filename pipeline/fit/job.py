"""One shard of the fit stage, end to end: views → codes → held-out figures → shard file.

A shard is fitted by one task and committed once. What is wrong with an object is recorded with that object.
Figures are measured on what the store will hold (micro planes rounded to the stored type), with the real
decoder, on held-out views, which are read for nothing else.
"""

from __future__ import annotations

import logging
import math
import secrets
import shlex
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from pipeline import metrics
from pipeline.evaluate import evaluate_object
from pipeline.fit.codes import InitCode
from pipeline.fit.config import FitConfig
from pipeline.fit.optimise import fit_stream
from pipeline.fit.resources import ONE_CORE, FitResources, planned_batch
from pipeline.fit.settings import FittedCode
from pipeline.fit_views import FitRenderer
from pipeline.model.shared import RegimeOneCodes, SharedComponents, load_regime_one, load_shared
from pipeline.shard_spec import shards_text
from pipeline.train.training_views import TrainingViews
from render_jobs.job import repro_command as render_repro
from storage.errors import IntegrityError, ObjectUnavailableError, UsageError
from storage.planes import PlanesShardBuilder, PlanesStore
from storage.records import NO_VIEWS, Failure, ObjectFit, ObjectViews, Status
from storage.store import Store
from storage.views import ViewsStore

LOGGER = logging.getLogger(__name__)


def fit_shard(
    root_url: str, fit_name: str, shard: int, attempt: str, resources: FitResources = ONE_CORE
) -> dict[str, Any]:
    """Fit one shard and commit it; a shard that is done is skipped, a committed one only published.

    Args:
        root_url: The dataset.
        fit_name: Name of the fit; its header says which shared components and configuration.
        shard: Shard number of the fit.
        attempt: Names this attempt; a random part is added, so that a repeated call is another attempt.
        resources: What the task computes with.

    Returns:
        shard, attempt, n_ok, n_failed, skipped, and seconds, psnr_db, n_bytes when it was fitted now.

    Raises:
        UsageError: No dataset, no such fit or shard, or views of the shard are not rendered; names them.
        IntegrityError: Stored shared components are damaged.
        TransientError: The store kept failing; worth another attempt.
    """
    torch.set_num_threads(resources.threads)
    store = Store(root_url)
    planes, views = PlanesStore.open(store, fit_name), ViewsStore.open(store)
    rows = planes.object_rows(shard)
    if planes.is_done(shard) or planes.publish_committed(shard):
        attempt = planes.sidecar(shard).attempt
        return {"shard": shard, "attempt": attempt, "skipped": True, **planes.counts(shard)}
    _require_views(views, rows)
    started = time.monotonic()
    worker = ShardFitter.of_fit(store, planes, resources)
    with planes.builder(shard, f"{attempt}-{secrets.token_hex(4)}") as builder:
        figures = worker.add(builder, views, rows)
        seconds = time.monotonic() - started
        commit = builder.commit({"seconds": seconds, **worker.circumstances()})
    summary = {"shard": shard, "attempt": commit.attempt, "skipped": False, **planes.counts(shard)}
    psnr = float(np.nanmean(figures)) if np.isfinite(figures).any() else None
    return {**summary, "seconds": seconds, "psnr_db": psnr, "n_bytes": commit.n_bytes}


def _require_views(views: ViewsStore, rows: Sequence[int]) -> None:
    shards = sorted({views.shard_of(row) for row in rows})
    missing = [shard for shard in shards if not views.is_done(shard)]
    if missing:
        names = shards_text(missing)
        raise UsageError(
            f"views of shards {names} are not rendered; run fpipe render {views.store.url} --shard {names}"
        )


class UnusableFitError(ValueError):
    """A fit came to nothing: a recorded failure of the object. Any other error is one of the program."""


@dataclass(frozen=True)
class ShardFitter:
    """Fits objects with one version of the shared components.

    Attributes:
        shared: Frozen shared components.
        codes: Codes of the jointly trained objects, from which these start.
        config: How objects are fitted.
        resources: What it computes with.
        batch: Objects at a time: the configured number, or as many as there is memory for.
        root_url: The dataset, for the command that reproduces a failure.
        fit_name: The fit, for the same.
    """

    shared: SharedComponents
    codes: RegimeOneCodes
    config: FitConfig
    resources: FitResources
    batch: int
    root_url: str
    fit_name: str

    @classmethod
    def of_fit(
        cls, store: Store, planes: PlanesStore, resources: FitResources, config: FitConfig | None = None
    ) -> ShardFitter:
        """Load what the header of a fit names; another configuration than the header's may be given."""
        version = planes.header.shared_version
        config = config or FitConfig.model_validate(planes.header.fit_config)
        shared, codes = load_shared(store, version, resources.device), load_regime_one(store, version)
        shared.renderer.kernel = resources.kernel
        n_views = planes.plan.header.n_views  # some of them are held out
        batch = config.batch or planned_batch(shared, config.settings(), n_views, resources)
        return cls(shared, codes, config, resources, batch, store.url, planes.header.name)

    def circumstances(self) -> dict[str, Any]:
        """What a shard's record says of how it was made."""
        return {"host": socket.gethostname(), "batch": self.batch, **asdict(self.resources)}

    def add(self, builder: PlanesShardBuilder, views: ViewsStore, rows: Sequence[int]) -> list[float]:
        """Fit rows and put them into a shard; return their PSNR."""
        kept: dict[str, tuple[int, ObjectViews]] = {}

        def usable() -> Iterator[tuple[str, ObjectViews]]:
            for row in rows:
                found = self._read_views(builder, views, row)
                if found is not None:
                    object_id = views.plan.rows[row].object_id
                    kept[object_id] = (row, found)
                    yield object_id, found

        figures: list[float] = []
        for result in self.fit(usable()):
            figures += self._store(builder, *kept.pop(result.object_id), result)
        return figures

    def _read_views(self, builder: PlanesShardBuilder, views: ViewsStore, row: int) -> ObjectViews | None:
        """Views of one object; without any to learn from the object is recorded as absent or failed."""
        object_id = views.plan.rows[row].object_id
        try:
            found = views.read(row)
            if not found.heldout.all():
                return found
            failure = Failure("no_training_views", f"all {len(found.heldout)} views are held out")
            builder.fail(row, self._with_repro(failure, object_id))
        except ObjectUnavailableError as error:
            if error.status == Status.ABSENT:
                builder.leave_absent(row)
            else:
                render_again = render_repro(self.root_url, error.object_id)  # the cause is there
                builder.fail(row, Failure(NO_VIEWS, f"rendering failed: {error.reason}", repro=render_again))
        except IntegrityError as error:
            failure = Failure("damaged_views", str(error))
            builder.fail(row, self._with_repro(failure, object_id))
        return None

    def _with_repro(self, failure: Failure, object_id: str) -> Failure:
        return replace(failure, repro=repro_command(self.root_url, self.fit_name, object_id))

    def fit(
        self,
        objects: Iterable[tuple[str, ObjectViews]],
        start_of: Callable[[str], InitCode | None] | None = None,
        seed: int | None = None,
    ) -> Iterator[FittedCode]:
        """Fit objects, as many at a time as `batch` says; yield each when it is done.

        They start from the codes that ``start_of`` gives for their ids; without it jointly trained objects
        start from their own codes, others from the mean object. ``seed`` stands in for the configured one.
        """
        seed = self.config.seed if seed is None else seed
        start_of = start_of or self.codes.of
        starts = (
            (
                TrainingViews.of(object_id, v.images, v.cam2world, v.intrinsics, v.heldout, v.has_alpha),
                start_of(object_id),
            )
            for object_id, v in objects
        )
        return fit_stream(self.shared, starts, self.config.settings(), seed, self.batch)

    def _store(
        self,
        builder: PlanesShardBuilder,
        row: int,
        views: ObjectViews,
        result: FittedCode,
    ) -> list[float]:
        """Round, evaluate and add one object, or record why it cannot be used."""
        try:
            fit = self.measured(self.rounded(result), views)
        except UnusableFitError as error:
            LOGGER.warning("%s: fit failed: %s", result.object_id, error)
            builder.fail(row, self._with_repro(Failure(result.failure_kind, str(error)), result.object_id))
            return []
        info = {
            "seconds": result.seconds,
            "cpu_seconds": result.cpu_seconds,  # whatever else runs there
            "steps": list(result.steps),
            "curve": [[step, loss] for step, loss in result.curve],
        }
        builder.add(row, fit, info)
        psnr_db = fit.metrics.get("psnr_db", math.nan)
        LOGGER.debug("%s: %.2f dB in %.1f s", result.object_id, psnr_db, result.seconds)
        return [psnr_db]

    def rounded(self, result: FittedCode) -> ObjectFit:
        """The fit as the store will hold it.

        Raises:
            UnusableFitError: It failed, or has values that are not finite or beyond the stored type.
        """
        if result.failure is not None:
            raise UnusableFitError(result.failure)
        with np.errstate(over="ignore"):  # an overflow becomes inf
            micro = None if result.micro is None else result.micro.astype(self.config.dtype)
        if not all(np.isfinite(own).all() for own in (micro, result.coefficients) if own is not None):
            raise UnusableFitError("values that are not finite, or beyond the stored type")
        regime = 1 if result.object_id in self.codes.ids else 2
        return ObjectFit(micro, result.coefficients, regime)

    def measured(self, fit: ObjectFit, views: ObjectViews) -> ObjectFit:
        """The fit with its held-out figures; raises what `evaluate` does."""
        return replace(fit, metrics=self.evaluate(fit, views))

    def evaluate(self, fit: ObjectFit, views: ObjectViews) -> dict[str, float]:
        """Held-out figures of a fit; empty when the object has no held-out view.

        Raises:
            UnusableFitError: What it renders is not finite.
        """
        heldout, train = views.heldout, ~views.heldout
        if not heldout.any():
            return {}
        renderer = FitRenderer(self.shared)
        cameras = views.cam2world[heldout]
        rendered = renderer.render(fit.micro, fit.coefficients, cameras, views.intrinsics[heldout])
        if not np.isfinite(rendered).all():
            raise UnusableFitError("the rendering of a held-out view holds values that are not finite")
        return evaluate_object(
            rendered,
            renderer.ceiling(metrics.composite(views.images[heldout])),
            views.images[heldout],
            cameras,
            views.images[train],
            views.cam2world[train],
        )


def repro_command(root_url: str, fit_name: str, object_id: str) -> str:
    """Return the command that fits one object again, alone, and says what happens."""
    return shlex.join(["fpipe", "repro", root_url, object_id, "--stage", "fit", "--name", fit_name])
