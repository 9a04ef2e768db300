"""Ready-made closed parts: boxes, rounded boxes, bodies of revolution, rods, extruded outlines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from render_jobs.sources.procedural.mesh import Floats, Ints, Part, box_grid


def box(size: tuple[float, float, float], material: str) -> Part:
    """A box centred at the origin."""
    return tapered_box(size, (1.0, 1.0), material)


def tapered_box(size: tuple[float, float, float], top: tuple[float, float], material: str) -> Part:
    """A box centred at the origin whose upper side is scaled by `top` in x and z."""
    grid = box_grid((-0.5, 0.5), (-0.5, 0.5), (-0.5, 0.5))
    vertices = grid.points * np.array(size)
    upper = grid.points[:, 1] > 0
    vertices[upper] *= np.array([top[0], 1.0, top[1]])
    return grid.part(vertices, material)


def rounded_box(
    size: tuple[float, float, float],
    radius: float,
    material: str,
    segments: int = 2,
    cuts: tuple[int, int, int] = (1, 1, 1),
) -> Part:
    """A box centred at the origin with rounded edges and corners.

    Args:
        size: Extents along x, y, z.
        radius: Of the edges; reduced where the box is thinner than twice the radius.
        material: Of every face.
        segments: Quads across each rounded edge.
        cuts: Quads across the flat middle, per axis; more than 1 only to warp the part afterwards.
    """
    half = np.array(size) / 2
    core = half - min(radius, 0.49 * float(min(size)))
    lines = []
    for h, c, n in zip(half, core, cuts, strict=True):
        bend = np.tan(np.pi / 4 * np.arange(1, segments + 1) / segments) * (h - c)
        middle = np.linspace(-c, c, n + 1)
        lines.append(np.concatenate([-(c + bend[::-1]), middle, c + bend]))
    grid = box_grid(*(line.tolist() for line in lines))
    inside = np.clip(grid.points, -core, core)
    out = grid.points - inside
    vertices = inside + out / np.linalg.norm(out, axis=1, keepdims=True) * float(half[0] - core[0])
    return grid.part(vertices, material)


def lathe(profile: Sequence[tuple[float, float]], segments: int, materials: Sequence[str] | str) -> Part:
    """A body of revolution about the y axis.

    Args:
        profile: (radius, y) from the lower end to the upper one along the outside; an end with radius 0 is a
            pole, an end with a radius is closed by a flat disc.
        segments: Quads around.
        materials: One name for all, or one per step of the profile; end discs take that of their neighbour.
    """
    steps = list(profile)
    names = [materials] * (len(steps) - 1) if isinstance(materials, str) else list(materials)
    assert len(names) == len(steps) - 1, "one material per step of the profile"
    if steps[0][0] > 0:
        steps, names = [(0.0, steps[0][1]), *steps], [names[0], *names]
    if steps[-1][0] > 0:
        steps, names = [*steps, (0.0, steps[-1][1])], [*names, names[-1]]
    angle = 2 * np.pi * np.arange(segments) / segments
    rings = [[0.0, steps[0][1], 0.0]]
    for radius, y in steps[1:-1]:
        rings.extend([radius * float(np.sin(a)), y, radius * float(np.cos(a))] for a in angle)
    rings.append([0.0, steps[-1][1], 0.0])
    return Part(np.array(rings), _lathe_faces(len(steps) - 2, segments), np.repeat(np.array(names), segments))


def _lathe_faces(n_rings: int, segments: int) -> Ints:
    """Fan, bands between rings, fan; vertex 0 is the lower pole, the last one the upper."""
    here = np.arange(segments)
    after = (here + 1) % segments
    last = 1 + n_rings * segments
    faces = [np.stack([1 + after, 1 + here, np.zeros_like(here), np.zeros_like(here)], axis=1)]
    for ring in range(n_rings - 1):
        low, high = 1 + ring * segments, 1 + (ring + 1) * segments
        faces.append(np.stack([low + here, low + after, high + after, high + here], axis=1))
    top = 1 + (n_rings - 1) * segments
    faces.append(
        np.stack([top + here, top + after, np.full_like(here, last), np.full_like(here, last)], axis=1)
    )
    return np.concatenate(faces)


def ring(outer: float, inner: float, depth: float, segments: int, material: str) -> Part:
    """A flat ring about the y axis, centred at the origin, `depth` thick."""
    angle = 2 * np.pi * np.arange(segments) / segments
    section = [(outer, -depth / 2), (outer, depth / 2), (inner, depth / 2), (inner, -depth / 2)]
    return loop_lathe(section, angle, material)


def loop_lathe(section: Sequence[tuple[float, float]], angle: Floats, material: str) -> Part:
    """A ring about y with a cross-section (radius, y) that runs counter-clockwise, radius to the right."""
    n, m = len(section), len(angle)
    vertices = np.array([[r * np.sin(a), y, r * np.cos(a)] for r, y in section for a in angle])
    here, after = np.arange(m), (np.arange(m) + 1) % m
    faces = []
    for i in range(n):
        low, high = i * m, (i + 1) % n * m
        faces.append(np.stack([low + here, low + after, high + after, high + here], axis=1))
    quads = np.concatenate(faces)
    return Part(vertices, quads, np.full(len(quads), material))


def rod(
    start: Sequence[float],
    end: Sequence[float],
    radius: float,
    material: str,
    segments: int = 8,
    taper: float = 1.0,
) -> Part:
    """A round rod between two points; `taper` is the radius at the end over that at the start."""
    a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    length = float(np.linalg.norm(b - a))
    part = lathe([(radius, 0.0), (radius * taper, length)], segments, material)
    up = (b - a) / length
    aside = np.cross(up, [1.0, 0.0, 0.0] if abs(up[0]) < 0.9 else [0.0, 0.0, 1.0])
    aside /= np.linalg.norm(aside)
    frame = np.stack([aside, up, np.cross(aside, up)])
    return Part(part.vertices @ frame + a, part.faces, part.materials)


def extruded(outline: Sequence[tuple[float, float]], depth: float, material: str) -> Part:
    """A convex outline in x and y, counter-clockwise seen from +z, `depth` thick and centred on z = 0."""
    n = len(outline)
    flat = np.array(outline, dtype=np.float64)
    front = np.column_stack([flat, np.full(n, depth / 2)])
    back = np.column_stack([flat, np.full(n, -depth / 2)])
    here, after = np.arange(n), (np.arange(n) + 1) % n
    walls = np.stack([n + here, n + after, after, here], axis=1)
    fan = np.stack(
        [np.zeros(n - 2, dtype=np.int64), np.arange(1, n - 1), np.arange(2, n), np.arange(2, n)], axis=1
    )
    far = np.stack([fan[:, 1], fan[:, 0], fan[:, 2], fan[:, 3]], axis=1) + n
    faces = np.concatenate([walls, fan, far]).astype(np.int64)
    return Part(np.concatenate([front, back]), faces, np.full(len(faces), material))
