"""The lesions of a patient over all visits: numbers that stay, and what became of each."""

import logging
from collections.abc import Sequence

import cc3d
import numpy as np

from lesiondelta.errors import GeometryError
from lesiondelta.settings import TrackingSettings
from lesiondelta.tracking.calls import LIMITS, borne_out, called_map, compare_images, with_unmasked
from lesiondelta.tracking.change import changes_by_masks
from lesiondelta.tracking.identity import name_lesions
from lesiondelta.tracking.visit import TrackedVisit, Tracking

log = logging.getLogger(__name__)


def track(
    visits: Sequence[TrackedVisit], spacing_mm: float, threshold: float, settings: TrackingSettings | None = None
) -> Tracking:
    """Follow the lesions of a patient over all visits, which come in time order and lie on one grid of cubic voxels.

    `threshold` is that of the masks. Where the visits bring images, a change counts if these bear it out (`calls`);
    what they show to be there, below the threshold, is a lesion of its own. Without images a change counts where the
    volume changes by more than the settings' share, in either direction of time, and by more than the measurement
    error.
    """
    if len({visit.mask.shape for visit in visits}) > 1:
        raise GeometryError("The visits of a patient lie on different grids: resample them to one.")
    settings = settings or TrackingSettings()
    tolerance = settings.tolerance_mm / spacing_mm
    seen = compare_images(visits, spacing_mm) if all(visit.image for visit in visits) else []
    if not all(step.evidence.calm.any() for step in seen):
        log.warning("the FLAIRs share too little tissue to be compared: changes are judged by the masks alone")
        seen = []
    masks = [np.ascontiguousarray(visit.mask, bool) for visit in visits]  # numbers follow the order in memory
    masks = with_unmasked(masks, seen, LIMITS[settings.sensitivity], tolerance)
    found = [cc3d.connected_components(mask, connectivity=26) for mask in masks]
    named = name_lesions(found, tolerance)
    changes = []
    for index in range(1, len(visits)):
        earlier = {int(n) for labels in named[: index - 1] for n in np.unique(labels)}
        pair, maps = (visits[index - 1], visits[index]), (named[index - 1], named[index])
        step = changes_by_masks(pair, maps, earlier, spacing_mm, threshold, settings)
        changes.append(tuple(borne_out(step, maps, seen[index - 1], spacing_mm, settings) if seen else step))
    possible = tuple(tuple(place for place in step.places if place.possible) for step in seen)
    called = tuple(called_map(step, LIMITS[settings.sensitivity]) for step in seen)
    return Tracking(tuple(named), tuple(changes), tuple(step.evidence.z for step in seen), called, possible)
