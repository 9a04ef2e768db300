"""Loudspeakers: bookshelf, tower, studio monitor, subwoofer, guitar cabinet, retro, sphere and column.

Distribution of kinds: bookshelf 0.24, tower 0.22, monitor 0.12, subwoofer 0.10, guitar 0.08, retro 0.10,
sphere 0.07, column 0.07 (a smart speaker). Boxes have one to five drivers in a chamfered front, in the body's
colour or another one, some behind a cloth grille, some on a stand. Metres, y from the ground, the front
towards -z.
"""

from __future__ import annotations

from collections.abc import Callable

from render_jobs.sources.procedural import paint
from render_jobs.sources.procedural.draw import Draw
from render_jobs.sources.procedural.mesh import Mesh, Rgb
from render_jobs.sources.procedural.speaker_boxes import add_bookshelf, add_monitor, add_subwoofer, add_tower
from render_jobs.sources.procedural.speaker_others import (
    add_column,
    add_guitar_cabinet,
    add_retro,
    add_sphere,
)

KINDS: dict[str, float] = {
    "bookshelf": 0.24,
    "tower": 0.22,
    "monitor": 0.12,
    "subwoofer": 0.10,
    "guitar": 0.08,
    "retro": 0.10,
    "sphere": 0.07,
    "column": 0.07,
}
_CONES: tuple[Rgb, ...] = (
    (0.16, 0.16, 0.17), (0.85, 0.84, 0.80), (0.90, 0.72, 0.16), (0.74, 0.44, 0.24), (0.66, 0.68, 0.70),
    (0.30, 0.32, 0.36), (0.62, 0.16, 0.14), (0.20, 0.34, 0.50),
)  # fmt: skip
_CLOTH: tuple[Rgb, ...] = (
    (0.14, 0.14, 0.15), (0.30, 0.30, 0.32), (0.62, 0.58, 0.50), (0.76, 0.66, 0.48), (0.42, 0.28, 0.20),
    (0.22, 0.34, 0.42), (0.60, 0.28, 0.22), (0.72, 0.72, 0.70), (0.32, 0.42, 0.34), (0.80, 0.56, 0.22),
)  # fmt: skip
_BODY: tuple[Rgb, ...] = (
    (0.93, 0.93, 0.91), (0.15, 0.15, 0.16), (0.32, 0.33, 0.35), (0.70, 0.14, 0.14), (0.14, 0.28, 0.46),
    (0.16, 0.38, 0.34), (0.88, 0.62, 0.14), (0.82, 0.44, 0.20), (0.58, 0.66, 0.58), (0.86, 0.72, 0.68),
    (0.60, 0.70, 0.76), (0.40, 0.26, 0.44),
)  # fmt: skip


def build_speaker(k: int) -> Mesh:
    """Speaker number k."""
    draw = Draw("speaker", k)
    kind = draw.weighted(KINDS)
    mesh = Mesh()
    _paint(mesh, kind, Draw("speaker", k, "paint"))
    builders: dict[str, Callable[[Mesh, Draw], None]] = {
        "bookshelf": add_bookshelf,
        "tower": add_tower,
        "monitor": add_monitor,
        "subwoofer": add_subwoofer,
        "guitar": add_guitar_cabinet,
        "retro": add_retro,
        "sphere": add_sphere,
        "column": add_column,
    }
    builders[kind](mesh, draw)
    return mesh


def _paint(mesh: Mesh, kind: str, draw: Draw) -> None:
    wooden = draw.chance(
        {"retro": 0.9, "monitor": 0.1, "guitar": 0.25, "column": 0.1, "sphere": 0.15}.get(kind, 0.5)
    )
    body = paint.from_palette(draw, paint.WOOD if wooden else _BODY, 1.5)
    plain = not wooden and draw.chance(0.55)
    front = body if plain else paint.from_palette(draw, _BODY[:4] + _BODY, 1.0)
    cone = paint.from_palette(draw, _CONES)
    mesh.colours |= {
        "body": body,
        "front": paint.shaded(front, 1.03),
        "cone": cone,
        "cap": paint.shaded(cone, 0.6) if draw.chance(0.5) else paint.grey(0.16),
        "surround": paint.grey(draw.uniform(0.07, 0.16)),
        "ring": paint.grey(draw.choice((0.10, 0.22, 0.60, 0.74))),
        "dome": draw.choice(((0.78, 0.66, 0.34), (0.16, 0.16, 0.17), (0.72, 0.73, 0.75), (0.62, 0.40, 0.28))),
        "port": paint.grey(0.05),
        "cloth": paint.from_palette(draw, _CLOTH, 1.5),
        "trim": paint.from_palette(draw, paint.METAL),
        "leg": paint.from_palette(draw, paint.WOOD if draw.chance(0.6) else paint.METAL),
        "dark": paint.grey(0.10),
    }
