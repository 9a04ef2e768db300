"""The section on what went wrong: failures of all stages by class, and warnings of the render stage."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from pipeline.report.markup import Html, el, join
from pipeline.report.parts import section, table
from pipeline.report.records import FailedObject, FailureKind, Findings
from pipeline.report.render_records import RenderFindings
from pipeline.report.wording import count, plural
from pipeline.warning_kinds import WarningKind

_OPEN_AT_FIRST: Final = 40  # objects listed, at which the lists begin folded


def failures(findings: Findings) -> Html:
    """Every class of failures with its count and the first objects; then the warnings."""
    note = (
        "An object that fails costs one object: it is recorded, and everything else goes on. The command "
        "below a reason runs that object alone, in the foreground."
    )
    kinds, render = findings.failures, findings.render
    content = [_kinds_table(kinds), *_lists(kinds, findings.url)] if kinds else [_nothing_failed(render)]
    return section("failures", "Failures", note, *content, *_warnings(render))


def _nothing_failed(render: RenderFindings) -> Html:
    left = render.n_planned - render.n_ok - render.n_failed
    more = f" {plural(left, 'planned object')} not rendered yet." if left else ""
    return el("p", f"No object failed.{more}", class_="empty")


def _kinds_table(kinds: Sequence[FailureKind]) -> Html:
    largest = max(kind.n_objects for kind in kinds)
    rows = [
        [
            kind.kind,
            el("span", "", class_="bar", style=f"--length:{kind.n_objects / largest:.3f}"),
            count(kind.n_objects),
            kind.stage,
        ]
        for kind in kinds
    ]
    rows.append(["total", "", count(sum(kind.n_objects for kind in kinds)), ""])
    return table(["Class of failure", "", "Objects", "Stage"], rows, "bars with-total kinds")


def _lists(kinds: Sequence[FailureKind], url: str) -> list[Html]:
    opened = sum(len(kind.objects) for kind in kinds) <= _OPEN_AT_FIRST
    return [_list(kind, opened, url) for kind in kinds]


def _list(kind: FailureKind, opened: bool, url: str) -> Html:
    rest = kind.n_objects - len(kind.objects)
    shown = (
        f"{len(kind.objects)} of {plural(kind.n_objects, 'object')}"
        if rest
        else plural(kind.n_objects, "object")
    )
    summary = el("summary", kind.kind, el("small", f" {kind.stage}, {shown}"))
    command = el("code", f"fpipe failures {shlex.quote(url)}")
    more = (f"And {count(rest)} more: ", command, " lists all of them.") if rest else ()
    rest_text = el("p", *more, class_="empty") if more else None
    return el("details", summary, *map(_failed, kind.objects), rest_text, class_="failed-kind", open=opened)


def _failed(failed: FailedObject) -> Html:
    picture = (
        el("img", src=failed.picture, alt=f"What {failed.object_id} looked like", class_="plate")
        if failed.picture
        else None
    )
    command = (
        el(
            "p",
            el("code", failed.repro),
            el("button", "Copy", type="button", class_="copy script-only"),
            class_="repro",
        )
        if failed.repro
        else None
    )
    words = el(
        "div",
        el("p", el("span", failed.object_id, class_="name"), el("small", failed.class_name), class_="who"),
        el("p", failed.reason, class_="reason"),
        command,
    )
    return el("div", picture, words, class_="failed" + (" pictured" if failed.picture else ""))


def _warnings(render: RenderFindings) -> list[Html]:
    if not render.warnings:
        return []
    where = (
        f"among {count(render.n_read)} objects looked at" if render.n_read < render.n_ok else "of all objects"
    )
    rows = [[kind.text, count(kind.n_objects), _examples(kind)] for kind in render.warnings]
    heading = el("h3", "Warnings", el("small", f"{where}; their views are complete"))
    return [heading, table(["Warning", "Objects", "For example"], rows, "warnings")]


def _examples(kind: WarningKind) -> Html:
    """Names of objects; where the wording differs, what was said about each is its title."""
    names = [
        el("span", object_id, title=text if text != kind.text else None, class_="example")
        for object_id, text in kind.examples
    ]
    return join(*names)
