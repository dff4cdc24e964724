"""Changes that images bear out: what masks say of lesions, held against what the images show between two visits."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy import ndimage

from lesiondelta.cohort import Change, LesionChange
from lesiondelta.images import Array
from lesiondelta.settings import Sensitivity, TrackingSettings
from lesiondelta.tracking.change import ROUNDING, UNSEEN, of_group
from lesiondelta.tracking.evidence import Evidence, evidence
from lesiondelta.tracking.places import Place, find_places, judged_again
from lesiondelta.tracking.visit import TrackedVisit

LIMITS: dict[Sensitivity, float] = {"low": 0.9, "default": 0.5, "high": 0.2}
"""Least confidence of a change that is called."""
UNSURE = 0.3
"""Probability from which on a voxel might be lesion, and says nothing of unchanged tissue."""
NOT_SEEN = "the images do not show it"
"""Why a lesion of one visit's mask alone is neither new nor resolved."""


@dataclass(frozen=True, eq=False)
class ImageStep:
    """What the images of two visits show: evidence of the FLAIR and, where both have one, the T1w; and places."""

    evidence: Evidence
    t1w: Evidence | None
    places: tuple[Place, ...]


def compare_images(visits: Sequence[TrackedVisit], spacing_mm: float) -> list[ImageStep]:
    """Every step from a visit to the next; each place is judged again once the visit after the next is known."""
    steps = [_compared(earlier, later, spacing_mm) for earlier, later in pairwise(visits)]
    for index, next_but_one in enumerate(visits[2:]):
        first, third = visits[index], next_but_one
        found = _evidence(first, third, spacing_mm)
        probabilities = first.probability, third.probability
        again = tuple(judged_again(place, found, *probabilities) for place in steps[index].places)
        steps[index] = replace(steps[index], places=again)
    return steps


def _compared(earlier: TrackedVisit, later: TrackedVisit, spacing_mm: float) -> ImageStep:
    found = _evidence(earlier, later, spacing_mm)
    places = find_places(found, earlier.probability, later.probability, spacing_mm)
    t1w = _evidence(earlier, later, spacing_mm, "t1w") if earlier.t1w and later.t1w else None
    return ImageStep(found, t1w, tuple(places))


def _evidence(earlier: TrackedVisit, later: TrackedVisit, spacing_mm: float, image: str = "image") -> Evidence:
    lesions = (earlier.probability > UNSURE) | (later.probability > UNSURE) | earlier.mask | later.mask
    images = getattr(earlier, image), getattr(later, image)
    return evidence(*images, _brain(earlier, later), lesions, spacing_mm)


def _brain(earlier: TrackedVisit, later: TrackedVisit) -> Array:
    """Where either image shows something."""
    shown: Array = (earlier.image.data != 0) | (later.image.data != 0)  # type: ignore[union-attr]
    return shown


def with_unmasked(
    masks: Sequence[Array], steps: Sequence[ImageStep], limit: float, tolerance_voxels: float
) -> list[Array]:
    """The masks, and lesions that they miss: places that are called and touch no lesion, where they are brighter."""
    found = [mask.copy() for mask in masks]
    for index, step in enumerate(steps):
        either = masks[index] | masks[index + 1]
        for place in _called(step.places, limit):
            box, near = _around(place, either.shape, tolerance_voxels)
            if not either[box][near].any():
                found[index + (place.sign > 0)][tuple(place.voxels.T)] = True
    return found


def called_map(step: ImageStep, limit: float) -> Array:
    """Where change is called (X, Y, Z) int8: 1 brighter, -1 darker."""
    signs = np.zeros(step.evidence.z.shape, np.int8)
    for place in _called(step.places, limit):
        signs[tuple(place.voxels.T)] = place.sign
    return signs


def borne_out(
    changes: Sequence[LesionChange],
    maps: tuple[Array, Array],
    step: ImageStep,
    spacing_mm: float,
    settings: TrackingSettings,
) -> list[LesionChange]:
    """The changes of a step as the images bear them out; `maps` have the numbers of the lesions at both visits."""
    before, after = (
        of_group([getattr(one, side) for one in changes], labels)
        for side, labels in zip(("prior", "current"), maps, strict=True)
    )
    owners = np.where(after > 0, after, before)
    places: dict[int, list[Place]] = {}
    for place in step.places:
        if not place.possible:
            places.setdefault(_owner(place, owners, settings.tolerance_mm / spacing_mm), []).append(place)
    judge = _Judge(maps, step, spacing_mm**3, LIMITS[settings.sensitivity], settings.least_growth or 0.0)
    return [judge.judged(one, places.get(number, [])) for number, one in enumerate(changes, start=1)]


