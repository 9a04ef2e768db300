"""Building blocks that several sections share: the section frame, plates, captions and tables."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.images import SPRITE_COLUMNS, data_uri, sprite
from pipeline.report.markup import Child, Html, el, join
from pipeline.report.records import ObjectRecord
from pipeline.report.render_records import Picture
from pipeline.report.wording import MISSING, fixed


def section(anchor: str, title: str, note: Child, *content: Child) -> Html:
    """A numbered section: title and note in the margin, content beside them (below, on a narrow screen)."""
    heading = el("div", el("h2", title), el("p", note, class_="note") if note else None, class_="margin")
    return el("section", heading, el("div", *content, class_="content"), id=anchor)


def figure(content: Child, caption: Child, css_class: str = "") -> Html:
    """A figure with its caption."""
    return el("figure", content, el("figcaption", caption), class_=css_class or None)


def plate(picture: Picture, description: str, css_class: str = "") -> Html:
    """One picture on its plate."""
    height, width = picture.shape[:2]
    image = el("img", src=data_uri(picture), alt=description, width=width, height=height)
    return el("div", image, class_=f"plate {css_class}".strip())


def film(frames: Sequence[Picture], description: str, start: int = 0) -> Html:
    """Frames on one sprite sheet, of which the plate shows one; without a script it is a still."""
    height, width = frames[0].shape[:2]
    n_rows = -(-len(frames) // SPRITE_COLUMNS)
    row, column = divmod(start, SPRITE_COLUMNS)
    style = (
        f"width:{SPRITE_COLUMNS * 100}%;"
        f"transform:translate({-100 * column / SPRITE_COLUMNS:.4f}%,{-100 * row / n_rows:.4f}%)"
    )
    image = el("img", src=data_uri(sprite(frames)), alt=description, style=style, draggable="false")
    return el(
        "div",
        image,
        class_="plate film",
        style=f"aspect-ratio:{width}/{height}",
        data_frames=len(frames),
        data_columns=SPRITE_COLUMNS,
        data_rows=n_rows,
    )


def object_caption(record: ObjectRecord) -> Html:
    """An object's name, its regime and its figure."""
    return join(
        el("span", "", class_=f"regime r{record.regime}", role="img", aria_label=f"regime {record.regime}"),
        el("span", record.object_id, class_="name"),
        el("span", fixed(record.psnr_db, 2), el("small", " dB"), class_="figure"),
    )


def key_figures(figures: Sequence[tuple[str, str, str]]) -> Html:
    """The figures at the top of a page as (number, unit, what it is); those without a value are left out."""
    cells = [
        el("div", el("dt", label), el("dd", number, el("small", f"\u202f{unit}" if unit else None)))
        for number, unit, label in figures
        if number != MISSING
    ]
    return el("dl", *cells, class_="key-figures")


def table(header: Sequence[Child], rows: Sequence[Sequence[Child]], css_class: str = "") -> Html:
    """A table whose first column names the row and whose other cells are figures."""
    head = el("tr", *(el("th", cell, scope="col") for cell in header))
    body = [el("tr", el("th", row[0], scope="row"), *(el("td", cell) for cell in row[1:])) for row in rows]
    return el(
        "div", el("table", el("thead", head), el("tbody", *body), class_=css_class or None), class_="table"
    )


def description_list(pairs: Sequence[tuple[Child, Child]]) -> Html:
    """Names and what they stand for."""
    return el("dl", *(el("div", el("dt", name), el("dd", value)) for name, value in pairs))
