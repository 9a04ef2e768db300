"""The report of a data set: one self-contained HTML page with its figures, pictures and history."""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline.fit_views import FitRenderer
from pipeline.report.collect import collect
from pipeline.report.gallery import GalleryMaker
from pipeline.report.page import page
from storage.layout import REPORTS
from storage.planes import PlanesStore
from storage.store import Store
from storage.views import ViewsStore

LOGGER = logging.getLogger(__name__)


def write_report(
    root: str | Path, fit: str | None = None, renderer: FitRenderer | None = None, device: str = "cpu"
) -> str:
    """Write the report of one fit to `reports/<fit>.html`, in place of an older one.

    Args:
        root: Folder or URL of the data set.
        fit: Name of the fit; None for the published one.
        renderer: Renders the codes; by default with the shared components that the fit names.
        device: Where to render, without a renderer.

    Returns:
        The page's path, or its URL where the data set is remote.

    Raises:
        UsageError: No such data set or fit.
        IntegrityError: Stored bytes are damaged.
    """
    store = Store(root)
    planes, views = PlanesStore.open(store, fit), ViewsStore.open(store)
    findings = collect(store, views, planes)
    renderer = renderer or FitRenderer.open(store, planes.header.shared_version, device)
    text = page(findings, GalleryMaker(views, planes, renderer).make(findings))
    key = f"{REPORTS}/{planes.header.name}.html"
    store.replace(key, text.encode())
    LOGGER.info("report of fit %s: %s, %d bytes", planes.header.name, key, len(text))
    return str(store.local_path(key) or f"{store.url}/{key}")
