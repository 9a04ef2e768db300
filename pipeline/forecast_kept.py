"""A forecast that is kept with its dataset."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any

from storage import layout
from storage.store import Store

VERSION = 2


def save_forecast(store: Store, found: Mapping[str, Any]) -> None:
    """Keeps a forecast with the dataset that it is about, in place of an older one."""
    made = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    store.replace(layout.FORECAST, json.dumps({"version": VERSION, "made": made, **found}, indent=1).encode())


def read_forecast(store: Store) -> dict[str, Any] | None:
    """Returns the forecast that is kept with a dataset; None where there is none that can be read."""
    try:
        kept = json.loads(store.read(layout.FORECAST))
    except (FileNotFoundError, ValueError):
        return None
    return kept if isinstance(kept, dict) and kept.get("version") == VERSION else None
