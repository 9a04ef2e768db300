"""The sections that say what it took and how to use it: cost, conventions, provenance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.report.markup import Child, Html, el, join
from pipeline.report.parts import description_list, section, table
from pipeline.report.records import Findings, StageForecast, StageRun
from pipeline.report.wording import MISSING, count, duration, signed, size

_STAGE_ORDER: Final = ("render", "train-shared", "fit-objects", "evaluate", "report")


def cost(findings: Findings) -> Html:
    """Time by stage and bytes by part."""
    note = "Wall time of the runs that made this dataset, and what it takes on disk. 1 KB is 1000 bytes."
    content: list[Child] = []
    times = _stage_times(findings)
    if times:
        longest = max(seconds for _, _, _, seconds in times)
        rows = [
            [
                stage,
                _bar(seconds / longest),
                duration(seconds),
                count(n_objects) if n_objects else MISSING,
                duration(seconds / n_objects) if n_objects else MISSING,
                str(n_runs),
            ]
            for stage, n_runs, n_objects, seconds in times
        ]
        rows.append(["total", "", duration(sum(t[3] for t in times)), "", "", str(sum(t[1] for t in times))])
        content.append(
            table(["Stage", "", "Wall time", "Objects", "Per object", "Runs"], rows, "bars with-total")
        )
    if findings.parts:
        largest = max(part.n_bytes for part in findings.parts) or 1
        rows = [
            [
                part.label,
                _bar(part.n_bytes / largest),
                size(part.n_bytes),
                count(part.n_objects),
                size(part.n_bytes / part.n_objects) if part.n_objects else MISSING,
            ]
            for part in findings.parts
        ]
        rows.append(["total", "", size(sum(part.n_bytes for part in findings.parts)), "", ""])
        content.append(table(["Stored", "", "Bytes", "Objects", "Per object"], rows, "bars with-total"))
    if findings.forecasts:
        content.append(_forecast_table(findings.forecasts))
    return section(
        "cost", "Time and bytes", note, *(content or [el("p", "Nothing recorded.", class_="empty")])
    )


def _forecast_table(forecasts: Sequence[StageForecast]) -> Html:
    """What `fpipe plan --forecast` said, and what the runs took; off: by how much it said too much."""
    rows = []
    for one in forecasts:
        cpu, wall, stored = one.cpu_s, one.wall_s, one.stored_bytes
        between = MISSING if cpu.low is None else f"{duration(cpu.low)} to {duration(cpu.high)}"
        rows.append(
            [
                one.stage if one.complete else f"{one.stage}, so far",
                *(duration(cpu.likely), between, duration(cpu.actual), _off(cpu.off)),
                *(duration(wall.likely), duration(wall.actual), _off(wall.off)),
                *(size(stored.likely), size(stored.actual), _off(stored.off)),
            ]
        )
    times = ["CPU time", "range", "was", "off", "Wall time", "was", "off"]
    return table(["Forecast", *times, "Bytes", "were", "off"], rows)


def _off(share: float | None) -> str:
    return f"{signed(100 * share, 0)}\u202f%" if share is not None else MISSING


def use(findings: Findings, example: str) -> Html:
    """How to load what there is, and the conventions that it follows; `example` is an object to load."""
    lines = _load_planes(findings, example) if findings.objects else _load_views(findings, example)
    note = join(
        "The arrays are plain Zarr v3 as well: any Zarr reader opens them, and ",
        el("code", "status"),
        " says which rows are real.",
    )
    conventions = _view_conventions()
    if findings.objects:
        conventions = [*_plane_conventions(findings.shared_meta), *conventions]
    return section("use", "Use", note, el("pre", el("code", "\n".join(lines))), description_list(conventions))


def _load_planes(findings: Findings, example: str) -> list[str]:
    return [
        "from storage.reader import open_planes",
        "",
        f"dataset = open_planes({findings.url!r}, fit={findings.fit_name!r})",
        f"fit = dataset[{example!r}]",
        "planes = fit.planes()              # float32 [3, F, K, K], fused",
        "coefficients = fit.coefficients()  # float32 [M]",
        "cameras = fit.cam2world()          # float32 [V, 4, 4]",
    ]


def _load_views(findings: Findings, example: str) -> list[str]:
    return [
        "from storage.store import Store",
        "from storage.views import ViewsStore",
        "",
        f"views = ViewsStore.open(Store({findings.url!r}))",
        f"own = views.read(views.plan.row_of({example!r}))",
        "own.images                         # uint8 [V, H, W, 4]",
        "own.cam2world, own.intrinsics      # float32 [V, 4, 4] and [V, 3, 3]",
        "own.heldout                        # bool [V]",
    ]


def provenance(findings: Findings) -> Html:
    """Configuration, versions, hardware and revisions, as recorded by every run."""
    facts: list[tuple[Child, Child]] = [
        (name, str(value)) for name, value in findings.facts.items() if value not in (None, "")
    ]
    latest = {run.stage: run for run in findings.runs}
    blocks: list[Child] = [description_list([*facts, *_machines(findings.runs)])]
    blocks += [_run_details(latest[stage]) for stage in _ordered(latest)]
    if findings.fit_config:
        blocks.append(_details("fit configuration", _json(findings.fit_config)))
    if findings.shared_meta:
        blocks.append(_details("shared components", _json(_without_curves(findings.shared_meta))))
    note = "What was run, on what, and with which settings."
    return section("provenance", "Provenance", note, *blocks)


def _machines(runs: Sequence[StageRun]) -> list[tuple[Child, Child]]:
    """What all runs together were made with: machines and revisions, each once."""
    machines = dict.fromkeys(_hardware(run.hardware) for run in runs if run.hardware)
    revisions = dict.fromkeys(run.git_revision for run in runs if run.git_revision)
    pairs: list[tuple[Child, Child]] = [("hardware", machine) for machine in machines]
    return pairs + [("revision", revision) for revision in revisions]


def _hardware(hardware: Mapping[str, Any]) -> str:
    return ", ".join(_named(name, value) for name, value in hardware.items() if value)


def _named(name: str, value: Any) -> str:
    if name.endswith("_bytes") and isinstance(value, int | float):
        return f"{size(value)} {name.removesuffix('_bytes')}"
    return f"{value} {name}" if isinstance(value, int | float) else _plain(value)


def _stage_times(findings: Findings) -> list[tuple[str, int, int, float]]:
    """(stage, runs, objects, seconds) of every stage that recorded its time, in the order of the pipeline."""
    rows = []
    for stage in _ordered({run.stage: run for run in findings.runs}):
        runs = [run for run in findings.runs if run.stage == stage and run.seconds is not None]
        seconds = sum(run.seconds for run in runs if run.seconds is not None)
        n_objects = sum(run.n_objects for run in runs)
        if runs:
            rows.append((stage, len(runs), n_objects, seconds))
    return rows


def _ordered(stages: Mapping[str, Any]) -> list[str]:
    known = [stage for stage in _STAGE_ORDER if stage in stages]
    return known + sorted(set(stages) - set(known))


def _bar(fraction: float) -> Html:
    width = max(0.0, min(1.0, fraction)) if math.isfinite(fraction) else 0.0
    return el("span", "", class_="bar", style=f"--length:{width:.3f}")


def _plane_conventions(meta: Mapping[str, Any]) -> list[tuple[Child, Child]]:
    half = meta.get("box_half")
    span = f"[−{half:g}, {half:g}]³" if isinstance(half, int | float) else "[−box_half, box_half]³"
    axes = "xy, xz, zx, as the released code has them" if meta.get("axes") == "eg3d" else "xy, xz, yz"
    channels = f"{meta.get('f_mic', 'F_mic')} + {meta.get('f_mac', 'F_mac')} channels"
    layout = f": p runs over {axes}; col along the first axis of the plane’s name, row along the second."
    return [
        ("Planes", join(el("code", "planes[p, f, row, col]"), layout, " Both increase.")),
        ("Features", f"Micro planes first, then macro planes: {channels}."),
        (
            "Extent",
            f"{span} in world units. Bilinear, zero outside; the features of the three planes are summed.",
        ),
    ]


def _view_conventions() -> list[tuple[Child, Child]]:
    return [
        (
            "World",
            join(
                "z up. Rendered meshes are centred on their bounding box and scaled to a diagonal of 1; ",
                el("code", "mesh_to_world"),
                " says how.",
            ),
        ),
        ("Cameras", "cam2world, 4 × 4 on column vectors, OpenCV axes: x right, y down, z forward."),
        (
            "Pixels",
            "Centres at +0.5, intrinsics in pixels. RGBA is sRGB with straight alpha, here over white.",
        ),
    ]


def _run_details(run: StageRun) -> Html:
    pairs: list[tuple[Child, Child]] = [("run", run.run_id), ("started", run.started)]
    if run.seconds is not None:
        pairs.append(("wall time", duration(run.seconds)))
    if run.git_revision:
        pairs.append(("revision", run.git_revision))
    if run.hardware:
        pairs.append(("hardware", _hardware(run.hardware)))
    pairs += [(name, _plain(value)) for name, value in run.versions.items()]
    body = join(
        description_list([pair for pair in pairs if pair[1]]), _json(run.config) if run.config else None
    )
    return _details(run.stage, body)


def _details(title: str, body: Child) -> Html:
    return el("details", el("summary", title), body)


def _json(value: Mapping[str, Any]) -> Html:
    return el("pre", el("code", json.dumps(value, indent=2, ensure_ascii=False, default=str)))


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(inner) for inner in value)
    return str(value)


def _without_curves(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Shared metadata without its long lists: the curves are drawn, the ids are in the store."""

    def is_long(value: Any) -> bool:
        return isinstance(value, Mapping | list) and len(json.dumps(value, default=str)) > 1500

    return {name: f"({len(value)} entries)" if is_long(value) else value for name, value in meta.items()}
