"""The sections on the render stage: contact sheets and cameras, then speed and cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.report.charts import Ridge, both_widths, ridges
from pipeline.report.images import data_uri
from pipeline.report.markup import Child, Html, el, join
from pipeline.report.parts import description_list, figure, section, table
from pipeline.report.records import Findings
from pipeline.report.render_charts import camera_chart, camera_text, rate_chart
from pipeline.report.render_records import (
    CameraSample,
    ClassCount,
    ContactSheets,
    RenderedObject,
    RenderFindings,
    ShardTimes,
    Throughput,
    Tile,
)
from pipeline.report.wording import MISSING, count, duration, fixed, nouns, plural, size

_CAMERAS_PX = 340
_RUNS_SHOWN = 12
_TILES_OF_A_NARROW_SHEET = 8
_CLASSES_SHOWN = 6  # rows of the chart of CPU time
_SHOWN_PERCENTILE = 99


def rendered(findings: Findings, sheets: ContactSheets) -> Html:
    """What was rendered: a contact sheet of every class, and where the cameras stand."""
    render = findings.render
    width, height = render.size_px
    note = join(
        f"{count(render.n_views)} views of {width} × {height} pixels of every object, here over white. "
        "Where a sheet does not hold all objects of a class, a seeded lot decides. ",
        el("span", "Point at one for its name and a second view.", class_="hover-only"),
        el("span", "Tap one for its name and a second view.", class_="touch-only"),
    )
    drawn = [
        _sheet(entry, sheets.tiles[entry.class_name])
        for entry in render.classes
        if entry.class_name in sheets.tiles
    ]
    is_narrow = max(map(len, sheets.tiles.values()), default=0) <= _TILES_OF_A_NARROW_SHEET
    content = [el("div", *drawn, class_="sheets side-by-side" if is_narrow else "sheets")]
    without = [entry for entry in render.classes if entry.class_name not in sheets.tiles]
    if without:
        names = ", ".join(f"{entry.class_name} ({_counts(entry)})" for entry in without)
        content.append(el("p", f"Without a sheet: {names}.", class_="empty after"))
    return section("render", "Rendered views", note, *content, _cameras(sheets.cameras))


def speed(findings: Findings) -> Html:
    """How fast it was rendered, what a view costs, and where the time goes."""
    render = findings.render
    sampled = render.n_read < render.n_ok
    whom = (
        f"a sample of {count(render.n_read)} of {plural(render.n_ok, 'object')}"
        if sampled
        else "every object"
    )
    note = (
        "Rates from the runs’ events: a shard’s views are spread evenly over its time. Times and sizes as "
        f"recorded with {whom}."
    )
    content: list[Child] = []
    if render.throughput is not None:
        content += _throughput(render.throughput)
    content += _view_cost(render)
    return section("speed", "Speed", note, *(content or [el("p", "Nothing recorded.", class_="empty")]))


def median_cpu_ms(render: RenderFindings) -> float:
    """Median over objects of the CPU milliseconds per view; NaN where none is recorded."""
    return _median(_values(render.objects, lambda rendered: rendered.cpu_ms_per_view))


def mean_views_per_s(render: RenderFindings) -> float:
    """Views of all runs over the time in which one of them was working; NaN where none is recorded."""
    if render.throughput is None:
        return math.nan
    edges = render.throughput.edges_s
    return float((render.throughput.views_per_s * np.diff(edges)).sum() / edges[-1])


def bytes_per_view(render: RenderFindings) -> float:
    """Stored bytes of one view, everything in the shard files included; NaN without views."""
    n_views = render.n_ok * render.n_views
    return render.n_bytes / n_views if n_views else math.nan


def _sheet(entry: ClassCount, tiles: Sequence[Tile]) -> Html:
    shown = f"{len(tiles)} of {_counts(entry)}" if len(tiles) < entry.n_ok else _counts(entry)
    heading = el("h3", nouns(entry.class_name).capitalize(), el("small", shown))
    return el("div", heading, el("div", *map(_tile, tiles), class_="contact-sheet"))


def _counts(entry: ClassCount) -> str:
    left = entry.n_planned - entry.n_ok - entry.n_failed
    parts = [f"{count(entry.n_ok)} rendered"]
    parts += [f"{count(entry.n_failed)} failed"] if entry.n_failed else []
    parts += [f"{count(left)} not yet"] if left else []
    return ", ".join(parts)


def _tile(tile: Tile) -> Html:
    height, width = tile.views.shape[:2]
    image = el(
        "img", src=data_uri(tile.views), alt=f"Two views of {tile.object_id}", width=width, height=height
    )
    return el(
        "figure",
        image,
        el("figcaption", tile.object_id),
        class_="plate tile",
        style=f"aspect-ratio:{width // 2}/{height}",
        title=tile.object_id,
        tabindex=-1,
    )


def _cameras(sample: CameraSample | None) -> Html | None:
    if sample is None:
        return None
    keys = join(
        *(
            el("span", el("span", "", class_=f"regime {css}"), f" {label}", class_="key")
            for css, label in (("r2", "training"), ("r1", "held out"))
        )
    )
    own = figure(
        camera_chart(sample.positions, sample.heldout, _CAMERAS_PX),
        join(f"Cameras of {sample.object_id}, seen from above: ", camera_text(sample), " ", keys),
    )
    if len(sample.others):
        others = figure(
            camera_chart(sample.others, None, _CAMERAS_PX),
            f"Cameras of {plural(sample.n_others, 'object')} together. Equal areas of the disc are equal "
            "areas of the sphere, so an even spread looks even.",
        )
    else:
        others = el("p", "Every object of the sheets has these same cameras.", class_="empty")
    return join(el("h3", "Cameras"), el("div", own, others, class_="pair cameras"))


def _throughput(data: Throughput) -> list[Html]:
    caption = "Views per second while at least one run was working."
    if len(data.starts) > 1:
        caption += f" Dashed: one of {len(data.starts)} periods of work begins; the pauses are cut out."
    chart = figure(both_widths(lambda width: rate_chart(data, width)), caption)
    shown = data.runs[-_RUNS_SHOWN:]
    rows = [
        [
            run.started,
            duration(run.seconds),
            count(run.n_ok),
            count(run.n_failed) if run.n_failed else MISSING,
            fixed(run.views_per_s, 1),
            fixed(run.mean_tasks, 1),
            str(max(1, len(run.nodes))),
            count(run.n_failed_shards) if run.n_failed_shards else MISSING,
        ]
        for run in shown
    ]
    header = ["Run, UTC", "Time", "Rendered", "Failed", "Views/s", "Tasks", "Nodes", "Shards lost"]
    if not any(run.n_failed_shards for run in shown):
        header, rows = header[:-1], [row[:-1] for row in rows]
    parts = [chart, table(header, rows, "runs")]
    if len(data.runs) > len(shown):
        parts.append(
            el("p", f"The last {len(shown)} of {plural(len(data.runs), 'run')}.", class_="empty after")
        )
    return parts


def _view_cost(render: RenderFindings) -> list[Html]:
    parts = []
    cpu = [ridge for ridge in _cpu_ridges(render) if len(ridge.values)]
    if cpu:
        hidden = _beyond(cpu)
        rows = [Ridge(r.label, r.css_class, r.values[r.values <= hidden]) for r in cpu]
        n_hidden = sum(len(ridge.values) for ridge in cpu) - sum(len(ridge.values) for ridge in rows)
        drawn = (
            f"Mark and number give the mean of those drawn; {plural(n_hidden, 'object')} beyond "
            f"{fixed(hidden, 0)} ms {'are' if n_hidden > 1 else 'is'} not."
            if n_hidden
            else "Mark and number give the mean."
        )
        caption = (
            f"CPU time of the Blender process per view, one block per object, its import included. {drawn}"
        )
        parts.append(
            figure(both_widths(lambda width: ridges(rows, "CPU-ms per view", 1, width)), caption, "cpu")
        )
    if render.times.task_s > 0:
        parts.append(_time_bar(render.times))
    return [*parts, _cost_list(render)]


def _cpu_ridges(render: RenderFindings) -> list[Ridge]:
    """CPU milliseconds per view: a row per class while there are few of them, one row of all otherwise."""
    names = [entry.class_name for entry in render.classes if entry.n_ok]
    if len(names) > _CLASSES_SHOWN or not names:
        return [Ridge("All objects", "r2", _values(render.objects, lambda own: own.cpu_ms_per_view))]
    return [
        Ridge(
            nouns(name).capitalize(),
            "r2",
            _values([o for o in render.objects if o.class_name == name], lambda own: own.cpu_ms_per_view),
        )
        for name in names
    ]


def _beyond(rows: Sequence[Ridge]) -> float:
    """Where the axis ends: a few heavy meshes must not squeeze all others into one column."""
    values = np.concatenate([row.values for row in rows])
    usual = float(np.percentile(values, _SHOWN_PERCENTILE))
    return usual if float(values.max()) > 1.5 * usual else float(values.max())


def _time_bar(times: ShardTimes) -> Html:
    drawn_s = times.render_s - times.load_s
    parts = [
        ("Rendering", "r2", drawn_s),
        ("Import", "r1", times.load_s),
        ("Fetching", "edge", times.fetch_s),
        ("Start, encoding, storing", "ref", times.task_s - times.render_s - times.fetch_s),
    ]
    shown = [(name, css, max(0.0, seconds) / times.task_s) for name, css, seconds in parts]
    bars = [el("span", "", class_=css, style=f"flex-grow:{share:.4f}") for _, css, share in shown]
    keys = [
        el("span", el("span", "", class_=f"swatch {css}"), f" {name} ", el("b", f"{share:.1%}"), class_="key")
        for name, css, share in shown
    ]
    described = ", ".join(f"{name} {share:.1%}" for name, _, share in shown)
    bar = el("div", *bars, class_="stack", role="img", aria_label=f"Where the time goes: {described}")
    return figure(bar, join("Where the time of the tasks goes. ", *keys), "stacked")


def _cost_list(render: RenderFindings) -> Html:
    faces = _values(render.objects, lambda own: own.n_faces)
    import_s = _values(render.objects, lambda own: own.load_s)
    pairs: list[tuple[Child, Child]] = [
        ("CPU per view", f"{fixed(median_cpu_ms(render), 1)}\u202fms, median over objects"),
        (
            "import per object",
            f"{duration(_median(import_s))}, median; slowest {duration(_largest(import_s))}",
        ),
        ("faces per object", f"{_whole(_median(faces))}, median; most {_whole(_largest(faces))}"),
        (
            "stored per view",
            f"{size(bytes_per_view(render))}, of {size(math.prod(render.size_px) * 4)} of pixels",
        ),
    ]
    known = [(name, value) for name, value in pairs if not str(value).startswith(MISSING)]
    return el("div", description_list(known), class_="after")


def _values(
    objects: Sequence[RenderedObject], figure_of: Callable[[RenderedObject], float]
) -> NDArray[np.float64]:
    values = np.array([figure_of(rendered) for rendered in objects], dtype=np.float64)
    return np.asarray(values[np.isfinite(values)])


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else math.nan


def _largest(values: NDArray[np.float64]) -> float:
    return float(values.max()) if len(values) else math.nan


def _whole(value: float) -> str:
    return count(round(value)) if math.isfinite(value) else MISSING
