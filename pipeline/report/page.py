"""Assembles the page: one HTML file that loads nothing from anywhere."""

from __future__ import annotations

from importlib import resources

from pipeline.report import (
    opening_render,
    sections_failures,
    sections_flagged,
    sections_pictures,
    sections_record,
    sections_render,
    sections_result,
    sections_training,
)
from pipeline.report.markup import Html, el
from pipeline.report.records import Findings, Gallery
from pipeline.report.render_records import ContactSheets
from pipeline.report.training_records import TrainingGallery

# Nothing may be fetched, not even by mistake: pictures are data URIs, style and script stand in the page.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(findings: Findings, gallery: Gallery, sheets: ContactSheets, trained: TrainingGallery) -> str:
    """The whole report as text.

    Args:
        findings: Figures and records.
        gallery: Pictures of the fits; sections without pictures are left out.
        sheets: Pictures of the views.
        trained: Pictures of the training.

    Returns:
        An HTML document that needs no other file.
    """
    fitted = bool(findings.objects)
    example = findings.objects[0].object_id if fitted else _some_object(sheets)
    sections = {
        "Accuracy": sections_result.accuracy(findings) if fitted else None,
        "Objects": sections_pictures.comparisons(gallery),
        "Flagged": sections_flagged.flagged(findings, gallery),
        "Turntables": sections_pictures.turntables(gallery),
        "Between": sections_pictures.blends(gallery),
        "Render": sections_render.rendered(findings, sheets),
        "Speed": sections_render.speed(findings),
        "Failures": sections_failures.failures(findings),
        "Training": sections_training.training(findings, trained),
        "Cost": sections_record.cost(findings),
        "Use": sections_record.use(findings, example),
        "Provenance": sections_record.provenance(findings),
    }
    there = {name: content for name, content in sections.items() if content is not None}
    top = sections_result.opening(findings, gallery) if fitted else opening_render.opening(findings, sheets)
    main = el("main", top, *there.values())
    body = el("body", _bar(findings, list(there)), main, _foot(findings), el("script", _asset("report.js")))
    return f"<!DOCTYPE html>\n{el('html', _head(findings), body, lang='en')}\n"


def _some_object(sheets: ContactSheets) -> str:
    return sheets.cameras.object_id if sheets.cameras else "an-object-id"


def _head(findings: Findings) -> Html:
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{findings.title} · fpipe report"),
        el("style", _asset("report.css")),
    )


def _bar(findings: Findings, names: list[str]) -> Html:
    links = [el("a", name, href=f"#{name.lower()}") for name in names]
    title = el("a", findings.title, href="#top", class_="title")
    return el("div", title, el("nav", *links, aria_label="Sections"), class_="topbar")


def _foot(findings: Findings) -> Html:
    made = [f"Made by fpipe on {findings.created}."]
    if findings.fit_name:
        made.append(f"Fit {findings.fit_name}, shared components {findings.shared_version}.")
    return el("footer", el("p", " ".join(made)))


def _asset(name: str) -> Html:
    """A style sheet or script of this package; trusted, so it is not escaped."""
    return Html(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))
