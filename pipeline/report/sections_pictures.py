"""The sections made of pictures of fits: comparisons, turntables and interpolation."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.images import ERROR_MAX, error_gradient, error_map
from pipeline.report.markup import Html, el, join
from pipeline.report.parts import film, object_caption, plate, section
from pipeline.report.records import Blend, Comparison, Gallery, ObjectRecord
from pipeline.report.render_records import Picture
from pipeline.report.wording import fixed, number_word

_FILMSTRIP_FRAMES = 5


def comparisons(gallery: Gallery) -> Html | None:
    """Best, median and worst objects as ground truth, rendering and error."""
    if not gallery.comparisons:
        return None
    note = (
        "Ground truth, rendering from the stored planes, and where they differ. For each object the "
        "held-out view whose PSNR is the median of its views."
    )
    groups = []
    for group in dict.fromkeys(comparison.group for comparison in gallery.comparisons):
        members = [comparison for comparison in gallery.comparisons if comparison.group == group]
        groups.append(el("h3", group))
        groups.append(el("div", *(_triplet(member) for member in members), class_="triplets"))
    return section("objects", "Best, median, worst", note, *groups, error_scale())


def turntables(gallery: Gallery) -> Html | None:
    """Objects from a ring of cameras that belong to no view."""
    if not gallery.turntables:
        return None
    shown = gallery.turntables[1:] or gallery.turntables  # the first one opens the page
    note = join(
        f"{number_word(len(shown)).capitalize()} objects from cameras that belong to none of their views: "
        f"{len(shown[0].frames)} steps around the vertical axis, {shown[0].elevation_deg:.0f}° above the "
        "horizon. ",
        el("span", "Drag one, or focus it and press the arrow keys.", class_="script-only"),
    )
    tables = [
        el(
            "figure",
            film(
                t.frames, f"Turntable of {t.record.object_id}, rendered from its planes", len(t.frames) // 8
            ),
            el("figcaption", object_caption(t.record)),
            class_="turntable",
            data_label=t.record.object_id,
        )
        for t in shown
    ]
    frames = len(shown[0].frames)
    start = frames // 8
    control = el(
        "div",
        el("button", "Turn all", type="button", class_="play"),
        el("input", type="range", min=0, max=frames - 1, value=start, class_="azimuth", aria_label="Azimuth"),
        el("output", f"{360 * start // frames}°", class_="readout"),
        class_="control script-only",
    )
    return section("turntables", "Turntables", note, control, el("div", *tables, class_="turntables"))


def blends(gallery: Gallery) -> Html | None:
    """The way from one fit to another."""
    if not gallery.blends:
        return None
    note = (
        "Two fits, mixed linearly in equal steps: first micro planes and coefficients together, then the "
        "coefficients alone, with the micro planes kept half-way. The second row is what the shared base "
        "planes contribute."
    )
    return section("between", "Between two objects", note, *(_blend(blend) for blend in gallery.blends))


def _triplet(comparison: Comparison) -> Html:
    name = comparison.record.object_id
    plates = (
        plate(comparison.truth, f"Ground truth of {name}, held-out view {comparison.view}"),
        plate(comparison.render, f"{name} rendered from its planes, {fixed(comparison.view_psnr_db, 1)} dB"),
        plate(error_map(comparison.render, comparison.truth), f"Where the two differ, {name}"),
    )
    labels = el("div", el("span", "truth"), el("span", "render"), el("span", "error"), class_="labels")
    return el(
        "figure",
        el("div", *plates, class_="plates"),
        labels,
        el("figcaption", object_caption(comparison.record)),
        class_="triplet",
    )


def error_scale() -> Html:
    """The colours of error maps, with what they stand for."""
    ticks = [el("span", f"{ERROR_MAX * i / 3:.1f}" + ("+" if i == 3 else "")) for i in range(4)]
    return el(
        "div",
        el("span", "Error: mean absolute difference over RGB", class_="what"),
        el(
            "div",
            el("div", "", class_="bar", style=f"background:{error_gradient()}"),
            el("div", *ticks, class_="ticks"),
        ),
        class_="error-scale",
    )


def _blend(blend: Blend) -> Html:
    first, second = blend.first, blend.second
    middle = len(blend.whole) // 2
    described = f"Mix of {first.object_id} and {second.object_id}"
    slider = el(
        "input",
        type="range",
        min=0,
        max=len(blend.whole) - 1,
        value=middle,
        class_="mix script-only",
        aria_label=f"From {first.object_id} to {second.object_id}",
    )
    ends = el("div", _end(first), _end(second), class_="ends")
    return el(
        "div",
        el(
            "p",
            el("output", "50", class_="readout"),
            el("small", " % of the way"),
            class_="share script-only",
        ),
        el("div", ends, slider, class_="way"),
        film(blend.whole, described, middle),
        _filmstrip(blend.whole, "Micro planes and coefficients", described),
        film(blend.coefficients_only, f"{described}, coefficients alone", middle),
        _filmstrip(blend.coefficients_only, "Coefficients alone", f"{described}, coefficients alone"),
        class_="blend",
    )


def _end(record: ObjectRecord) -> Html:
    return el("p", object_caption(record), class_="end")


def _filmstrip(frames: Sequence[Picture], label: str, described: str) -> Html:
    last = len(frames) - 1
    places = [round(last * index / (_FILMSTRIP_FRAMES - 1)) for index in range(_FILMSTRIP_FRAMES)]
    plates = [
        plate(frames[place], f"{described}, {100 * place // max(last, 1)} % of the way") for place in places
    ]
    return el("figure", el("div", *plates, class_="plates"), el("figcaption", label), class_="filmstrip")
