"""Keys of a dataset, relative to its root. Nothing else in the project spells a path of the store."""

from __future__ import annotations

import re

from .errors import UsageError

PLAN = "plan"
RUNS = "runs"
PLAN_HEADER = "plan/header.json"
PLAN_CONFIG = "plan/config.json"
FORECAST = "plan/forecast.json"
PLAN_APPENDED = "plan/appended"
VIEWS_GROUP = "views.zarr"
VIEWS_DONE = "done/views"
PUBLISHED_FIT = "fits/published.json"
FITS = "fits"
SHARED = "shared"
PUBLISHED_SHARED = "shared/published.json"
REPORTS = "reports"
MAINTENANCE = "maintenance"
LEASE = "maintenance/lease.json"
CONDITIONS = "maintenance/conditions.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def checked_name(name: str) -> str:
    """Return `name` if it may be a path component; raise UsageError otherwise."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no valid name: use letters, digits, '.', '_' and '-', at most 128")
    return name


def plan_segment(index: int, digest: str) -> str:
    """Key of plan segment `index`; the digest keeps segments of competing plans apart."""
    return f"plan/segment-{index:05d}-{digest[:16]}.jsonl.zst"


def plan_appended(number: int) -> str:
    """Key of what append `number` (1, 2, …) added to the plan."""
    return f"{PLAN_APPENDED}/{number:06d}.json"


def plan_cameras(sha256: str) -> str:
    """Key of the camera file that a plan was made with."""
    return f"plan/cameras-{sha256}.json"


def shared_key(shared_version: str, name: str = "") -> str:
    """Key of one file of the shared components, or of their folder when `name` is empty."""
    folder = f"{SHARED}/{checked_name(shared_version)}"
    return f"{folder}/{name}" if name else folder


def pass_group(name: str) -> str:
    """Zarr group of one pass of the views (depth, normals)."""
    return f"{checked_name(name)}.zarr"


def pass_done(name: str) -> str:
    """Folder of the done markers of one pass."""
    return f"done/{checked_name(name)}"


def fit_folder(name: str) -> str:
    """Folder of one fit."""
    return f"{FITS}/{checked_name(name)}"


def fit_header(name: str) -> str:
    """Key of the header that defines one fit."""
    return f"{fit_folder(name)}/header.json"


def fit_group(name: str) -> str:
    """Zarr group of one fit."""
    return f"{fit_folder(name)}/planes.zarr"


def fit_of_group(group: str) -> str:
    """Name of the fit that has this Zarr group."""
    return group.split("/")[1]


def fit_done(name: str) -> str:
    """Folder of the done markers of one fit."""
    return f"{fit_folder(name)}/done"


def fit_sidecars(name: str) -> str:
    """Folder of the shard files of a fit without micro planes: sidecars alone, outside the Zarr group."""
    return f"{fit_folder(name)}/sidecars"


def fit_statistics(name: str, version: str = "") -> str:
    """Key of one version of a fit's channel statistics, or of their folder when `version` is empty."""
    folder = f"{fit_folder(name)}/stats"
    return f"{folder}/{checked_name(version)}.json" if version else folder


def is_fit_statistics(key: str) -> bool:
    """Say whether a key is that of channel statistics of a fit."""
    parts = key.split("/")
    return len(parts) == 4 and parts[0] == FITS and parts[2] == "stats"


def run_folder(stage: str, run: str) -> str:
    """Folder of one run's record: resolved config, versions, events, failures."""
    return f"{RUNS}/{checked_name(stage)}/{checked_name(run)}"


def journal(group: str) -> str:
    """Key of the record of replacements in one group."""
    return f"maintenance/{group}.json"


def summary(group: str) -> str:
    """Key of the summary of the done shards of one group."""
    return f"maintenance/{group}.summary.json"


def quarantined(key: str, attempt: str) -> str:
    """Where the file that `attempt` wrote under `key` is kept when another takes its place."""
    return f"quarantine/{key}.{attempt}"


def zarr_metadata(group: str, array: str = "") -> str:
    """Key of the metadata of a group, or of one of its arrays."""
    return f"{group}/{array}/zarr.json" if array else f"{group}/zarr.json"


def zarr_chunk(group: str, array: str, shard: int, n_dimensions: int) -> str:
    """Key of the stored chunk `shard` along the first axis, 0 along the others.

    Zarr v3 default keys with the separator '.', so that a shard costs a file and not a chain of folders.
    """
    return f"{group}/{array}/c.{shard}" + ".0" * (n_dimensions - 1)
