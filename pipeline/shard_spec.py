"""Reads `--shard`: which of a stage's shards one command does.

Forms: `3`, `0..7` (inclusive), `0,4,9-12`, `i/n` (shards ≡ i mod n), `all`, and `auto`, which is i/n from
the environment of a job array: FPIPE_SHARD ("i/n"), Slurm's array variables, or Kubernetes'
JOB_COMPLETION_INDEX with FPIPE_NUM_SHARDS.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from storage.errors import UsageError

FORMS = "use 3, 0..7 (inclusive), 0,4,9-12, i/n (shards ≡ i mod n), all or auto"


def parse_shards(spec: str, n_shards: int, environment: Mapping[str, str]) -> list[int]:
    """Returns the selected shards in ascending order.

    Args:
        spec: what stands after `--shard`.
        n_shards: shards of the stage; valid ones are 0 to n_shards − 1.
        environment: read for `auto` alone.

    Raises:
        UsageError: the text has none of the forms, or names a shard beyond the last.
    """
    spec = spec.strip()
    if spec == "all":
        return list(range(n_shards))
    if spec == "auto":
        spec = _from_environment(environment)
    if match := re.fullmatch(r"(\d+)/(\d+)", spec):
        index, count = int(match[1]), int(match[2])
        if count == 0 or index >= count:
            raise UsageError(f"--shard {spec}: i/n needs 0 <= i < n")
        return list(range(index, n_shards, count))
    shards: set[int] = set()
    for part in spec.split(","):
        match = re.fullmatch(r"(\d+)(?:(?:\.\.|-)(\d+))?", part.strip())
        if match is None:
            raise UsageError(f"--shard {spec!r} is not understood: {FORMS}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"--shard {spec}: {part.strip()} runs backwards")
        if last >= n_shards:
            raise UsageError(
                f"--shard {spec}: shard {last} does not exist, this stage has shards 0..{n_shards - 1}"
            )
        shards.update(range(first, last + 1))
    return sorted(shards)


def members(spec: str, environment: Mapping[str, str]) -> int:
    """Returns how many commands share the shards: n of i/n, the size of a job array for `auto`, else 1.

    Raises:
        UsageError: `auto`, and the environment does not say.
    """
    spec = spec.strip()
    if spec == "auto":
        spec = _from_environment(environment)
    match = re.fullmatch(r"\d+/(\d+)", spec)
    return max(1, int(match[1])) if match else 1


def shards_text(shards: Iterable[int], at_most: int | None = None) -> str:
    """Returns the shortest text of `--shard` that selects these shards: "0,4,9-12".

    Args:
        shards: in any order.
        at_most: parts after which the text ends with "…", for messages; None for all.
    """
    runs: list[list[int]] = []
    for shard in sorted(shards):
        if runs and shard == runs[-1][-1] + 1:
            runs[-1][1:] = [shard]
        else:
            runs.append([shard])
    parts = ["-".join(map(str, run)) for run in runs]
    return ",".join(parts[:at_most]) + ",…" * (at_most is not None and len(parts) > at_most)


def _from_environment(environment: Mapping[str, str]) -> str:
    """Returns "i/n" for this member of a job array."""
    if value := environment.get("FPIPE_SHARD"):
        return value
    try:
        if "SLURM_ARRAY_TASK_ID" in environment:
            return _from_slurm(environment)
        if "JOB_COMPLETION_INDEX" in environment:
            return f"{int(environment['JOB_COMPLETION_INDEX'])}/{int(environment['FPIPE_NUM_SHARDS'])}"
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"--shard auto: the job array's environment is incomplete or not numeric ({error})"
        ) from error
    raise UsageError(
        "--shard auto: none of FPIPE_SHARD (i/n), SLURM_ARRAY_TASK_ID or "
        "JOB_COMPLETION_INDEX with FPIPE_NUM_SHARDS is set"
    )


def _from_slurm(environment: Mapping[str, str]) -> str:
    """Returns "i/n" for this member of a Slurm array, whose numbers have no gaps."""
    number, count = int(environment["SLURM_ARRAY_TASK_ID"]), int(environment["SLURM_ARRAY_TASK_COUNT"])
    first = int(environment.get("SLURM_ARRAY_TASK_MIN", "0"))
    last = int(environment.get("SLURM_ARRAY_TASK_MAX", number))
    step = int(environment.get("SLURM_ARRAY_TASK_STEP", "1"))
    index = (number - first) // step
    if index >= count or (last - first) // step >= count:
        raise UsageError(
            f"--shard auto: the {count} members of this Slurm array have numbers from {first} to {last}, "
            "with gaps, so which shards are whose? What is done is skipped, so to do again what some members "
            "did not, submit any array without gaps (--array=0-1), or name a member's share: "
            f"FPIPE_SHARD={number}/16 sbatch --array=0, where the array had 16"
        )
    return f"{index}/{count}"
