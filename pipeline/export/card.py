"""The dataset card of an export: README.md with the YAML header that the Hugging Face hub reads."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import yaml

from pipeline.export.facts import INDEX, NOT_EXPORTED, Facts

CARD = "README.md"
LISTED = 100
"""Objects without planes that the card itself lists; `not_exported.csv` has all."""

_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)
_HUGE = "10M<n<100M"

_READ = {
    "npy": """import numpy as np

{first} = np.load("{file}")  # {shape}""",
    "safetensors": """from safetensors.numpy import load_file

arrays = load_file("{file}")  # {names}""",
    "h5": """import h5py

with h5py.File("{file}") as file:
    values, class_id = file["{h5_name}"][:], int(file["class_id"][()])""",
    "webdataset": """import webdataset as wds

for found in wds.WebDataset("{file}").decode():
    values, about = found["{first}.npy"], found["json"]  # about: object_id, class, class_id, row""",
}
_NORMALIZE = """lower, upper = np.load("stats/lower_bound.npy"), np.load("stats/upper_bound.npy")
middle, half = (lower + upper) / 2, (upper - lower) / 2  # a channel that never changes has half = 0"""


def card_text(facts: Facts, folder: Path) -> bytes:
    """Returns the card."""
    header = yaml.safe_dump(_front_matter(facts), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{header}---",
        f"# {_plain(facts.title)}",
        _opening(facts),
        _contents(facts, folder),
        _classes(facts),
        _quality(facts),
        _left_out(facts),
        _provenance(facts),
        _terms(facts),
    ]
    return ("\n\n".join(part for part in parts if part) + "\n").encode()


def _front_matter(facts: Facts) -> dict[str, Any]:
    data_files = facts.layout.patterns[0] if facts.options.to == "webdataset" else INDEX
    return {
        "license": facts.options.license,
        "pretty_name": facts.title,
        "tags": ["3d", "tri-plane", "neural-fields", "fused-planes", facts.options.to],
        "size_categories": [_size(len(facts.rows))],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": data_files}]},
        ],
    }


def _size(n_objects: int) -> str:
    return next((name for limit, name in _SIZES if n_objects < limit), _HUGE)


def _opening(facts: Facts) -> str:
    fused = "fused planes" if facts.header.n_base else "planes"
    names = {"planes": fused, "micro": "micro planes", "coefficients": "coefficients"}
    what = " and ".join(names[array] for array in facts.shapes)
    return (
        f"{len(facts.rows)} objects ({_class_names(facts)}) as tri-plane neural representations: {what},"
        " made with fpipe after *Fused-Planes* ([arXiv 2410.23742](https://arxiv.org/abs/2410.23742)) and"
        f" written by `fpipe export --to {facts.options.to}`. All objects share one renderer."
    )


def _class_names(facts: Facts) -> str:
    names = list(map(_plain, facts.class_counts))
    return ", ".join(names) if len(names) <= 8 else f"{len(names)} classes"


def _contents(facts: Facts, folder: Path) -> str:
    rows = ["| array | shape of one object | axes | type |", "|---|---|---|---|"]
    for name in facts.shapes:
        shape, axes = facts.axes(name)
        rows.append(f"| `{_in_files(facts, name)}` | {list(shape)} | {axes} | {facts.dtype(name)} |")
    notes = [_geometry(facts), _channels(facts), _files(facts)]
    if (folder / "base_planes.npy").exists():
        shape = facts.dataset.base_planes().shape
        notes.append(
            f"- **Base planes**: `base_planes.npy`, float32 {list(shape)}: base plane, plane, channel, row,"
            " column."
        )
    if (folder / "stats").exists():
        notes.append(
            f"- **Bounds**: `stats/lower_bound.npy` and `stats/upper_bound.npy`, float32"
            f" [{3 * facts.n_channels}]: smallest and largest value of every channel over all exported"
            " objects, plane by plane."
        )
    example = _READ[facts.options.to].format(**_example(facts))
    if facts.options.to == "npy" and facts.n_channels:
        example = f"{example}\n{_NORMALIZE}"
    return "\n".join(["## What is in it", "", *rows, "", *notes, "", f"```python\n{example}\n```"])


def _geometry(facts: Facts) -> str:
    order, box_half = ", ".join(facts.header.plane_order), facts.dataset.shared.get("box_half", "unknown")
    return (
        f"- **Planes** in the order {order}: columns run along the first axis of a plane's name, rows along"
        f" the second, both increasing. They span ±{box_half} of a right-handed world, z up; values between"
        " texel centres are bilinear, zero outside, as of"
        " `grid_sample` with `align_corners=False`."
    )


