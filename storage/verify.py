"""Check a dataset against its checksums: quick (everything is there) or full (every byte that counts).

Quick reads the small documents, the plan, the end of every shard file and its marker, and lists folders. Full
reads all of every shard file, derived array, shared component and camera file. Neither looks at `runs/`,
`reports/` and `quarantine/`: what lies there may be anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any

from . import layout
from .documents import parse_document
from .errors import IntegrityError, SchemaError, StoreMismatchError, UsageError
from .fit_statistics import check_statistics, is_of_present, statistics_versions
from .group import damaged_metadata
from .passes import PASSES, PassStore
from .plan import read_plan
from .planes import PlanesStore, list_fits
from .records import Mend, Problem
from .sharded import ShardedStore
from .shared import META_FILE, list_shared_versions
from .store import Store
from .verify_shards import check_shards, problem_of
from .views import ViewsStore

_CAMERAS = "cameras-"


def verify(store: Store, full: bool) -> list[Problem]:
    """Check a dataset; see `each_problem`."""
    return list(each_problem(store, full))


def each_problem(store: Store, full: bool) -> Iterator[Problem]:
    """Check a dataset; damage is yielded as it is found, not raised.

    Args:
        store: The dataset.
        full: Read every byte, instead of only small files and the end of each shard file.

    Raises:
        UsageError: there is no dataset.
        SchemaError: it was written by another major version.
        TransientError: the store does not answer.
    """
    try:
        damaged_rows = read_plan(store).rows.damage()
    except IntegrityError as error:
        yield problem_of(error, more="; views and fits were not checked")
        yield from _check_documents(store, full)
        return
    yield from map(problem_of, damaged_rows)
    yield from _check_documents(store, full)
    check = partial(_check_group, store, full=full, with_rows=not damaged_rows)
    yield from check(layout.VIEWS_GROUP, layout.VIEWS_DONE, ViewsStore.open)
    for name in PASSES:
        open_pass = partial(PassStore.open, name=name)
        yield from check(layout.pass_group(name), layout.pass_done(name), open_pass)
    for name in list_fits(store):
        yield from _check_fit_header(store, name)
        open_fit = partial(PlanesStore.open, name=name)
        yield from check(layout.fit_group(name), layout.fit_done(name), open_fit)
        yield from _check_statistics(store, name)


def _check_documents(store: Store, full: bool) -> Iterator[Problem]:
    """Check everything that is neither the plan's rows nor in a group of arrays."""
    config = yield from _check_document(store, layout.PLAN_CONFIG)
    yield from _check_cameras(store, config or {}, full)
    yield from _check_shared(store, full)
    yield from _check_published(store, layout.PUBLISHED_SHARED, "shared_version", list_shared_versions)
    yield from _check_published(store, layout.PUBLISHED_FIT, "fit", list_fits)
    yield from _check_document(store, layout.LEASE)
    yield from _check_document(store, layout.CONDITIONS)


def _check_document(store: Store, key: str) -> Generator[Problem, None, dict[str, Any] | None]:
    """Check one document that may be missing; returns what it says, None when there is nothing to read."""
    try:
        return parse_document(store.read(key), key)
    except FileNotFoundError:
        return None
    except (IntegrityError, SchemaError) as error:
        yield problem_of(error)
        return None


def _check_cameras(store: Store, config: dict[str, Any], full: bool) -> Iterator[Problem]:
    """Check camera files, which are named by their SHA-256, and that the one of the config is there."""
    names = [name for name in store.list(layout.PLAN) if name.startswith(_CAMERAS)]
    wanted = config.get("render", {}).get("cameras")
    if wanted is not None:
        key = layout.plan_cameras(str(wanted).rpartition(":")[2])
        if key.rpartition("/")[2] not in names:
            yield Problem(key, "missing, although the plan was made with it")
    for name in names if full else ():
        key = f"{layout.PLAN}/{name}"
        if layout.plan_cameras(hashlib.sha256(store.read(key)).hexdigest()) != key:
            yield Problem(key, "content differs from the SHA-256 in its name")


def _check_shared(store: Store, full: bool) -> Iterator[Problem]:
    """Check the files that each `shared.json` lists: their SHA-256, or only that they are there."""
    for version in list_shared_versions(store):
        meta = yield from _check_document(store, layout.shared_key(version, META_FILE))
        files: dict[str, str] = (meta or {}).get("files", {})
        for name, digest in files.items():
            key = layout.shared_key(version, name)
            if not store.exists(key):
                yield Problem(key, "missing")
            elif full and hashlib.sha256(store.read(key)).hexdigest() != digest:
                yield Problem(key, "content differs from what shared.json lists")


def _check_published(
    store: Store, key: str, entry: str, list_names: Callable[[Store], list[str]]
) -> Iterator[Problem]:
    found = yield from _check_document(store, key)
    if found is not None and found[entry] not in list_names(store):
        yield Problem(key, f"names {found[entry]}, which is not there")


def _check_fit_header(store: Store, name: str) -> Iterator[Problem]:
    """Check that a fit has its header and its shared components; what the header says is checked later."""
    key = layout.fit_header(name)
    if not store.exists(key):
        yield Problem(key, "missing")
        return
    document = yield from _check_document(store, key)
    if document is not None and document["header"]["shared_version"] not in list_shared_versions(store):
        version = document["header"]["shared_version"]
        yield Problem(layout.shared_key(version, META_FILE), f"missing, although fit {name} was made with it")


def _check_statistics(store: Store, name: str) -> Iterator[Problem]:
    """Check the stored channel statistics of a fit; those of its present state can be merged again."""
    versions = statistics_versions(store, name)
    if not versions:
        return
    try:
        planes = PlanesStore.open(store, name)
    except (IntegrityError, SchemaError, StoreMismatchError, UsageError):
        return  # the group's own findings say so
    for version in versions:
        try:
            check_statistics(planes, version)
        except (IntegrityError, SchemaError) as error:
            key = layout.fit_statistics(name, version)
            mend: Mend = "rebuild" if is_of_present(planes, version) else "restore"
            yield Problem(key, problem_of(error, key).message, mend=mend, group=layout.fit_group(name))


def _check_group(
    store: Store,
    group_key: str,
    done: str,
    open_group: Callable[[Store], ShardedStore],
    full: bool,
    with_rows: bool,
) -> Iterator[Problem]:
    own = layout.zarr_metadata(group_key)
    if not store.exists(own):
        if store.list(done):
            yield Problem(own, "missing, although shards are done; they were not checked")
        return
    try:
        group = open_group(store)
        group.journal()
    except (IntegrityError, SchemaError, StoreMismatchError, UsageError) as error:
        yield problem_of(error, own, more="; its shards were not checked")
        return
    for key, message in damaged_metadata(store, group.spec).items():
        mend: Mend = "restore" if key == own else "rebuild"
        yield Problem(key, message, mend=mend, group=group_key)
    yield from check_shards(group, full, with_rows)
