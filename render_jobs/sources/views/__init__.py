"""Sources whose views exist already: the Fused-Planes authors' layout, and NeRF's and nerfstudio's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from render_jobs.sources.views.fused_planes import FusedPlanesLayout
from render_jobs.sources.views.layout import ViewsLayout
from render_jobs.sources.views.nerf import NerfLayout
from render_jobs.sources.views.source import ImportedViews

LAYOUTS: dict[str, Callable[[], ViewsLayout]] = {"fused-planes": FusedPlanesLayout, "nerf": NerfLayout}


def make_views_source(kind: str, path: str, normalize: Literal["cameras", "none"] | None) -> ImportedViews:
    """Makes the source of one kind; see `render_jobs.sources.base.SourceSpec`."""
    return ImportedViews(kind, path, LAYOUTS[kind](), normalize)
