"""The top of the page of a dataset without fits: what is rendered, and its key figures."""

from __future__ import annotations

import math

import numpy as np

from pipeline.report.markup import Html, el
from pipeline.report.parts import key_figures, plate
from pipeline.report.records import Findings
from pipeline.report.render_records import ContactSheets, Picture, RenderFindings
from pipeline.report.sections_render import bytes_per_view, mean_views_per_s, median_cpu_ms
from pipeline.report.wording import (
    count,
    fixed,
    listing,
    nouns,
    number_and_unit,
    number_word,
    plural,
    size,
)

_MOSAIC_SIDE = 4


def opening(findings: Findings, sheets: ContactSheets) -> Html:
    """Title, what it is in a few sentences, some of the objects, and the key figures."""
    words = el(
        "div",
        el("p", "Dataset report", class_="eyebrow"),
        el("h1", _headline(findings.render)),
        el("p", _lead(findings), class_="lead"),
        class_="words",
    )
    picture = _mosaic(sheets)
    shown = (
        el("figure", plate(picture, "Some of the rendered objects"), class_="opening-turntable mosaic")
        if picture is not None
        else None
    )
    opened = el("div", words, shown, class_="opening")
    return el("header", opened, _key_figures(findings.render), class_="hero", id="top")


def _headline(render: RenderFindings) -> str:
    there = [entry for entry in render.classes if entry.n_ok]
    if not there:
        return "Nothing could be rendered"
    if len(there) <= 2:
        return f"{listing([plural(entry.n_ok, entry.class_name) for entry in there])}, rendered"
    if len(there) <= 4:
        names = listing([nouns(entry.class_name) for entry in there])
        return f"{plural(render.n_ok, 'object')}, rendered: {names}"
    return f"{plural(render.n_ok, 'object')} of {number_word(len(there))} classes, rendered"


def _lead(findings: Findings) -> str:
    render = findings.render
    width, height = render.size_px
    sentences = [f"{count(render.n_views)} posed views of {width} × {height} pixels of every object."]
    left = render.n_planned - render.n_ok - render.n_failed
    if render.n_failed:
        sentences.append(f"{plural(render.n_failed, 'object')} failed.")
    if left:
        sentences.append(
            f"{plural(left, 'object')} of the plan {'are' if left > 1 else 'is'} not rendered yet."
        )
    trained = findings.shared_version
    sentences.append(
        "The shared components are trained; no object is fitted yet."
        if trained
        else "Nothing has been trained on them yet."
    )
    return " ".join(sentences)


def _key_figures(render: RenderFindings) -> Html:
    return key_figures(
        [
            (count(render.n_ok), "", "objects rendered"),
            (count(render.n_ok * render.n_views), "", "views"),
            (fixed(mean_views_per_s(render), 1), "/s", "views, while a run was working"),
            (fixed(median_cpu_ms(render), 1), "ms", "of CPU per view, median over objects"),
            (*number_and_unit(size(bytes_per_view(render))), "stored, per view"),
            (count(render.n_failed), "", "objects failed"),
        ]
    )


def _mosaic(sheets: ContactSheets) -> Picture | None:
    """Up to 4 × 4 objects, the classes by turns, each in its first view."""
    longest = max((len(tiles) for tiles in sheets.tiles.values()), default=0)
    turns = [tiles[i] for i in range(longest) for tiles in sheets.tiles.values() if i < len(tiles)]
    side = min(_MOSAIC_SIDE, math.isqrt(len(turns)))
    if not side:
        return None
    firsts = [tile.views[:, : tile.views.shape[1] // 2] for tile in turns[: side * side]]
    rows = [np.concatenate(firsts[start : start + side], axis=1) for start in range(0, side * side, side)]
    return np.asarray(np.concatenate(rows))
