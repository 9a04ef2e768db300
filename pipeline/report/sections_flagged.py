"""The section on fits that deserve a look: far below their class, or with a loss that was still falling."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pipeline.flags import (
    DEVIATIONS,
    FALL_DB,
    FAR_BELOW_CLASS,
    KINDS,
    MIN_BELOW_DB,
    MIN_OBJECTS,
    NOT_CONVERGED,
    Flag,
)
from pipeline.report.markup import Child, Html, el, join
from pipeline.report.parts import object_caption, plate, section
from pipeline.report.records import Curve, Findings, FlaggedObject, FlaggedView, Gallery
from pipeline.report.training_charts import curve
from pipeline.report.wording import count, fixed, plural

_OF_MANY = {FAR_BELOW_CLASS: "far below their class", NOT_CONVERGED: "not converged"}


def flagged(findings: Findings, gallery: Gallery) -> Html | None:
    """Every shown object with two held-out views, its losses and a command; None where nothing is flagged."""
    if not findings.flags:
        return None
    note = (
        f"Far below its class: more than {DEVIATIONS:.0f} robust standard deviations, and at least "
        f"{MIN_BELOW_DB:g} dB, below the median of its class and regime ({MIN_OBJECTS} objects or more). "
        f"Not converged: the loss fell by more than {FALL_DB:g} dB in the last quarter of a phase. Look at "
        "the truth first: often the views are wrong, and not the fit."
    )
    shown = {item.record.row for item in gallery.flagged}
    rest = len({flag.row for flag in findings.flags} - shown)
    command = el(
        "code", shlex.join(["fpipe", "evaluate", findings.url, "--name", findings.fit_name, "--json"])
    )
    more = el("p", f"And {count(rest)} more: ", command, " lists all.", class_="empty") if rest else None
    items = [_item(item, findings) for item in gallery.flagged]
    return section("flagged", "Flagged", note, _counts(findings.flags), *items, more)


def _counts(flags: Sequence[Flag]) -> Html:
    numbers = {kind: sum(flag.kind == kind for flag in flags) for kind in KINDS}
    said = [f"{plural(number, 'object')} {_OF_MANY[kind]}" for kind, number in numbers.items() if number]
    return el("p", "; ".join(said), class_="flag-counts")


def _item(item: FlaggedObject, findings: Findings) -> Html:
    return el(
        "article",
        el("p", object_caption(item.record), class_="who"),
        el("p", _why(item), class_="why"),
        el("div", *(_pair(item, view) for view in item.views), *_losses(item.curves), class_="evidence"),
        _command(item, findings),
        class_="flagged-fit",
    )


def _why(item: FlaggedObject) -> Html:
    said: list[Child] = []
    if FAR_BELOW_CLASS in item.kinds:
        below = fixed(item.class_median_db - item.record.psnr_db, 2, "dB")
        median = fixed(item.class_median_db, 2, "dB")
        said += [el("strong", "Far below its class"), f": {below} below the median of {median} "]
        said.append(f"of regime {item.record.regime} of {item.record.class_name}. ")
    if NOT_CONVERGED in item.kinds:
        said += [el("strong", "Not converged"), f": the loss fell by {fixed(item.fall_db, 1, 'dB')} at last."]
    return join(*said)


def _pair(item: FlaggedObject, view: FlaggedView) -> Html:
    name = item.record.object_id
    plates = (
        plate(view.truth, f"Ground truth of {name}, held-out view {view.view}"),
        plate(view.render, f"{name} rendered from its planes, {fixed(view.psnr_db, 1)} dB"),
    )
    labels = el("div", el("span", "truth"), el("span", "render"), class_="labels")
    caption = f"Held-out view {view.view}, {fixed(view.psnr_db, 1, 'dB')}"
    return el("figure", el("div", *plates, class_="plates"), labels, el("figcaption", caption))


def _losses(curves: Sequence[Curve]) -> list[Html]:
    if not curves:
        return [el("p", "No losses were recorded.", class_="empty")]
    return [
        el(
            "figure",
            curve(data, 420),
            el("figcaption", f"{data.name} over steps, {data.values[-1]:.3g} at the end"),
        )
        for data in curves
    ]


def _command(item: FlaggedObject, findings: Findings) -> Html:
    """What helps: more steps where only the loss fell, otherwise a look at this object alone."""
    if list(item.kinds) == [NOT_CONVERGED]:
        words = ["fpipe", "fit-objects", findings.url, "--refine", "--name", findings.fit_name]
        words += ["--shard", str(item.shard)]
    else:
        words = ["fpipe", "repro", findings.url, item.record.object_id, "--stage", "fit"]
        words += ["--name", findings.fit_name, "--out", "pictures"]
    button = el("button", "Copy", type="button", class_="copy script-only")
    return el("p", el("code", shlex.join(words)), button, class_="repro")