@dataclass(frozen=True, eq=False)
class _Judge:
    """What all lesions of a step are judged by."""

    maps: tuple[Array, Array]
    step: ImageStep
    voxel_mm3: float
    limit: float
    least_growth: float

    def judged(self, one: LesionChange, places: Sequence[Place]) -> LesionChange:
        """A lesion with the places that belong to it."""
        called = list(_called(places, self.limit))
        gained, lost = self._rim(called, 1), self._rim(called, -1)
        change, reason = self._call(one, gained, lost)
        deciding = _deciding(places, change)
        later = [place.later for place in deciding if place.later is not None]
        return replace(
            one,
            change=change,
            reason=reason,
            evidence=max((place.sign * place.peak for place in deciding), key=abs, default=0.0),
            gained_mm3=gained,
            lost_mm3=lost,
            confidence=max((place.confidence for place in deciding), default=0.0),
            later_confidence=max(later, default=None),
            t1w_evidence=self._second_witness(deciding),
        )

    def _rim(self, called: Sequence[Place], sign: int) -> float:
        """Volume of what became lesion (sign 1), or is lesion no more."""
        other = self.maps[0] if sign > 0 else self.maps[1]
        voxels = [np.count_nonzero(other[tuple(p.voxels.T)] == 0) for p in called if p.sign == sign]
        return float(sum(voxels)) * self.voxel_mm3

    def _call(self, one: LesionChange, gained: float, lost: float) -> tuple[Change, str]:
        """The change and why; exchanging the visits gives the opposite change."""
        if one.reason == UNSEEN:
            return Change.STABLE, UNSEEN
        if not one.prior:
            return (Change.NEW, f"{gained:.0f} mm3 became brighter") if gained else (Change.STABLE, NOT_SEEN)
        if not one.current:
            return (Change.RESOLVED, f"{lost:.0f} mm3 became darker") if lost else (Change.STABLE, NOT_SEEN)
        share = max(gained, lost) / min(one.prior_mm3, one.current_mm3)
        if gained == lost or share <= self.least_growth + ROUNDING:
            why = (
                f"{share:.0%} of it changed, of {self.least_growth:.0%} that count"
                if share
                else "no image shows a change"
            )
            return Change.STABLE, why
        if gained > lost:
            return Change.ENLARGING, f"{gained:.0f} mm3 beside it became brighter"
        return Change.SHRINKING, f"{lost:.0f} mm3 of it became darker"

    def _second_witness(self, places: Sequence[Place]) -> float | None:
        """Mean evidence of the T1w where the FLAIR changed, in standard deviations; lesions are dark in it."""
        if self.step.t1w is None or not places:
            return None
        return float(np.mean([self.step.t1w.z[tuple(place.voxels.T)].mean() for place in places]))


def _called(places: Sequence[Place], limit: float) -> Iterator[Place]:
    return (place for place in places if not place.possible and place.confidence >= limit)


def _deciding(places: Sequence[Place], change: Change) -> list[Place]:
    """The places that speak for a change; of a lesion that is stable, all that might."""
    sign = {Change.NEW: 1, Change.ENLARGING: 1, Change.SHRINKING: -1, Change.RESOLVED: -1}.get(change)
    return [place for place in places if sign in (None, place.sign)]


def _owner(place: Place, owners: Array, tolerance_voxels: float) -> int:
    """The group that most of a place belongs to or is within the tolerance of; 0 for none."""
    box, near = _around(place, owners.shape, tolerance_voxels)
    own = owners[tuple(place.voxels.T)]
    counts = np.bincount(own[own > 0]) if own.any() else np.bincount(owners[box][near])
    counts = np.append(counts, 0)
    counts[0] = 0
    return int(np.argmax(counts))


def _around(place: Place, shape: tuple[int, ...], tolerance_voxels: float) -> tuple[tuple[slice, ...], Array]:
    """The box around a place, and which of its voxels are in the place or within the tolerance of it."""
    margin = math.ceil(tolerance_voxels)
    low = np.maximum(place.voxels.min(axis=0) - margin, 0)
    high = np.minimum(place.voxels.max(axis=0) + margin + 1, shape)
    inside = np.zeros(high - low, bool)
    inside[tuple((place.voxels - low).T)] = True
    near: Array = ndimage.distance_transform_edt(~inside) <= tolerance_voxels
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True)), near
