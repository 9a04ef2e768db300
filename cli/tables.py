"""Plain-text forms of what the commands found, for stdout: aligned, without colour, safe to pipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NAMED_FLAGS = 10
"""Flagged objects that an evaluation names, of each kind; `--json` has all."""


def table(rows: Sequence[Sequence[str]], right: bool = True) -> str:
    """Aligns rows of cells; the first row is the header, the first column is left-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width in zip(row[1:], widths[1:], strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def bytes_text(count: float) -> str:
    """Returns "12 B", "3.4 kB", "1.2 MB" (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


def evaluation_text(found: dict[str, Any]) -> str:
    """One column per regime, one line per figure."""
    regimes = [name for name in ("all", "regime1", "regime2") if found.get(name, {}).get("objects")]
    lines = (
        ("objects", "objects", None, 0),
        ("PSNR dB, mean", "psnr_db", "mean", 2),
        ("  median", "psnr_db", "median", 2),
        ("  5th percentile", "psnr_db", "p05", 2),
        ("  foreground, mean", "foreground_psnr_db", "mean", 2),
        ("SSIM, mean", "ssim", "mean", 4),
        ("LPIPS, mean", "lpips", "mean", 4),
        ("autoencoder's ceiling dB", "ceiling_psnr_db", "mean", 2),
        ("baseline: nearest view dB", "nearest_view_psnr_db", "mean", 2),
        ("baseline: all white dB", "white_psnr_db", "mean", 2),
    )
    rows = [["held-out views", *("all" if name == "all" else f"regime {name[-1]}" for name in regimes)]]
    for label, key, statistic, digits in lines:
        values = [found[name][key] if statistic is None else found[name][key][statistic] for name in regimes]
        rows.append([label, *("—" if value is None else f"{value:.{digits}f}" for value in values)])
    return "\n".join([table(rows), *_flag_lines(found["flags"])])


FLAGGED = {
    "far_below_class": "far below their class",
    "not_converged": "with a loss that was still falling at the end",
}


def _objects(count: int) -> str:
    return "1 object" if count == 1 else f"{count} objects"


def _flag_lines(flags: dict[str, Any]) -> list[str]:
    """Objects that deserve a look: their number, and the worst of each kind."""
    lines = []
    for kind, words in FLAGGED.items():
        chosen = [flag for flag in flags["objects"] if flag["kind"] == kind]
        if not chosen:
            continue
        lines += ["", f"{_objects(len(chosen))} {words}:"]
        for flag in chosen[:NAMED_FLAGS]:
            psnr = "—" if flag["psnr_db"] is None else f"{flag['psnr_db']:.2f} dB"
            by = "below the median" if kind == "far_below_class" else "fallen at last"
            lines.append(f"  {flag['object_id']} ({flag['class_name']}): {psnr}, {flag['by_db']:.2f} dB {by}")
        if len(chosen) > NAMED_FLAGS:
            lines.append(f"  … and {len(chosen) - NAMED_FLAGS} more; --json lists all")
    return lines


def info_text(found: dict[str, Any]) -> str:
    """What a dataset is made of."""
    classes = ", ".join(f"{name} {count}" for name, count in found["classes"].items())
    height, width = found["size_px"]
    lines = [
        f"dataset      {found['root']} (schema {found['schema_version']}, {found['created']})",
        f"objects      {found['objects']}: {classes}",
        f"views        {found['views']} per object, {width}×{height} px,"
        f" {found['heldout_fraction']:.0%} held out",
        f"source       {_pairs(found['source'])}",
    ]
    lines += [
        f"appended     {each['objects']} objects from row {each['first_row']} on, {each['created']}:"
        f" {_pairs(each['source'])}"
        for each in found["appended"]
    ]
    for version, shared in found["shared"].items():
        lines.append(f"shared       {version}: {_pairs(shared)}")
    for name, fit in found["fits"].items():
        mark = " (published)" if name == found["published_fit"] else ""
        size = bytes_text(fit["micro_bytes_per_object"] + 4 * fit["coefficients"])
        lines.append(
            f"fit          {name}{mark}: shared {fit['shared_version']}, micro {fit['planes']}"
            f" {fit['dtype']}, {fit['coefficients']} coefficients, {size} per object,"
            f" {fit['shards_done']}/{fit['shards']} shards"
        )
    return "\n".join(lines)


def _pairs(values: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in values.items())


def presets_text(presets: dict[str, Any]) -> str:
    """Every preset with its values, as dotted keys."""
    lines = []
    for name, values in presets.items():
        lines.append(name)
        lines += [f"  {key}={value}" for key, value in _dotted(values, "")]
    return "\n".join(lines)


def _dotted(values: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found += _dotted(value, f"{prefix}{key}.")
        else:
            found.append((prefix + key, value))
    return found
