"""The sections that say how good the fits are: opening, key figures, ruler and distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import metrics
from pipeline.report.charts import Ridge, both_widths, ridges, scatter
from pipeline.report.markup import Html, el, join
from pipeline.report.parts import figure, film, key_figures, object_caption, section, table
from pipeline.report.records import Findings, Gallery, Turntable
from pipeline.report.ruler import rulers
from pipeline.report.wording import (
    count,
    duration,
    fixed,
    listing,
    nouns,
    number_and_unit,
    number_word,
    plural,
    signed,
    size,
)


def opening(findings: Findings, gallery: Gallery) -> Html:
    """Title, what it is in a few sentences, an object to turn, the key figures and the ruler."""
    words = el(
        "div",
        el("p", "Dataset report", class_="eyebrow"),
        el("h1", _headline(findings)),
        el("p", _lead(findings), class_="lead"),
        class_="words",
    )
    turntable = _opening_turntable(gallery)
    caption = (
        "Objects from the lowest to the highest held-out PSNR, each from a camera that no fit was given; "
        "hover to see the ground truth instead. Below the scale, the means of all objects."
    )
    drawn = rulers(gallery.exhibits, findings.summary)
    scale = figure(drawn, caption, "ruler") if drawn else None
    return el(
        "header",
        el("div", words, turntable, class_="opening"),
        _key_figures(findings),
        scale,
        class_="hero",
        id="top",
    )


def accuracy(findings: Findings) -> Html:
    """Distributions over objects, against the ceiling and both baselines, and the table of statistics."""
    note = (
        "Every object, on views held out from training, from fitting and from every choice made on the way. "
        "The ceiling is what the autoencoder alone makes of the same views."
    )
    psnr = [
        Ridge("All white", "ref", _values(findings, "white_psnr_db")),
        Ridge("Nearest training view", "ref", _values(findings, "nearest_view_psnr_db")),
        *_by_regime(findings, "psnr_db"),
        Ridge("Autoencoder alone", "ceiling", _values(findings, "ceiling_psnr_db")),
    ]
    pair = el(
        "div",
        figure(
            scatter(findings.objects, 400),
            join("Each fit against its own ceiling; on the diagonal nothing is lost. ", _legend()),
        ),
        figure(
            _statistics(findings),
            "Statistics over objects. p05: one object in twenty is worse. LPIPS needs weights that must be "
            "given; without them it stays empty.",
        ),
        class_="pair",
    )
    return section(
        "accuracy",
        "Accuracy",
        note,
        figure(
            both_widths(lambda width: ridges(psnr, "PSNR, dB", 2, width)),
            "Held-out PSNR, one block per object, all rows to one scale; mark and number give the mean.",
        ),
        figure(
            both_widths(lambda width: ridges(_by_regime(findings, "ssim"), "SSIM", 3, width)),
            f"Held-out SSIM: {metrics.SSIM_DEFINITION}.",
        ),
        pair,
    )


def _headline(findings: Findings) -> str:
    names = findings.class_names
    n_objects = len(findings.objects)
    if len(names) <= 2:
        counts = [plural(sum(o.class_name == name for o in findings.objects), name) for name in names]
        return f"{listing(counts)}, held as planes"
    if len(names) <= 4:
        return f"{plural(n_objects, 'object')}, held as planes: {listing([nouns(name) for name in names])}"
    return f"{plural(n_objects, 'object')} of {number_word(len(names))} classes, held as planes"


def _lead(findings: Findings) -> str:
    joint, fitted = len(findings.of_regime(1)), len(findings.of_regime(2))
    group = findings.summary["regime2" if fitted else "all"]
    mean, ceiling = group["psnr_db"]["mean"], group["ceiling_psnr_db"]["mean"]
    sentences = []
    if joint:
        sentences.append(f"{_were(joint)} trained jointly with the components that all objects share.")
    if fitted:
        sentences.append(f"{_were(fitted)} fitted afterwards, each on its own, with those components frozen.")
    if mean is not None:
        whom = f"these {count(fitted)}" if joint and fitted else "they"
        below = f", {fixed(ceiling - mean, 2)} dB below the autoencoder alone" if ceiling is not None else ""
        sentences.append(
            f"On views that no fit was given, {whom} reach {fixed(mean, 2)} dB on average{below}."
        )
    if n_failed := sum(kind.n_objects for kind in findings.failures):
        sentences.append(f"{plural(n_failed, 'object')} failed.")
    return " ".join(sentences)


def _were(number: int) -> str:
    return f"{number_word(number).capitalize()} {'was' if number == 1 else 'were'}"


def _opening_turntable(gallery: Gallery) -> Html | None:
    if not gallery.turntables:
        return None
    chosen: Turntable = gallery.turntables[0]
    description = f"Turntable of {chosen.record.object_id}, rendered from its planes"
    return el(
        "figure",
        film(chosen.frames, description, len(chosen.frames) // 8),
        el("div", el("output", "", class_="readout"), class_="dial script-only"),
        el("figcaption", object_caption(chosen.record)),
        class_="turntable opening-turntable",
        data_label=chosen.record.object_id,
    )


def _key_figures(findings: Findings) -> Html:
    group = findings.summary["regime2" if findings.of_regime(2) else "all"]
    mean, ceiling = group["psnr_db"]["mean"], group["ceiling_psnr_db"]["mean"]
    nearest = group["nearest_view_psnr_db"]["mean"]
    whose = "objects fitted alone" if findings.of_regime(2) else "all objects"
    stored = next((part for part in findings.parts if part.label.startswith("planes")), None)
    per_object = stored.n_bytes / max(stored.n_objects, 1) if stored else None
    gap = None if mean is None or ceiling is None else mean - ceiling
    gain = None if mean is None or nearest is None else mean - nearest
    figures = [
        (fixed(mean, 2), "dB", f"held-out PSNR, {whose}"),
        (fixed(group["ssim"]["mean"], 3), "", "SSIM on the same views"),
        (signed(gap, 2), "dB", "to the autoencoder\u2019s ceiling"),
        (signed(gain, 1), "dB", "over the nearest training view"),
        (*number_and_unit(size(per_object)), "stored, per object"),
        (*number_and_unit(duration(_fit_seconds(findings))), "to fit, per object"),
    ]
    return key_figures(figures)


def _fit_seconds(findings: Findings) -> float | None:
    """Wall seconds of the fit stage per object that it completed."""
    runs = [run for run in findings.runs if run.stage == "fit-objects" and run.seconds is not None]
    completed = sum(run.n_objects for run in runs)
    return sum(run.seconds or 0.0 for run in runs) / completed if completed else None


def _values(findings: Findings, name: str, regime: int | None = None) -> NDArray[np.float64]:
    chosen = findings.objects if regime is None else findings.of_regime(regime)
    return np.array([record.figures.get(name, np.nan) for record in chosen], dtype=np.float64)


def _by_regime(findings: Findings, name: str) -> list[Ridge]:
    labels = {1: "Regime 1, joint", 2: "Regime 2, frozen"}
    return [
        Ridge(labels[regime], f"r{regime}", _values(findings, name, regime))
        for regime in (1, 2)
        if findings.of_regime(regime)
    ]


def _legend() -> Html:
    return join(
        *(
            el("span", el("span", "", class_=f"regime r{regime}"), f" regime {regime}", class_="key")
            for regime in (1, 2)
        )
    )


def _statistics(findings: Findings) -> Html:
    groups: list[tuple[str, dict[str, Any]]] = [
        (label, findings.summary[key])
        for label, key in (("Regime 2", "regime2"), ("Regime 1", "regime1"), ("All", "all"))
        if findings.summary[key]["objects"]
    ]
    lines = [
        ("PSNR, mean", "psnr_db", "mean", 2),
        ("median", "psnr_db", "median", 2),
        ("p05", "psnr_db", "p05", 2),
        ("Foreground PSNR", "foreground_psnr_db", "mean", 2),
        ("SSIM", "ssim", "mean", 3),
        ("LPIPS", "lpips", "mean", 3),
        ("Ceiling PSNR", "ceiling_psnr_db", "mean", 2),
        ("Nearest view PSNR", "nearest_view_psnr_db", "mean", 2),
        ("All-white PSNR", "white_psnr_db", "mean", 2),
    ]
    rows = [
        [label, *(fixed(values[metric][statistic], decimals) for _, values in groups)]
        for label, metric, statistic, decimals in lines
    ]
    objects = ["Objects", *(str(values["objects"]) for _, values in groups)]
    return table(["", *(label for label, _ in groups)], [objects, *rows], "statistics")
