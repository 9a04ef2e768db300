"""fpipe's store under test: the calls that the fit stage, its retries, refinements and repairs make."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from storage import layout
from storage.documents import dump_document
from storage.errors import (
    FpipeError,
    LeaseHeldError,
    LeaseLostError,
    StoreMismatchError,
    TransientError,
)
from storage.journal import read_journal
from storage.lease import Lease, lease_holder
from storage.local_files import TEMP_FOLDER
from storage.plan import read_plan, write_plan
from storage.planes import PlanesStore, publish_fit
from storage.reader import open_planes
from storage.records import Failure, ObjectFit, Status
from storage.repair import publish_again
from storage.replacement import FENCE, FENCED, Round, finish_round, open_round, redo_objects, rework_shard
from storage.shards import ShardFile, Sidecar
from storage.shared import META_FILE
from storage.store import Store
from storage.verify import verify
from tests.chaos.content import (
    FIT,
    METRIC,
    fit_header,
    object_id,
    outcome,
    plan_header,
    plan_rows,
    same_fit,
)
from tests.chaos.logbook import LABELS, Logbook
from tests.chaos.subject import ALLOWED, BadReadError, Fate, FinalShard, Reader, Seen

ROUND_SHARDS = 4
LABEL, FIRST = "label", "first"  # entries of an object's info
RACED = "raced-{}"


class OurStore:
    """A dataset of fits.

    Args:
        url: Where.
        n_shards: Shards of the fit.
        lease_s: How long a lease lasts without renewal.
        options: Of the file system.
    """

    def __init__(self, url: str, n_shards: int, lease_s: float, **options: Any) -> None:
        self.url = url
        self.n_shards = n_shards
        self.lease_s = lease_s
        self.options = options
        self.store = Store(url, **options)

    def create(self) -> None:
        header = plan_header(self.n_shards)
        plan = write_plan(self.store, header, plan_rows(header.n_objects))
        PlanesStore.create_or_open(self.store, plan, fit_header(header.n_objects))
        publish_fit(self.store, FIT)
        key = layout.shared_key(fit_header(header.n_objects).shared_version, META_FILE)
        self.store.create(key, dump_document({"files": {}}, readable=True))

    def intrude(self, log: Logbook, rng: random.Random) -> None:
        """Come with another configuration: to the fit, and to one that others make at the same time."""
        plan = read_plan(self.store)
        raced = RACED.format(rng.randrange(3))
        for name, steps in ((FIT, 1), (raced, rng.choice((1, 2)))):
            try:
                PlanesStore.create_or_open(self.store, plan, fit_header(plan.header.n_objects, name, steps))
                log("accepted", fit=name, steps=steps)
            except StoreMismatchError:
                log("refused", fit=name, steps=steps)

    def commit(self, shard: int, attempt: str, log: Logbook, fate: Fate, is_late: bool) -> None:
        planes = PlanesStore.open(self.store, FIT)
        if not is_late and (shard in planes.done() or planes.publish_committed(shard)):
            log("skipped", shard=shard)
            return
        with planes.builder(shard, attempt) as builder:
            labels: LABELS = {}
            for row in planes.shard_rows(shard):
                labels[row] = _fill(builder, row, attempt, is_first=True)
            log("built", shard=shard, attempt=attempt, parent=None, labels=labels)
            fate.tempt()
            try:
                commit = builder.commit({"by": log.actor})
            except ALLOWED as error:  # TransientError: the executor tries again; here with the same builder
                log("transient", shard=shard, message=str(error))
                commit = builder.commit({"by": log.actor})
        log("claimed" if commit.won else "beaten", shard=shard, attempt=attempt, winner=commit.attempt)

    def replace(self, name: str, log: Logbook, fate: Fate, rng: random.Random) -> None:
        planes = PlanesStore.open(self.store, FIT)
        done = sorted(planes.done())
        chosen = rng.sample(done, min(len(done), ROUND_SHARDS))
        if not chosen:
            return
        try:
            with Lease(self.store, name, self.lease_s) as lease:
                current = open_round(planes, lease.token, chosen, name)
                log("round", generation=current.generation, shards=chosen)
                for number, shard in enumerate(chosen):
                    how = rng.choice((_retry, _refine, _refine, _publish))
                    is_twice = rng.random() < 0.3  # a task whose first run was believed to be lost
                    names = [f"{name}.{number}", f"{name}.{number}b"][: 1 + is_twice]
                    fate.tempt()
                    self._at_once(how, shard, names, current, log, rng.random())
                finish_round(planes, lease.token)
                log("finished", generation=current.generation)
        except LeaseHeldError:
            log("lease_held")

    def _at_once(
        self, how: Any, shard: int, names: list[str], current: Round, log: Logbook, seed: float
    ) -> None:
        """Do one shard, twice at the same time when there are two names."""
        others = names[1:]
        threads = [
            threading.Thread(target=self._try, args=(how, shard, other, current, log, seed), daemon=True)
            for other in others
        ]
        for thread in threads:
            thread.start()
        self._try(how, shard, names[0], current, log, seed)
        for thread in threads:
            thread.join()

    def _try(self, how: Any, shard: int, name: str, current: Round, log: Logbook, seed: float) -> None:
        try:
            how(PlanesStore.open(self.store, FIT), shard, name, current, log, random.Random(f"{seed} {name}"))
        except (*ALLOWED, LeaseLostError) as error:
            log("gave_up", shard=shard, attempt=name, message=f"{type(error).__name__}: {error}")

    def settle(self) -> None:
        self.store.sweep()
        planes = PlanesStore.open(self.store, FIT)
        with Lease(self.store, "settle", self.lease_s) as lease:
            finish_round(planes, lease.token)

    def reader(self) -> Reader:
        return _OurReader(self)

    def final(self, shard: int) -> FinalShard:
        planes = PlanesStore.open(self.store, FIT)
        try:
            sidecar = planes.sidecar(shard)
        except TransientError:  # says nothing about the shard
            raise
        except (FileNotFoundError, FpipeError) as error:
            return FinalShard("", {}, [f"{type(error).__name__}: {error}"])
        problems = [] if shard in planes.done() else ["not marked as done"]
        for record in sidecar.objects:
            expected = _expected(record)
            if record.status == Status.FAILED and isinstance(expected, Failure):
                continue
            try:
                if record.status != Status.OK or not same_fit(planes.read(record.row), expected):
                    problems.append(f"{record.object_id} is not what {record.info[LABEL]} made")
            except TransientError:
                raise
            except FpipeError as error:
                problems.append(f"{record.object_id}: {type(error).__name__}: {error}")
        return FinalShard(_attempt(sidecar), _labels(sidecar), problems)

    def leftovers(self) -> list[str]:
        found = [f"{problem.key}: {problem.message}" for problem in verify(self.store, full=True)]
        group = PlanesStore.open(self.store, FIT).spec.group
        if read_journal(self.store, group).open:
            found.append("a round of replacements is open")
        if (holder := lease_holder(self.store)) is not None:
            found.append(f"the lease is held by {holder}")
        folder = self.store.local_path(TEMP_FOLDER)
        if folder is not None:
            found += [f"temporary file {path.name}" for path in _files(folder)]
        return found


class _OurReader:
    def __init__(self, subject: OurStore) -> None:
        self._data = open_planes(subject.url, FIT, **subject.options)
        self._planes = self._data.planes_store

    def refresh(self) -> None:
        self._data.refresh()
        self._compare_columns()

    def rows(self) -> list[int]:
        return [int(row) for row in np.flatnonzero(self._data.status == Status.OK)]

    def read(self, row: int) -> Seen:
        """Each part by a call of its own, as users do."""
        name = object_id(row)
        fit = self._data[name]
        micro = fit.micro(np.float16)
        got = ObjectFit(micro, fit.coefficients(), fit.regime, fit.metrics)
        record = self._planes.record(row)
        if not same_fit(got, _expected(record)):
            raise BadReadError(f"{name}: not what {record.info[LABEL]} made")
        shard = self._planes.shard_of(row)
        return Seen(shard, _attempt(self._planes.sidecar(shard)), row, record.info[LABEL])

    def _compare_columns(self) -> None:
        """Columns come from derived arrays: they must say what the sidecars of the same snapshot say."""
        status, coefficients = self._data.status, self._planes.coefficients()
        metrics = self._planes.metrics()[METRIC]
        for shard in {self._planes.shard_of(row) for row in self.rows()}:
            for record in self._planes.sidecar(shard).objects:
                expected = _expected(record)
                if status[record.row] != record.status:
                    raise BadReadError(f"row {record.row}: status {status[record.row]} is not its sidecar's")
                if isinstance(expected, Failure):
                    continue
                same = np.array_equal(coefficients[record.row], expected.coefficients)
                if not same or metrics[record.row] != np.float32(expected.metrics[METRIC]):
                    raise BadReadError(f"row {record.row}: columns are not what {record.info[LABEL]} made")


def _fill(builder: Any, row: int, attempt: str, is_first: bool) -> str:
    """Give a builder what an attempt makes of an object."""
    result = outcome(object_id(row), attempt, is_first)
    info = {LABEL: attempt, FIRST: is_first}
    if isinstance(result, Failure):
        builder.fail(row, result, info)
    else:
        builder.add(row, result, info)
    return attempt


def _expected(record: Any) -> ObjectFit | Failure:
    return outcome(record.object_id, record.info[LABEL], record.info[FIRST])


def _attempt(sidecar: Sidecar) -> str:
    """Whose content it is: a fence has its predecessor's."""
    return str(sidecar.info[FENCED]) if sidecar.attempt.startswith(FENCE) else sidecar.attempt


