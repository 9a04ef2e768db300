"""The section on the training of the shared components: losses, pictures on the way, and what was learned."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.charts import both_widths
from pipeline.report.images import error_map
from pipeline.report.markup import Child, Html, el, join
from pipeline.report.parts import figure, plate, section
from pipeline.report.records import Curve, Findings
from pipeline.report.sections_pictures import error_scale
from pipeline.report.training_charts import coefficient_bars, curve, phase_name
from pipeline.report.training_gallery import DEVIATIONS, PLANES
from pipeline.report.training_records import (
    BasePlane,
    CoefficientPair,
    Reconstruction,
    Timeline,
    TrainingGallery,
)
from pipeline.report.wording import count, fixed, listing, number_word


def training(findings: Findings, gallery: TrainingGallery) -> Html | None:
    """How the shared components were trained, and what they hold; None where nothing was recorded."""
    content = [
        *_losses(findings.curves),
        *_reconstructions(gallery.reconstructions),
        *_timelines(gallery.timelines, findings.curves),
        *_base_planes(gallery, findings),
        *_pair(gallery.pair),
    ]
    if not content:
        return None
    note = (
        "Autoencoder, base planes and renderer, which all objects share. Held-out views are shown here, "
        "but no step of the training saw them."
    )
    return section("training", "Training", note, *content)


def _losses(curves: Sequence[Curve]) -> list[Child]:
    if not curves:
        return []
    charts = [
        figure(curve(data, 420), join(data.name, el("span", f"{data.values[-1]:.3g}", class_="figure")))
        for data in curves
    ]
    keys = [
        el("span", el("span", "", class_="stroke"), " median of the batches", class_="key"),
        el("span", el("span", "", class_="swatch band"), " nine in ten of them", class_="key"),
    ]
    resumed = sorted({step for data in curves for step in data.resumed})
    if resumed:
        steps = listing([count(int(step)) for step in resumed[:6]]) + ("…" if len(resumed) > 6 else "")
        keys.append(el("span", el("span", "", class_="wedge"), f" resumed at step {steps}", class_="key"))
    words = "Means of squares on batches of training views, over steps. "
    return [el("div", *charts, class_="curves"), el("p", words, *keys, class_="legend")]


def _reconstructions(shown: Sequence[Reconstruction]) -> list[Child]:
    if not shown:
        return []
    heading = el("h3", "What the autoencoder keeps", el("small", "held-out views"))
    triplets = [_reconstruction(one) for one in shown]
    return [heading, el("div", *triplets, class_="triplets"), error_scale()]


def _reconstruction(one: Reconstruction) -> Html:
    plates = (
        plate(one.truth, f"Ground truth of {one.object_id}, held-out view {one.view}"),
        plate(one.picture, f"The same after the autoencoder, {fixed(one.psnr_db, 1)} dB"),
        plate(error_map(one.picture, one.truth), f"Where the two differ, {one.object_id}"),
    )
    labels = (el("span", label) for label in ("truth", "autoencoder", "error"))
    caption = join(
        el("span", one.object_id, class_="name"),
        el("span", fixed(one.psnr_db, 2), el("small", " dB"), class_="figure"),
    )
    return el(
        "figure",
        el("div", *plates, class_="plates"),
        el("div", *labels, class_="labels"),
        el("figcaption", caption),
        class_="triplet",
    )


def _timelines(timelines: Sequence[Timeline], curves: Sequence[Curve]) -> list[Child]:
    if not timelines:
        return []
    phases = curves[0].phases if curves else ()
    heading = el(
        "h3",
        "Held-out views as the training went on",
        el("small", "drawn for the eye alone; nothing was measured on them"),
    )
    return [heading, el("div", *(_timeline(one, phases) for one in timelines), class_="timelines")]


def _timeline(one: Timeline, phases: Sequence[tuple[float, str]]) -> Html:
    cells = []
    for step, frame in one.frames:
        phase = phase_name(next((name for start, name in reversed(phases) if start <= step), ""))
        caption = el("figcaption", count(step), el("small", f" {phase}") if phase else None)
        picture = plate(frame, f"{one.object_id}, held-out view {one.view}, after step {step}")
        cells.append(el("figure", picture, caption))
    truth = plate(one.truth, f"Ground truth of {one.object_id}, held-out view {one.view}", "truth")
    cells.append(el("figure", truth, el("figcaption", "truth")))
    style = f"--columns:{len(cells)}"
    return el(
        "div",
        el("p", one.object_id, class_="name"),
        el("div", *cells, class_="frames", style=style),
        class_="timeline",
    )


def _base_planes(gallery: TrainingGallery, findings: Findings) -> list[Child]:
    planes = gallery.base_planes
    if not planes:
        return []
    total = findings.shared_meta.get("n_base", len(planes))
    shown = (
        f"the first {PLANES} of {total}" if isinstance(total, int) and total > len(planes) else "one by one"
    )
    under = ", over the mean of all micro planes" if gallery.with_micro else ""
    varied = any(plane.less is not None for plane in planes)
    words = (
        f"{'Large' if varied else 'Each'}: rendered with one coefficient alone{under}; it has the length of "
        "an object’s whole vector of coefficients and the sign that it has on average."
    )
    if varied:
        words += (
            f" Small: the mean object with that coefficient {number_word(int(DEVIATIONS))} standard "
            "deviations lower and higher."
        )
    cells = [_base_plane(plane, k + 1) for k, plane in enumerate(planes)]
    return [
        el("h3", "The base planes", el("small", shown)),
        el("div", *cells, class_="base-planes" + (" varied" if varied else "")),
        el("p", words, class_="legend"),
    ]


def _base_plane(plane: BasePlane, number: int) -> Html:
    small = [
        plate(picture, f"The mean object with {amount} of base plane {number}")
        for picture, amount in ((plane.less, "less"), (plane.more, "more"))
        if picture is not None
    ]
    return el(
        "figure",
        plate(plane.alone, f"Base plane {number} alone"),
        el("div", *small, class_="plates") if small else None,
        el("figcaption", el("span", "B", el("sub", number))),
    )


def _pair(pair: CoefficientPair | None) -> list[Child]:
    if pair is None:
        return []
    ends = [
        el(
            "figure",
            plate(picture, f"A view of {name}"),
            el("figcaption", el("span", "", class_=f"swatch {css}"), el("span", name, class_="name")),
        )
        for name, picture, css in zip(pair.ids, pair.pictures, ("first", "second"), strict=True)
    ]
    heading = el("h3", "Coefficients of two objects", el("small", "of the largest class, farthest apart"))
    chart = both_widths(lambda width: coefficient_bars(pair, width - 170 if width > 500 else width))
    caption = f"Coefficients of the {len(pair.coefficients[0])} base planes."
    bars = figure(chart, caption)
    return [heading, el("div", el("div", *ends, class_="ends"), bars, class_="coefficients")]
