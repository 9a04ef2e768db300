"""Fronts of cabinets: doors and drawers in several styles, with their handles.

Lengths in metres, front towards -z. A front is built at the carcass' front edge, z = 0, and stands `THICK`
proud of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from render_jobs.sources.procedural.mesh import Part
from render_jobs.sources.procedural.shapes import box, lathe, rod, rounded_box

THICK = 0.02
_SINK = 0.004
"""How far a front reaches into the carcass, so that no faces coincide."""
_RAISE = 0.009


@dataclass(frozen=True)
class Area:
    """A rectangle of the front, in metres."""

    x0: float
    x1: float
    y0: float
    y1: float

    @property
    def width(self) -> float:
        """Extent in x."""
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        """Extent in y."""
        return self.y1 - self.y0

    @property
    def middle(self) -> tuple[float, float]:
        """Its centre (x, y)."""
        return 0.5 * (self.x0 + self.x1), 0.5 * (self.y0 + self.y1)

    def shrunk(self, by: float) -> Area:
        """The area without a border."""
        return Area(self.x0 + by, self.x1 - by, self.y0 + by, self.y1 - by)

    def split(self, shares: list[float], across: bool) -> list[Area]:
        """The area cut side by side (`across`, from -x) or stacked (from the bottom)."""
        total, start, areas = sum(shares), 0.0, []
        for share in shares:
            stop = start + share / total
            if across:
                areas.append(
                    Area(self.x0 + start * self.width, self.x0 + stop * self.width, self.y0, self.y1)
                )
            else:
                areas.append(
                    Area(self.x0, self.x1, self.y0 + start * self.height, self.y0 + stop * self.height)
                )
            start = stop
        return areas


@dataclass(frozen=True)
class FrontStyle:
    """How doors and drawers look.

    `panel` is "flat", "shaker" or "ribbed"; `handle` "knob", "bar", "cup", "strip" or "none". Lengths in
    metres.
    """

    panel: str
    handle: str
    frame: float
    bar_length: float
    gap: float


def front(area: Area, style: FrontStyle, material: str) -> list[Part]:
    """A door's or drawer's panel without its handle, on a dark board that shows in the gaps.

    Materials: `material`, for raised work `material` on `material`_deep, and shadow.
    """
    behind = box((area.width, area.height, 0.004), "shadow").moved(*area.middle, -0.001)
    area = area.shrunk(style.gap / 2)
    ground = material if style.panel == "flat" else f"{material}_deep"
    slab = rounded_box((area.width, area.height, THICK + _SINK), 0.004, ground, segments=1)
    parts = [behind, slab.moved(*area.middle, (_SINK - THICK) / 2)]
    if style.panel == "shaker":
        parts += _frame(area, _frame_width(area, style), material)
    elif style.panel == "ribbed":
        count = max(3, int(area.width / 0.055))
        for rib in area.shrunk(0.02).split([1.0] * count, across=True):
            size = (0.55 * rib.width, rib.height, _RAISE)
            parts.append(box(size, material).moved(*rib.middle, -THICK - _RAISE / 2 + 0.001))
    return parts


def glass_front(area: Area, style: FrontStyle, bars: bool) -> list[Part]:
    """A glazed door: a frame and a pane set back in it, optionally with a cross of glazing bars."""
    behind = box((area.width, area.height, 0.004), "shadow").moved(*area.middle, -0.001)
    area = area.shrunk(style.gap / 2)
    frame = max(0.035, 0.8 * style.frame)
    inner = area.shrunk(frame)
    parts = [part.moved(z=THICK - 0.005) for part in _frame(area, frame, "front", THICK)]
    pane = box((inner.width + 0.01, inner.height + 0.01, 0.006), "pane").moved(*inner.middle, -0.005)
    if bars:
        x, y = inner.middle
        parts.append(box((0.016, inner.height + 0.01, 0.012), "front").moved(x, y, -0.010))
        for line in (0.34, 0.67):
            at = inner.y0 + line * inner.height
            parts.append(box((inner.width + 0.01, 0.016, 0.011), "front").moved(x, at, -0.010))
    return [*parts, behind, pane]


def _frame_width(area: Area, style: FrontStyle) -> float:
    return min(style.frame, 0.24 * min(area.width, area.height))


def _frame(area: Area, width: float, material: str, depth: float = _RAISE) -> list[Part]:
    """Four strips along the edge of an area, on a slab's face."""
    z = -THICK - depth / 2 + 0.001
    x, y = area.middle
    upright = box((width, area.height - 0.004, depth), material)
    across = box((area.width - 2 * width - 0.004, width, depth), material)
    return [
        upright.moved(area.x0 + width / 2 + 0.002, y, z),
        upright.moved(area.x1 - width / 2 - 0.002, y, z),
        across.moved(x, area.y0 + width / 2 + 0.002, z),
        across.moved(x, area.y1 - width / 2 - 0.002, z),
    ]


def handle(area: Area, style: FrontStyle, opens: str) -> list[Part]:
    """The handle of a front; `opens` is "left" or "right" (where a door's handle sits, in x) or "drawer"."""
    x, y = area.middle
    face = -THICK - (_RAISE if style.panel != "flat" else 0.0)
    drawer = opens == "drawer"
    if drawer:
        face += _RAISE if style.panel == "shaker" else 0.0  # in the middle of the set-back field
    else:
        inset = 0.045 if style.panel == "flat" else max(0.03, style.frame / 2 + 0.005)
        x = area.x1 - inset if opens == "right" else area.x0 + inset
        y = area.y0 + min(0.5, 1.05 / max(area.height, 1.05)) * area.height
        y += 0.22 * area.height if area.height < 0.9 else 0.0
    if style.handle == "knob":
        knob = [(0.009, -0.006), (0.009, 0.014), (0.019, 0.021), (0.018, 0.031), (0.009, 0.036), (0.0, 0.037)]
        part = lathe(knob, 12, "handle").turned("x", -90.0)
        places = [x - 0.28 * area.width, x + 0.28 * area.width] if drawer and area.width > 0.6 else [x]
        return [part.moved(at, y, face) for at in places]
    if style.handle == "bar":
        half = 0.5 * min(style.bar_length, 0.6 * (area.width if drawer else area.height))
        dx, dy = (half, 0.0) if drawer else (0.0, half)
        grip = rod((x - dx, y - dy, face - 0.028), (x + dx, y + dy, face - 0.028), 0.008, "handle")
        post = box((0.012, 0.012, 0.032), "handle")
        posts = [post.moved(x + s * 0.8 * dx, y + s * 0.8 * dy, face - 0.012) for s in (-1, 1)]
        return [grip, *posts]
    if style.handle == "cup":
        size = (0.10, 0.035, 0.03) if drawer else (0.03, 0.10, 0.03)
        return [rounded_box(size, 0.013, "handle").moved(x, y, face - 0.008)]
    if style.handle == "strip":
        size = (0.92 * area.width, 0.022, 0.02) if drawer else (0.022, 0.92 * area.height, 0.02)
        at_y = area.y1 - style.gap - 0.013 if drawer else area.middle[1]
        edge = style.gap / 2 + 0.012
        at_x = x if drawer else (area.x1 - edge if opens == "right" else area.x0 + edge)
        return [box(size, "handle").moved(at_x, at_y, face - 0.006)]
    return []