def _labels(sidecar: Sidecar) -> LABELS:
    return {record.row: record.info[LABEL] for record in sidecar.objects}


def _retry(
    planes: PlanesStore, shard: int, name: str, current: Round, log: Logbook, rng: random.Random
) -> None:
    """Failed objects again, as `fpipe retry`."""
    with planes.builder(shard, name) as builder:
        seen: list[ShardFile] = []
        keep_all: Callable[[ShardFile], None] = builder.keep_all

        def watched(file: ShardFile) -> None:
            seen.append(file)
            keep_all(file)

        builder.keep_all = watched  # type: ignore[method-assign] # redo_objects does not tell the file

        def work(rows: list[int]) -> dict[str, Any]:
            for row in rows:
                _fill(builder, row, name, is_first=False)
            _log_built(log, seen[0], name, rows)
            return {}

        rows = redo_objects(planes, builder, current, lambda record: record.failure is not None, work)
    if rows:
        log("claimed", shard=shard, attempt=name)


def _refine(
    planes: PlanesStore, shard: int, name: str, current: Round, log: Logbook, rng: random.Random
) -> None:
    """Some objects get other content, as `fpipe fit-objects --refine`."""
    with planes.builder(shard, name) as builder:

        def work(old: ShardFile) -> dict[str, Any]:
            rows = [record.row for record in old.tail.sidecar.objects if record.status == Status.OK]
            rows = rng.sample(rows, (len(rows) + 1) // 2)
            for row in rows:
                builder.reopen(row)
                _fill(builder, row, name, is_first=False)
            _log_built(log, old, name, rows)
            return {"refined": len(rows)}

        is_replaced = rework_shard(planes, builder, current, work)
    if is_replaced:
        log("claimed", shard=shard, attempt=name)


def _publish(
    planes: PlanesStore, shard: int, name: str, current: Round, log: Logbook, rng: random.Random
) -> None:
    """Derived arrays and marker anew, as `fpipe repair`."""
    publish_again(planes, [shard], current.token)
    log("published", shard=shard)


def _log_built(log: Logbook, old: ShardFile, name: str, rows: list[int]) -> None:
    sidecar = old.tail.sidecar
    labels = {**_labels(sidecar), **dict.fromkeys(rows, name)}
    log("built", shard=sidecar.shard, attempt=name, parent=_attempt(sidecar), labels=labels)


def _files(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return [path for path in folder.iterdir() if path.is_file()]
    return []
