"""The lesions of a patient over all visits: numbers that stay, and what became of each."""

from collections.abc import Sequence

import cc3d
import numpy as np

from lesiondelta.cohort import LesionChange
from lesiondelta.errors import GeometryError
from lesiondelta.settings import TrackingSettings
from lesiondelta.tracking.calls import LIMITS, borne_out, called_map, compare_images
from lesiondelta.tracking.change import changes_by_masks
from lesiondelta.tracking.identity import name_lesions
from lesiondelta.tracking.unmasked import with_unmasked
from lesiondelta.tracking.visit import TrackedVisit, Tracking


def track(
    visits: Sequence[TrackedVisit], spacing_mm: float, threshold: float, settings: TrackingSettings | None = None
) -> Tracking:
    """Follow the lesions of a patient over all visits, which come in time order and lie on one grid of cubic voxels.

    `threshold` is that of the masks. Where two visits bring images that can be compared, a change counts if these bear
    it out (`calls`); what they show to be there, below the threshold, is a lesion of its own. Else a change counts
    where the volume changes by more than the settings' share, in either direction of time, and by more than the
    measurement error.
    """
    if len({visit.mask.shape for visit in visits}) > 1:
        raise GeometryError("The visits of a patient lie on different grids: resample them to one.")
    settings = settings or TrackingSettings()
    tolerance = settings.tolerance_mm / spacing_mm
    steps = compare_images(visits, spacing_mm, threshold)
    limit = LIMITS[settings.sensitivity]
    called = [[place for place in step.places if place.called(limit)] if step else [] for step in steps]
    masks, vanished = with_unmasked(visits, called, tolerance)
    found = [cc3d.connected_components(mask, connectivity=26) for mask in masks]
    named, before = name_lesions(found, vanished, tolerance)
    changes: list[tuple[LesionChange, ...]] = []
    for index, step in enumerate(steps):
        earlier = {int(n) for labels in named[:index] for n in np.unique(labels)}
        pair, maps = (visits[index], visits[index + 1]), (before[index], named[index + 1])
        by_masks = changes_by_masks(pair, maps, earlier, spacing_mm, threshold, settings)
        changes.append(tuple(borne_out(by_masks, pair, maps, step, spacing_mm, settings) if step else by_masks))
    return Tracking(
        instances=tuple(named),
        before=tuple(before),
        changes=tuple(changes),
        evidence=tuple(step.evidence.z if step else None for step in steps),
        called=tuple(called_map(step, limit) if step else None for step in steps),
        possible=tuple(tuple(place for place in step.places if place.possible) if step else () for step in steps),
    )
