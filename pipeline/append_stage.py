"""Appending objects of a source to a dataset: what it lists now and the dataset does not have."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

from pipeline.config import PipelineConfig
from pipeline.planned import planned, stored_config, stored_form
from pipeline.writers import ONE_AT_A_TIME
from storage.append import append_objects
from storage.documents import differences
from storage.errors import StoreMismatchError, UsageError
from storage.plan import read_plan
from storage.records import PlanRow
from storage.store import Store
from storage.views import views_spec

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class AppendResult:
    """What an append did.

    Attributes:
        added: Class name → new objects.
        known: Objects of the source that were there before.
        rows: Rows of the new objects.
        view_shards: Shards of the views that are to be rendered for them.
        objects: Objects that the dataset has now.
    """

    added: dict[str, int]
    known: int
    rows: range
    view_shards: range
    objects: int

    def as_json(self) -> dict[str, Any]:
        """Returns the result as plain JSON values; ranges as [first, last], null where nothing was added."""
        return {
            "added": sum(self.added.values()),
            "classes": self.added,
            "known": self.known,
            "rows": [self.rows[0], self.rows[-1]] if self.rows else None,
            "view_shards": [self.view_shards[0], self.view_shards[-1]] if self.view_shards else None,
            "objects": self.objects,
        }


def source_base(store: Store, kind: str | None, has_path: bool) -> dict[str, Any]:
    """Returns the config of a dataset as the base of an append.

    Settings of the source are those of the dataset where it is of the same kind; classes only where it is the
    same place, too.

    Raises:
        UsageError: There is no dataset.
    """
    stored = stored_config(store)
    if stored is None:
        raise UsageError(f"no dataset at {store.url} to append to; start with fpipe render")
    source = stored["source"]
    if kind is not None and kind != source["kind"]:
        source = {"kind": kind, "seed": source["seed"]}
    elif has_path:
        source = {name: value for name, value in source.items() if name != "classes"}
    return {**stored, "source": source}


def append(store: Store, config: PipelineConfig) -> AppendResult:
    """Adds to a dataset what a source lists and it does not have; nothing is rendered yet.

    Args:
        store: The dataset.
        config: Its own config, but for the source.

    Raises:
        UsageError: No dataset, or the source has none of the objects that are asked for.
        StoreMismatchError: The views would be others than the dataset's, an object of the dataset has another
            content in the source, or somebody else appended at the same time.
    """
    plan = read_plan(store)
    asked = stored_form(config)[0].content("render")
    if found := differences(asked, plan.header.render_config):
        raise StoreMismatchError(
            f"{store.url}: appended objects get the views of those that are there, but {'; '.join(found)}"
        )
    config, entries = planned(config)
    if not store.settle().create:
        LOGGER.warning("%s: %s", store.url, ONE_AT_A_TIME)
    objects = [
        PlanRow(0, entry.object_id, entry.class_name, config.source.kind, entry.location, entry.fingerprint)
        for entry in entries
    ]
    done = append_objects(store, objects, config.source.spec(), plan)
    size = views_spec(done.plan).objects_per_shard
    shards = range(done.rows.start // size, -(-done.rows.stop // size)) if done.rows else range(0)
    new = done.plan.rows[done.rows.start : done.rows.stop] if done.rows else []
    return AppendResult(
        added=dict(sorted(Counter(row.class_name for row in new).items())),
        known=done.n_known,
        rows=done.rows,
        view_shards=shards,
        objects=done.plan.n_objects,
    )
