"""Fitting objects to frozen shared components (regime 2): all objects of a batch in one tensor step.

Plain torch, any device. Objects are independent: each has its own optimiser state, pace and random numbers
(seeded by its id), and the loss is the *sum* of per-object losses, so that no object's gradient depends on
another. First latent steps on single latent pixels against latents encoded once, then RGB steps through the
frozen decoder on whole views. An object that is done leaves its slot to the next one, so that a batch stays
full while there is work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pipeline.fit.batch import FitBatch
from pipeline.fit.codes import InitCode
from pipeline.fit.settings import FitSettings, FittedCode
from pipeline.model.shared import SharedComponents
from pipeline.train.training_views import TrainingViews


def fit_objects(
    shared: SharedComponents,
    objects: Sequence[TrainingViews],
    settings: FitSettings,
    seed: int = 0,
    init: Sequence[InitCode | None] | None = None,
) -> list[FittedCode]:
    """Fit the codes of objects, all of them at once.

    Args:
        shared: Frozen shared components; decide the device.
        objects: Training views of the objects.
        settings: Step counts, rates, sizes.
        seed: Of random choices, together with each object's id.
        init: Codes to start from; None for an object starts it from the mean object.

    Returns:
        One result per object, in order. An object that cannot be fitted, or whose loss stops being finite,
        carries ``failure``; the others are not affected.
    """
    order = {views.object_id: i for i, views in enumerate(objects)}
    starts = zip(objects, init or [None] * len(objects), strict=True)
    results = fit_stream(shared, starts, settings, seed, len(objects))
    return sorted(results, key=lambda result: order[result.object_id])


def fit_stream(
    shared: SharedComponents,
    objects: Iterable[tuple[TrainingViews, InitCode | None]],
    settings: FitSettings,
    seed: int = 0,
    batch: int = 8,
) -> Iterator[FittedCode]:
    """Fit any number of objects, ``batch`` at a time; arguments and results as of `fit_objects`.

    Args:
        shared: Frozen shared components.
        objects: Views and codes to start from; the next one is taken when a slot is free.
        settings: Step counts, rates, sizes.
        seed: Of random choices.
        batch: Most objects in one tensor step.

    Yields:
        Results in the order in which objects are done.
    """
    slots, waiting = FitBatch(shared, settings, seed, batch), iter(objects)
    while True:
        while slots.has_room and (entry := next(waiting, None)) is not None:
            if (refused := slots.admit(*entry)) is not None:
                yield refused
        if not slots.busy:
            return
        slots.step()
        yield from slots.finished()
