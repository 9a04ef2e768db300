"""Held-out evaluation: one object's figures, and the statistics of a whole dataset.

Figures are computed where an object is fitted, with what the store then holds, and kept beside the fit;
`evaluate_dataset` aggregates them, or renders everything again from the store. Held-out views are read here
and nowhere else before (METHOD, section 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline import metrics
from pipeline.flags import fit_flags, flags_as_json
from storage.planes import METRIC_NAMES, PlanesStore
from storage.records import Status
from storage.store import Store
from storage.views import ViewsStore

if TYPE_CHECKING:
    from pipeline.fit_views import FitRenderer

SUMMARY_VERSION: Final = "1.0"
REGIMES: Final = {"all": (1, 2), "regime1": (1,), "regime2": (2,)}

Lpips = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[Any]]


def evaluate_object(
    rendered: NDArray[Any],
    ceiling: NDArray[Any] | None,
    heldout_rgba: NDArray[np.uint8],
    heldout_cam2world: NDArray[Any],
    train_rgba: NDArray[np.uint8],
    train_cam2world: NDArray[Any],
    lpips: Lpips | None = None,
) -> dict[str, float]:
    """Compare one object's renderings with its held-out views.

    Args:
        rendered: The fit seen from the held-out cameras, [Vh, H, W, 3]; clipped to [0, 1], as a PNG would.
        ceiling: The held-out views after the autoencoder alone, [Vh, H, W, 3]: no fit can be expected to do
            better; None where there is no autoencoder.
        heldout_rgba: Held-out views [Vh, H, W, 4], sRGB, straight alpha; composited over white.
        heldout_cam2world: Their cameras [Vh, 4, 4].
        train_rgba: Training views [Vt, H, W, 4]: candidates of the nearest-view baseline.
        train_cam2world: Their cameras [Vt, 4, 4].
        lpips: Perceptual distance of two stacks of views [Vh, H, W, 3] -> [Vh]; None without weights.

    Returns:
        `METRIC_NAMES` -> mean over the held-out views; `lpips` is NaN without weights, `foreground_psnr_db`
        where no held-out view shows the object, `ceiling_psnr_db` without an autoencoder.

    Raises:
        ValueError: Shapes do not belong together, there is no held-out view, or a rendering is not finite.
    """
    if not len(heldout_rgba):
        raise ValueError("nothing to evaluate on: the object has no held-out view")
    if not np.isfinite(rendered).all():
        raise ValueError("the rendering of a held-out view holds values that are not finite")
    truth = metrics.composite(heldout_rgba)
    image = np.clip(rendered, 0, 1).astype(np.float32)
    nearest = metrics.nearest_views(heldout_cam2world, train_cam2world)
    unknown = np.full(len(truth), np.nan)
    per_view = {
        "psnr_db": metrics.psnr(image, truth),
        "ssim": metrics.ssim(image, truth),
        "foreground_psnr_db": metrics.foreground_psnr(image, truth, heldout_rgba[..., 3]),
        "ceiling_psnr_db": unknown if ceiling is None else metrics.psnr(np.clip(ceiling, 0, 1), truth),
        "white_psnr_db": metrics.white_psnr(truth),
        "nearest_view_psnr_db": metrics.psnr(metrics.composite(train_rgba[nearest]), truth),
        "lpips": unknown if lpips is None else np.asarray(lpips(image, truth)),
    }
    return {name: _mean(values) for name, values in per_view.items()}


def evaluate_dataset(root: str | Path, fit: str | None = None, recompute: bool = False) -> dict[str, Any]:
    """Statistics of one fit of a dataset.

    Args:
        root: Folder or URL of the dataset.
        fit: Name of the fit; None for the published one.
        recompute: Render every held-out view again from the store, instead of trusting the figures computed
            when the objects were fitted. LPIPS is null then.

    Returns:
        As `summarise`, with `fit`, `shared_version` and `flags` (see `pipeline.flags`).

    Raises:
        UsageError: No such dataset or fit.
        IntegrityError: Stored bytes are damaged.
    """
    store = Store(root)
    planes = PlanesStore.open(store, fit)
    figures = recompute_figures(store, planes) if recompute else planes.metrics()
    header = planes.header
    provenance = {"fit": header.name, "shared_version": header.shared_version}
    regime = np.where(planes.status() == Status.OK, planes.regime(), 0)
    flags = flags_as_json(planes, fit_flags(planes, figures["psnr_db"], regime))
    return {**summarise(figures, regime, provenance), "flags": flags}


def recompute_figures(
    store: Store, planes: PlanesStore, renderer: FitRenderer | None = None
) -> dict[str, NDArray[np.float32]]:
    """Evaluate every stored fit again, from what the store holds.

    Args:
        store: The dataset.
        planes: The fit.
        renderer: Renders the codes; by default with the shared components that the fit names.

    Returns:
        Metric name -> value per row, f32 [N]; NaN for rows without a fit.
    """
    from pipeline.fit_views import FitRenderer  # torch is needed here only

    renderer = renderer or FitRenderer.open(store, planes.header.shared_version)
    views = ViewsStore.open(store)
    figures = {name: np.full(planes.spec.n_objects, np.nan, dtype=np.float32) for name in METRIC_NAMES}
    for row in np.flatnonzero(planes.status() == Status.OK).tolist():
        for name, value in _evaluate_row(views, planes, renderer, row).items():
            figures[name][row] = value
    return figures


def _evaluate_row(
    views: ViewsStore, planes: PlanesStore, renderer: FitRenderer, row: int
) -> dict[str, float]:
    own, fit = views.read(row), planes.read(row)
    heldout, train = own.heldout, ~own.heldout
    cameras = own.cam2world[heldout]
    return evaluate_object(
        renderer.render(fit.micro, fit.coefficients, cameras, own.intrinsics[heldout]),
        renderer.ceiling(metrics.composite(own.images[heldout])),
        own.images[heldout],
        cameras,
        own.images[train],
        own.cam2world[train],
    )


def summarise(
    figures: Mapping[str, NDArray[Any]], regime: NDArray[Any], provenance: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Statistics over objects: the object that `fpipe evaluate --json` prints.

    Args:
        figures: Metric name -> value per object, [N]; rows of objects without a fit are ignored whatever they
            hold.
        regime: 1 or 2 for an object that has a fit, anything else for one that has none, [N].
        provenance: Further text fields, such as `fit` and `shared_version`.

    Returns:
        `all`, `regime1` and `regime2`, each with `objects` and `<metric>.mean`; `psnr_db` has `median` and
        `p05` (the 5th percentile: one object in twenty is worse) too. A figure that no object has is null.
        Beside them the version of this format and the metrics' definitions.
    """
    summary: dict[str, Any] = {
        "version": SUMMARY_VERSION,
        **(provenance or {}),
        "definitions": {
            "psnr_db": metrics.PSNR_DEFINITION,
            "ssim": metrics.SSIM_DEFINITION,
            "foreground_psnr_db": metrics.FOREGROUND_DEFINITION,
        },
    }
    for group, members in REGIMES.items():
        chosen = np.isin(regime, members)
        statistics = {name: _statistics(name, figures, chosen) for name in METRIC_NAMES}
        summary[group] = {"objects": int(chosen.sum()), **statistics}
    return summary


def _statistics(
    name: str, figures: Mapping[str, NDArray[Any]], chosen: NDArray[np.bool_]
) -> dict[str, float | None]:
    values = np.asarray(figures[name], dtype=np.float64)[chosen] if name in figures else np.empty(0)
    values = values[np.isfinite(values)]
    statistics = {"mean": _rounded(values.mean() if len(values) else math.nan)}
    if name == "psnr_db":
        statistics["median"] = _rounded(np.median(values) if len(values) else math.nan)
        statistics["p05"] = _rounded(np.percentile(values, 5) if len(values) else math.nan)
    return statistics


def _rounded(value: float) -> float | None:
    """Six decimals: far below what any figure is worth, and stable in text; None where there is no value."""
    return round(float(value), 6) if math.isfinite(value) else None


def _mean(values: NDArray[Any]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan
