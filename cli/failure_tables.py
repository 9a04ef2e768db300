"""Plain-text forms of failures, retries and reproductions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.tables import table

if TYPE_CHECKING:
    from pipeline.retry_stage import RetryResult
    from render_jobs.repro import Reproduction

NAMED_IN_RETRY = 20
"""Objects that a retry names; `fpipe failures` lists all."""


def failures_text(found: dict[str, Any], detail: bool) -> str:
    """Counts per class, then one block per object, with the end of stderr if asked for."""
    if not found["stages"]:
        return "nothing has been fitted yet"
    lines: list[str] = []
    for name, stage in found["stages"].items():
        if not stage["failed"]:
            others = ", ".join(f"{kind} {count}" for kind, count in stage["other_kinds"].items())
            others = f" of these classes; there are {others}" if others else ""
            lines += [f"{name}: no failed objects{others}", ""]
            continue
        lines += [f"{name}: {stage['failed']} failed", table(_counts(stage["kinds"])), ""]
        for failed in stage["objects"]:
            lines += _block(failed, detail)
        lines += _omitted(stage["failed"] - len(stage["objects"]))
    return "\n".join(lines).rstrip()


def warnings_text(found: dict[str, Any]) -> str:
    """Counts per warning, then one line per object."""
    if not found["warned"]:
        return "no warnings"
    lines = [f"{found['warned']} rendered objects with warnings", table(_counts(found["kinds"])), ""]
    lines += [
        f"{entry['object_id']} ({entry['class_name']}): {'; '.join(entry['warnings'])}"
        for entry in found["objects"]
    ]
    return "\n".join([*lines, *_omitted(found["warned"] - len(found["objects"]))]).rstrip()


def _counts(kinds: dict[str, int]) -> list[list[str]]:
    return [["class", "objects"], *([kind, str(count)] for kind, count in kinds.items())]


def _block(failed: dict[str, Any], detail: bool) -> list[str]:
    lines = [f"{failed['object_id']} ({failed['class_name']}): {failed['kind']}: {failed['reason']}"]
    if detail and failed["detail"]:
        lines += [f"    | {line}" for line in failed["detail"].splitlines()]
    if failed["repro"]:
        lines.append(f"    {failed['repro']}")
    return lines


def _omitted(count: int) -> list[str]:
    return [f"… and {count} more; --limit 0 lists all", ""] if count > 0 else [""]


def retry_text(result: RetryResult, root: str) -> str:
    """Says what was mended, what still fails and what to do next."""
    name = f"retry {result.stage}"
    if not result.tried:
        lines = [f"{name}: nothing to try again"]
    else:
        lines = [f"{name}: {len(result.mended)} of {result.tried} objects mended"]
    if result.mended:
        lines.append(f"  mended: {_some(result.mended)}")
    still = [object_id for object_id in result.failing if object_id not in set(result.waiting)]
    for object_id in still[:NAMED_IN_RETRY]:
        kind, reason = result.failing[object_id]
        lines.append(f"  still failing: {object_id}: {kind}: {reason}")
    if len(still) > NAMED_IN_RETRY:
        lines.append(f"  … and {len(still) - NAMED_IN_RETRY} more: fpipe failures {root}")
    if result.waiting:
        lines.append(
            f"  not tried: {len(result.waiting)} objects whose rendering failed: fpipe retry {root} first"
        )
    if result.other_kinds:
        others = ", ".join(f"{kind} {count}" for kind, count in result.other_kinds.items())
        lines.append(f"  not chosen: {others}")
    if result.undone:
        command = "render" if result.stage == "render" else "fit-objects"
        lines.append(f"  {result.undone} shards are not done at all: fpipe {command} {root}")
    lines += [f"next: fpipe retry {root} --stage fit --name {fit}" for fit in result.fits]
    return "\n".join(lines)


def _some(names: list[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > NAMED_IN_RETRY else ""
    return ", ".join(names[:NAMED_IN_RETRY]) + more


def reproduction_text(object_id: str, found: Reproduction) -> str:
    """Says how it ended."""
    if found.failure is not None:
        failure = found.failure
        lines = [f"{object_id} fails: {failure.kind}: {failure.reason}"]
        return "\n".join([*lines, *(f"    | {line}" for line in failure.detail.splitlines())])
    lines = [f"{object_id} works"]
    lines += [f"    {key}: {_value(value)}" for key, value in found.info.items()]
    return "\n".join([*lines, *map(str, found.pictures)])


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
