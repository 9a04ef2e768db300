"""Tells how a stage ended: JSON on stdout if asked for, the next step on stderr, and the exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.logs import say
from cli.options import print_json
from cli.text import duration_text

if TYPE_CHECKING:
    from pipeline.refine_stage import RefineResult
    from pipeline.stages import StageResult

NEXT_STEP = {"render": "train-shared", "train-shared": "fit-objects", "fit-objects": "report"}
RETRY_STAGE = {"fit-objects": " --stage fit"}


def finish_stage(result: StageResult, root: str, as_json: bool, options: str = "") -> int:
    """Prints what was done and what comes next; returns the exit code.

    Args:
        result: Of the stage.
        root: The dataset.
        as_json: Print the result as JSON, too.
        options: Those with which the same command does the shards that are left.
    """
    if as_json:
        print_json("stage", result.as_json())
    if result.done:
        say(f"{result.stage}: {result.objects_ok} objects in {duration_text(result.seconds)}")
    if result.objects_failed:
        before = f", {result.skipped} of them done before" if result.skipped else ""
        say(
            f"{result.stage}: {result.objects_failed} objects failed in {result.shards} shards{before}; "
            f"fpipe failures {root} lists them, "
            f"fpipe retry {root}{RETRY_STAGE.get(result.stage, '')} tries them again"
        )
    if result.stage == "render":
        say(f"look: fpipe report {root}")
    if result.left:
        say(f"{result.stage}: {result.left} shards are left")
        say(f"next: fpipe {result.stage} {root}{options}")
        return result.exit_code
    nothing_worked = result.done and not result.skipped and not result.objects_ok
    if (following := NEXT_STEP.get(result.stage)) is not None and not nothing_worked:
        say(f"next: fpipe {following} {root}")
    return result.exit_code


def refine_text(result: RefineResult, root: str) -> str:
    """Says how many objects a refinement improved, PSNR before and after, and what it could not do."""
    from pipeline.refinements import times_text

    name = f"refine {result.fit}"
    before = f", {result.skipped} of them before" if result.skipped else ""
    lines = [
        f"{name}: {result.improved} of {result.refined} objects improved; the others keep their codes "
        f"({result.shards} shards{before}; refined {times_text(result.times)} now)"
    ]
    if result.psnr_db is not None:
        old, new = result.psnr_db
        lines.append(f"  PSNR on held-out views, mean: {old:.2f} dB before, {new:.2f} dB after")
    for object_id, reason in result.failures.items():
        lines.append(f"  not refined: {object_id}: {reason}")
    if result.n_failures > len(result.failures):
        lines.append(f"  … and {result.n_failures - len(result.failures)} more")
    if result.without_fit:
        lines.append(
            f"  {result.without_fit} objects have no fit: fpipe retry {root} --stage fit --name {result.fit}"
        )
    return "\n".join(lines)