def _channels(facts: Facts) -> str:
    header = facts.header
    if not facts.options.micro:
        return (
            f"- **Channels** of every plane: {header.f_mic} of the object's own (micro), then"
            f" {facts.n_channels - header.f_mic} that are a weighted sum of {header.n_base} base planes"
            " (macro)."
        )
    if not header.n_base:
        return "- **Channels**: all are the object's own; there are no base planes."
    macro = "np.tensordot(coefficients, base_planes, 1)"
    fused = f"np.concatenate([micro, {macro}], axis=1)" if header.f_mic else macro
    shape = f", with `micro` as [3, {header.f_mic}, K, K]" if header.f_mic else ""
    return f"- **Fusing**: `{fused}` gives the fused planes{shape}."


def _files(facts: Facts) -> str:
    numbers = " A file's number is the row of its object." if facts.options.to == "h5" else ""
    return (
        f"- **Files**: `{'`, `'.join(facts.layout.patterns)}`, {facts.n_bytes:,} bytes in all. `{INDEX}`"
        f" lists every object with class, held-out figures and file.{numbers}"
    )


def _example(facts: Facts) -> dict[str, str]:
    first = next(iter(facts.shapes))
    return {
        "file": facts.files[0].replace("\\", "\\\\").replace('"', '\\"'),
        "first": first,
        "h5_name": _in_files(facts, first),
        "names": ", ".join([*(f"{name} {list(shape)}" for name, shape in facts.shapes.items()), "class_id"]),
        "shape": str(list(facts.axes(first)[0])),
    }


def _in_files(facts: Facts, name: str) -> str:
    return "triplane" if facts.options.to == "h5" and len(facts.shapes[name]) == 4 else name


def _classes(facts: Facts) -> str:
    rows = [f"| {_cell(name)} | {facts.class_ids[name]} | {n} |" for name, n in facts.class_counts.items()]
    return "\n".join(["## Classes", "", "| class | class_id | objects |", "|---|---|---|", *rows])


def _quality(facts: Facts) -> str:
    found = facts.quality["all"]
    psnr = found["psnr_db"]
    if psnr["mean"] is None:
        return ""
    figures = (
        f"PSNR {psnr['mean']:.2f} dB in the mean, {psnr['median']:.2f} dB in the median; one object in twenty"
        f" is below {psnr['p05']:.2f} dB."
    )
    if (ssim := found["ssim"]["mean"]) is not None:
        figures += f" SSIM {ssim:.3f} in the mean."
    joint, fitted = facts.quality["regime1"]["objects"], facts.quality["regime2"]["objects"]
    return (
        "## Quality\n\n"
        f"Renderings against views that no fit was given, over {found['objects']} objects ({joint} trained"
        f" jointly with the shared components, {fitted} fitted to them): {figures}"
    )


def _left_out(facts: Facts) -> str:
    if not facts.unavailable:
        return ""
    listed = itertools.islice(facts.unavailable.items(), LISTED)
    rows = [f"| {_cell(name)} | {_cell(reason)} |" for name, reason in listed]
    more = f" The first {LISTED}:" if len(facts.unavailable) > LISTED else ""
    return "\n".join(
        [
            "## Not in it",
            "",
            f"{len(facts.unavailable)} objects have no planes and are in no file (`{NOT_EXPORTED}`).{more}",
            "",
            "| object | why |",
            "|---|---|",
            *rows,
        ]
    )


def _provenance(facts: Facts) -> str:
    rows = [f"| {name} | `{value}` |" for name, value in facts.provenance.items()]
    return "\n".join(
        [
            "## Provenance",
            "",
            "| | |",
            "|---|---|",
            *rows,
            "",
            "Rendering needs the shared components of this `shared_version` from the fpipe dataset (renderer"
            " and decoder); they are not part of this export.",
        ]
    )


def _terms(facts: Facts) -> str:
    lines = []
    if facts.terms is not None:
        lines.append(f"Objects come from source {facts.provenance['source']}: {facts.terms}.")
    if facts.options.license == "other":
        lines.append(
            "No licence was chosen when this was written: choose one before publishing (`license` above)."
        )
    return "\n".join(["## Terms", "", *lines]) if lines else ""


def _cell(text: str) -> str:
    """Text of a table's cell: no line ends, no HTML, no further cells."""
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
