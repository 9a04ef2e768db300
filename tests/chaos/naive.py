"""The store that one writes first: planes, then coefficients, then a marker that says "done".

Files are written over whatever is there. A mend reads both files, changes some objects and writes them back.
It is here to show that the test can fail.
"""

from __future__ import annotations

import io
import json
import random
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import ObjectUnavailableError, TransientError
from storage.plan import shard_rows
from storage.records import Failure, ObjectFit
from storage.store import Store
from tests.chaos.content import (
    F_MIC,
    METRIC,
    OBJECTS_PER_SHARD,
    K,
    M,
    object_id,
    outcome,
    plan_header,
    same_fit,
)
from tests.chaos.logbook import LABELS, Logbook
from tests.chaos.subject import BadReadError, Fate, FinalShard, Reader, Seen

MENDED_SHARDS = 4
_TORN = (ValueError, EOFError, KeyError, OSError, zipfile.BadZipFile, NotImplementedError)


class NaiveStore:
    """Three files per shard, in one folder each."""

    def __init__(self, url: str, n_shards: int, **options: Any) -> None:
        self.store = Store(url, **options)
        self.n_shards = n_shards
        self.n_objects = plan_header(n_shards).n_objects

    def create(self) -> None:
        for name in ("planes", "coefficients", "done"):
            if (folder := self.store.local_path(name)) is not None:
                folder.mkdir(parents=True)

    def intrude(self, log: Logbook, rng: random.Random) -> None:
        """It has no configuration that could be refused."""

    def commit(self, shard: int, attempt: str, log: Logbook, fate: Fate, is_late: bool) -> None:
        if not is_late and self.store.exists(f"done/{shard}"):
            log("skipped", shard=shard)
            return
        rows = self.rows(shard)
        labels = dict.fromkeys(rows, attempt)
        firsts = dict.fromkeys(rows, True)
        log("built", shard=shard, attempt=attempt, parent=None, labels=labels)
        fate.tempt()
        self._write(shard, attempt, labels, firsts)
        log("claimed", shard=shard, attempt=attempt)

    def replace(self, name: str, log: Logbook, fate: Fate, rng: random.Random) -> None:
        done = [int(text) for text in self.store.list("done")]
        for number, shard in enumerate(rng.sample(done, min(len(done), MENDED_SHARDS))):
            attempt = f"{name}.{number}"
            try:
                old = self._load("planes", shard)
            except TransientError:
                raise
            except _TORN:
                continue
            labels, firsts = _by_row(old, "labels"), _by_row(old, "firsts")
            rows = rng.sample(sorted(labels), (len(labels) + 1) // 2)
            labels |= dict.fromkeys(rows, attempt)
            firsts |= dict.fromkeys(rows, False)
            parent = str(old["attempt"])
            log("built", shard=shard, attempt=attempt, parent=parent, labels=labels)
            fate.tempt()
            self._write(shard, attempt, labels, firsts)
            log("claimed", shard=shard, attempt=attempt)

    def settle(self) -> None:
        """There is nothing that it could do."""

    def reader(self) -> Reader:
        return _NaiveReader(self)

    def final(self, shard: int) -> FinalShard:
        try:
            planes, coefficients = self._load("planes", shard), self._load("coefficients", shard)
        except TransientError:  # says nothing about the shard
            raise
        except _TORN as error:
            return FinalShard("", {}, [f"{type(error).__name__}: {error}"])
        problems = [] if self.store.exists(f"done/{shard}") else ["not marked as done"]
        labels = _by_row(planes, "labels")
        for row in labels:
            fit, expected = _fit(planes, coefficients, row), _expected(planes, row)
            if isinstance(expected, ObjectFit) and not same_fit(fit, expected):
                problems.append(f"{object_id(row)} is not what {labels[row]} made")
        return FinalShard(str(planes["attempt"]), labels, problems)

    def leftovers(self) -> list[str]:
        return []

    def rows(self, shard: int) -> range:
        return shard_rows(self.n_objects, OBJECTS_PER_SHARD, shard)

    def _write(self, shard: int, attempt: str, labels: LABELS, firsts: dict[int, bool]) -> None:
        rows = sorted(labels)
        results = [outcome(object_id(row), labels[row], firsts[row]) for row in rows]
        common = {
            "attempt": attempt,
            "rows": np.array(rows),
            "labels": np.array([labels[row] for row in rows]),
            "firsts": np.array([firsts[row] for row in rows]),
        }
        micro = [_part(result, "micro", (3, F_MIC, K, K)) for result in results]
        coefficients = [_part(result, "coefficients", (M,)) for result in results]
        metrics = [np.nan if isinstance(result, Failure) else result.metrics[METRIC] for result in results]
        self._save(f"planes/{shard}", micro=np.stack(micro), **common)
        self._save(
            f"coefficients/{shard}", coefficients=np.stack(coefficients), metrics=np.array(metrics), **common
        )
        self._put(f"done/{shard}", json.dumps({"attempt": attempt}).encode())

    def _save(self, key: str, **arrays: Any) -> None:
        path = self.store.local_path(key)
        if path is not None:
            with path.open("wb") as file:
                np.savez(file, **arrays)
            return
        file_bytes = io.BytesIO()
        np.savez(file_bytes, **arrays)
        self._put(key, file_bytes.getvalue())

    def _put(self, key: str, data: bytes) -> None:
        path = self.store.local_path(key)
        if path is not None:
            path.write_bytes(data)
        else:
            self.store.replace(key, data)

    def _load(self, kind: str, shard: int) -> dict[str, NDArray[Any]]:
        with np.load(io.BytesIO(self.store.read(f"{kind}/{shard}"))) as file:
            return dict(file)


class _NaiveReader:
    def __init__(self, subject: NaiveStore) -> None:
        self._subject = subject
        self._done: list[int] = []

    def refresh(self) -> None:
        self._done = [int(text) for text in self._subject.store.list("done")]

    def rows(self) -> list[int]:
        return []  # it would have to read all files to know

    def read(self, row: int) -> Seen:
        shard = row // OBJECTS_PER_SHARD
        if shard not in self._done:
            raise ObjectUnavailableError(f"shard {shard} is not done", object_id=object_id(row))
        try:
            planes = self._subject._load("planes", shard)
            coefficients = self._subject._load("coefficients", shard)
        except TransientError:
            raise
        except _TORN as error:
            raise BadReadError(f"shard {shard} is done, but: {type(error).__name__}: {error}") from error
        expected = _expected(planes, row)
        if isinstance(expected, Failure):
            raise ObjectUnavailableError(f"{object_id(row)} failed", object_id=object_id(row))
        if not same_fit(_fit(planes, coefficients, row), expected):
            attempts = f"{planes['attempt']} and {coefficients['attempt']}"
            raise BadReadError(f"{object_id(row)}: not what one attempt made (files of {attempts})")
        return Seen(shard, str(planes["attempt"]), row, _by_row(planes, "labels")[row])


def _part(result: ObjectFit | Failure, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    if isinstance(result, Failure):
        return np.full(shape, np.nan, np.float16 if name == "micro" else np.float32)
    return np.asarray(getattr(result, name))


def _by_row(file: dict[str, NDArray[Any]], name: str) -> dict[int, Any]:
    return dict(zip(file["rows"].tolist(), file[name].tolist(), strict=True))


def _fit(planes: dict[str, NDArray[Any]], coefficients: dict[str, NDArray[Any]], row: int) -> ObjectFit:
    position = row % OBJECTS_PER_SHARD
    metrics = {METRIC: float(coefficients["metrics"][position])}
    return ObjectFit(planes["micro"][position], coefficients["coefficients"][position], 2, metrics)


def _expected(planes: dict[str, NDArray[Any]], row: int) -> ObjectFit | Failure:
    return outcome(object_id(row), _by_row(planes, "labels")[row], _by_row(planes, "firsts")[row])
