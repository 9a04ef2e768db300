"""The report of a dataset: one self-contained HTML page with its figures, pictures and history."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline.report.collect import collect
from pipeline.report.contact_sheets import read_contact_sheets
from pipeline.report.flagged import read_flagged
from pipeline.report.gallery import GalleryMaker
from pipeline.report.page import page
from pipeline.report.records import Findings, Gallery
from pipeline.report.training_gallery import read_training_gallery
from storage.errors import FpipeError, UsageError
from storage.layout import REPORTS
from storage.planes import PlanesStore, list_fits, published_fit
from storage.store import Store
from storage.views import ViewsStore

if TYPE_CHECKING:
    from pipeline.fit_views import FitRenderer

LOGGER = logging.getLogger(__name__)
RENDER_REPORT: Final = "render"


def write_report(
    root: str | Path, fit: str | None = None, renderer: FitRenderer | None = None, device: str = "cpu"
) -> str:
    """Write the report of a dataset, in place of an older one.

    There is one as soon as anything is rendered: without a fit it goes to `reports/render.html`, with one to
    `reports/<fit>.html`, which has the sections on the views as well. Torch is needed for pictures of fits;
    without it and without a fit the report has everything that need not be rendered.

    Args:
        root: Folder or URL of the dataset.
        fit: Name of the fit; None for the published one, where there is one.
        renderer: Renders the codes; by default with the shared components that the fit names.
        device: Where to render, without a renderer.

    Returns:
        The page's path, or its URL where the dataset is remote.

    Raises:
        UsageError: No such dataset or fit, or nothing is rendered yet.
        IntegrityError: Stored bytes are damaged.
    """
    store = Store(root)
    views, planes = _open_views(store), _open_fit(store, fit)
    status = views.status()
    findings = collect(store, views, status, planes)
    sheets = read_contact_sheets(views, status, [entry.class_name for entry in findings.render.classes])
    renderer = renderer or _open_renderer(store, findings.shared_version, device, needed=planes is not None)
    trained = read_training_gallery(views, findings.shared_version, findings.shared_meta, renderer)
    text = page(findings, _gallery(findings, views, planes, renderer), sheets, trained)
    key = f"{REPORTS}/{findings.fit_name or RENDER_REPORT}.html"
    store.replace(key, text.encode())
    LOGGER.info("report: %s, %d bytes", key, len(text))
    return str(store.local_path(key) or f"{store.url}/{key}")


def _open_views(store: Store) -> ViewsStore:
    views = ViewsStore.open(store)
    if not views.done():
        raise UsageError(f"{store.url}: nothing is rendered yet; run fpipe render {store.url}")
    return views


def _open_fit(store: Store, name: str | None) -> PlanesStore | None:
    """The fit to report on; None where none is asked for and none is published."""
    if name is None:
        try:
            name = published_fit(store)
        except UsageError:
            if fits := list_fits(store):
                LOGGER.warning("no fit is published yet, so the report goes without: --name names %s", fits)
            return None
    return PlanesStore.open(store, name)


def _open_renderer(store: Store, shared_version: str, device: str, needed: bool) -> FitRenderer | None:
    """Renders with the shared components; None where there are none or, unless needed, no torch."""
    if not shared_version:
        return None
    try:
        from pipeline.fit_views import FitRenderer  # torch is needed here only

        return FitRenderer.open(store, shared_version, device)
    except (ImportError, FpipeError) as error:
        if needed:
            raise
        LOGGER.warning("the report goes without pictures of the shared components: %s", error)
        return None


def _gallery(
    findings: Findings, views: ViewsStore, planes: PlanesStore | None, renderer: FitRenderer | None
) -> Gallery:
    if planes is None or not findings.objects or renderer is None:
        return Gallery()
    gallery = GalleryMaker(views, planes, renderer).make(findings)
    return replace(gallery, flagged=read_flagged(findings, views, planes, renderer))
