"""`fpipe preview`: one object of a dataset from a circle of cameras, as a picture or a turntable."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Root

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS = 6
FRAME_MS = 80


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(preview)


def preview(
    root: Root,
    object_id: Annotated[str, typer.Argument(metavar="ID", help="An object of the fit.", show_default=False)],
    out: Annotated[
        Path, typer.Option(help="A .png: all views in one picture. A .webp or .gif: a turntable.")
    ] = Path("preview.png"),
    name: Annotated[str | None, typer.Option("--name", help="Which fit; default: the published one.")] = None,
    views: Annotated[int, typer.Option(help="Cameras on the circle.", min=1)] = 12,
    elevation: Annotated[
        float, typer.Option(help="Of the cameras above the horizon, degrees.", min=-90, max=90)
    ] = 22.0,
) -> None:
    """Render an object from its planes: what the dataset's users see."""
    from cli.logs import say
    from pipeline.render_planes import PlanesRenderer
    from render_jobs.cameras import orbit_cameras
    from storage.errors import UsageError
    from storage.reader import open_planes

    if out.suffix not in (".png", ".webp", ".gif"):
        raise UsageError(f"--out {out}: use .png, .webp or .gif")
    dataset = open_planes(root, name)
    try:
        chosen = dataset[object_id]
    except KeyError as error:
        raise UsageError(f"the dataset has no object {object_id!r}") from error
    renderer = PlanesRenderer.open(dataset)
    images = renderer.render(chosen, orbit_cameras(views, elevation, renderer.default_radius()))
    _save(images, out)
    print(out)
    say(f"preview: {chosen.object_id} ({chosen.class_name}), {views} views")


def _save(images: NDArray[Any], out: Path) -> None:
    """Writes views [V, H, W, 3] in [0, 1] as one picture, or as frames."""
    import numpy as np
    from PIL import Image

    frames = np.rint(255 * images).astype(np.uint8)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix != ".png":
        first, *rest = map(Image.fromarray, frames)
        first.save(out, save_all=True, append_images=rest, duration=FRAME_MS, loop=0)
        return
    _, height, width, _ = frames.shape
    columns = min(COLUMNS, len(frames))
    sheet = np.full((-(-len(frames) // columns) * height, columns * width, 3), 255, np.uint8)
    for number, frame in enumerate(frames):
        row, column = divmod(number, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = frame
    Image.fromarray(sheet).save(out)
