"""Croissant 1.0 metadata (JSON-LD) of an export: https://docs.mlcommons.org/croissant/docs/croissant-spec.html."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.export.facts import INDEX, Facts

CROISSANT = "croissant.json"
_TERMS = (
    "citeAs",
    "column",
    "equivalentProperty",
    "extract",
    "field",
    "fileObject",
    "fileProperty",
    "fileSet",
    "format",
    "includes",
    "isLiveDataset",
    "jsonPath",
    "key",
    "md5",
    "parentField",
    "path",
    "recordSet",
    "references",
    "regex",
    "repeated",
    "replace",
    "samplingRate",
    "separator",
    "source",
    "subField",
    "transform",
)
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    **{term: f"cr:{term}" for term in _TERMS},
}
"""The context that the specification recommends (appendix 1), as its library checks it."""

_ARRAYS = ("stats/lower_bound.npy", "stats/upper_bound.npy", "base_planes.npy")
_COLUMNS = {
    "object_id": ("sc:Text", "Id of the object."),
    "class": ("sc:Text", "Name of its class."),
    "class_id": ("sc:Integer", "Number of its class."),
    "row": ("sc:Integer", "Row of the object in the fpipe dataset."),
    "regime": ("sc:Integer", "1: trained jointly with the shared components, 2: fitted to them."),
    "psnr_db": ("sc:Float", "PSNR on held-out views over white, mean over views, in dB."),
    "ssim": ("sc:Float", "SSIM on held-out views, mean over views."),
    "file": ("sc:Text", "File that holds the object's planes."),
}


def croissant_json(facts: Facts, folder: Path) -> bytes:
    """Returns the metadata; the required `url` and `creator` are only there where they were given."""
    options = facts.options
    creator = {"@type": "sc:Organization", "name": options.creator} if options.creator else None
    given = {"url": options.url, "creator": creator}
    metadata = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": facts.title,
        "description": _description(facts),
        "license": options.license,
        **{name: value for name, value in given.items() if value is not None},
        "datePublished": facts.provenance["exported"],
        "version": "1.0.0",
        "keywords": ["tri-plane", "neural fields", "Fused-Planes", *facts.class_counts],
        "distribution": [*_file_objects(folder), *_file_sets(facts)],
        "recordSet": [_class_records(facts), _object_records()],
    }
    return json.dumps(metadata, indent=1, ensure_ascii=False).encode()


def _description(facts: Facts) -> str:
    arrays = "; ".join(_array_text(facts, name) for name in facts.shapes)
    psnr = facts.quality["all"]["psnr_db"]["mean"]
    made = ", ".join(f"{name} {value}" for name, value in facts.provenance.items())
    classes = ", ".join(f"{name} ({n})" for name, n in facts.class_counts.items())
    return (
        f"{len(facts.rows)} objects as tri-plane neural representations: {classes}. {arrays}."
        + (f" PSNR on held-out views {psnr:.2f} dB in the mean." if psnr is not None else "")
        + (f" {len(facts.unavailable)} objects without planes are left out." if facts.unavailable else "")
        + f" Provenance: {made}."
    )


def _array_text(facts: Facts, name: str) -> str:
    shape, axes = facts.axes(name)
    order = f"; planes {', '.join(facts.header.plane_order)}" if len(shape) > 1 else ""
    return f"{name} {facts.dtype(name)} {list(shape)} ({axes}{order})"


def _file_objects(folder: Path) -> list[dict[str, Any]]:
    """Single files, with checksums.

    Objects are too many for that. They are file sets, and without record sets of their own, because Croissant
    1.0 knows no arrays: the table names the file of every object.
    """
    found = []
    for name, media_type in ((INDEX, "text/csv"), *((name, "application/x-npy") for name in _ARRAYS)):
        if (folder / name).exists():
            content = (folder / name).read_bytes()
            found.append(
                {
                    "@type": "cr:FileObject",
                    "@id": name,
                    "name": name,
                    "contentUrl": name,
                    "contentSize": f"{len(content)} B",
                    "encodingFormat": media_type,
                    "sha256": hashlib.sha256(content).hexdigest(),
                }
            )
    return found


def _file_sets(facts: Facts) -> list[dict[str, Any]]:
    return [
        {
            "@type": "cr:FileSet",
            "@id": f"files-{number}",
            "name": f"files-{number}",
            "description": "; ".join(_array_text(facts, name) for name in facts.shapes),
            "encodingFormat": facts.layout.media_type,
            "includes": pattern,
        }
        for number, pattern in enumerate(facts.layout.patterns)
    ]


def _class_records(facts: Facts) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "dataType": "sc:Enumeration",
        "key": {"@id": "classes/class_id"},
        "field": [_field("classes", "class_id", "sc:Integer"), _field("classes", "name", "sc:Text")],
        "data": [
            {"classes/class_id": facts.class_ids[name], "classes/name": name} for name in facts.class_counts
        ],
    }


def _object_records() -> dict[str, Any]:
    fields = []
    for column, (data_type, text) in _COLUMNS.items():
        source = {"fileObject": {"@id": INDEX}, "extract": {"column": column}}
        fields.append(_field("objects", column, data_type, description=text, source=source))
        if column == "class_id":
            fields[-1]["references"] = {"field": {"@id": "classes/class_id"}}
    return {
        "@type": "cr:RecordSet",
        "@id": "objects",
        "name": "objects",
        "description": "One record per object.",
        "key": {"@id": "objects/object_id"},
        "field": fields,
    }


def _field(records: str, name: str, data_type: str, **more: Any) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": f"{records}/{name}", "name": name, "dataType": data_type, **more}
