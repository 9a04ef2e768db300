"""The work of `bench_driver`: none. In a module of its own, because Ray's workers import it by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from storage.errors import TransientError

PER_SHARD = 14
"""Objects of a shard of 160 views of 128² pixels; see deploy/docs/scale.md."""
_calls = 0


def count_instead_of_committing(
    root_url: str, shard: int, attempt: str, fails_every: int = 0
) -> dict[str, Any]:
    """The counting stub: does nothing, commits nothing, and answers like `render_shard`.

    Its process and the number of the call in it are in the answer, so that the reader of the run's events can
    tell that every shard was done once. Every `fails_every`-th shard fails at its first attempt.
    """
    global _calls
    if fails_every and shard % fails_every == 0 and _is_first_attempt(root_url, shard):
        raise TransientError(f"shard {shard}: the store of the benchmark did not answer")
    _calls += 1
    counted = {"process": os.getpid(), "call": _calls}
    return {"shard": shard, "attempt": attempt, "skipped": False, "n_ok": PER_SHARD, "n_failed": 0, **counted}


def _is_first_attempt(root_url: str, shard: int) -> bool:
    try:
        (Path(root_url.removeprefix("file://")) / f"tried-{shard}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
