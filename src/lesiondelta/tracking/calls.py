"""Changes that images bear out: what masks say of lesions, held against what the images show between two visits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from lesiondelta.cohort import Change, LesionChange
from lesiondelta.images import Array
from lesiondelta.settings import Sensitivity, TrackingSettings
from lesiondelta.tracking.change import ROUNDING, UNSEEN, of_group
from lesiondelta.tracking.evidence import Evidence, evidence
from lesiondelta.tracking.places import Place, around, find_places, judged_again
from lesiondelta.tracking.unmasked import TOUCHING
from lesiondelta.tracking.visit import TrackedVisit

LIMITS: dict[Sensitivity, float] = {"low": 0.9, "default": 0.5, "high": 0.2}
"""Least confidence of a change that is called."""
UNSURE = 0.3
"""Probability from which on a voxel might be lesion, and says nothing of unchanged tissue."""
NOT_SEEN = "the images show no change here"
"""Why a lesion of one visit's mask alone is neither new nor resolved."""
NOT_COMPARED = "most of it lies at the border of the brain, or where an image ends, and was not compared"
"""Why a lesion is stable that no evidence was looked at for."""
BY_HAND = "a reader drew or erased it"
"""Why a lesion is new or resolved, whatever the images show."""


@dataclass(frozen=True, eq=False)
class ImageStep:
    """What the images of two visits show: evidence of the FLAIR and, where both have one, the T1w; and places."""

    evidence: Evidence
    t1w: Evidence | None
    places: tuple[Place, ...]


def compare_images(visits: Sequence[TrackedVisit], spacing_mm: float, threshold: float = 0.5) -> list[ImageStep | None]:
    """Every step from a visit to the next; each place is judged again once the visit after the next is known.

    None where there are no images, or they share too little tissue. `threshold` is that of the masks.
    """
    steps = [_compared(earlier, later, spacing_mm, threshold) for earlier, later in pairwise(visits)]
    for index, (first, third) in enumerate(zip(visits, visits[2:], strict=False)):
        step = steps[index]
        if step is not None and first.image and third.image:
            found = _evidence(first, third, spacing_mm)
            likely = first.probability, third.probability
            again = tuple(judged_again(place, found, *likely) for place in step.places)
            steps[index] = replace(step, places=again)
    return steps


def _compared(earlier: TrackedVisit, later: TrackedVisit, spacing_mm: float, threshold: float) -> ImageStep | None:
    if not (earlier.image and later.image):
        return None
    found = _evidence(earlier, later, spacing_mm)
    if not found.calm.any():
        return None
    places = find_places(found, earlier.probability, later.probability, spacing_mm, threshold)
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


def called_map(step: ImageStep, limit: float) -> Array:
    """Where change is called (X, Y, Z) int8: 1 brighter, -1 darker."""
    signs = np.zeros(step.evidence.z.shape, np.int8)
    for place in step.places:
        if place.called(limit):
            signs[tuple(place.voxels.T)] = place.sign
    return signs


def borne_out(
    changes: Sequence[LesionChange],
    pair: tuple[TrackedVisit, TrackedVisit],
    maps: tuple[Array, Array],
    step: ImageStep,
    spacing_mm: float,
    settings: TrackingSettings,
) -> list[LesionChange]:
    """The changes of a step as the images bear them out; `maps` have the numbers of the lesions at both visits."""
    groups = tuple(
        of_group([getattr(one, side) for one in changes], labels)
        for side, labels in zip(("prior", "current"), maps, strict=True)
    )
    volumes = np.array([0.0, *(one.prior_mm3 + one.current_mm3 for one in changes)])
    places: dict[int, list[Place]] = {}
    for place in step.places:
        if not place.possible:
            owner = _owner(place, groups, volumes, max(settings.tolerance_mm / spacing_mm, TOUCHING))
            places.setdefault(owner, []).append(place)
    edited = np.logical_or.reduce([one.by_hand for one in pair if one.by_hand is not None] or [np.zeros(1, bool)])
    judge = _Judge(maps, step, spacing_mm**3, LIMITS[settings.sensitivity], settings.least_growth or 0.0)
    voxels = _voxels_of(groups, len(changes))
    return [
        judge.judged(one, places.get(number, []), voxels[number - 1], edited)
        for number, one in enumerate(changes, start=1)
    ]


def _voxels_of(groups: Sequence[Array], count: int) -> list[Array]:
    """The voxels (N, 3) that each group has at either visit."""
    found: list[list[Array]] = [[] for _ in range(count)]
    for labels in groups:
        where = np.argwhere(labels)
        owners = labels[tuple(where.T)]
        order = np.argsort(owners, kind="stable")
        ends = np.searchsorted(owners[order], np.arange(1, count + 2))
        for number in range(count):
            found[number].append(where[order[ends[number] : ends[number + 1]]])
    return [np.concatenate(parts) for parts in found]


@dataclass(frozen=True, eq=False)
class _Judge:
    """What all lesions of a step are judged by."""

    maps: tuple[Array, Array]
    step: ImageStep
    voxel_mm3: float
    limit: float
    least_growth: float

    def judged(self, one: LesionChange, places: Sequence[Place], voxels: Array, edited: Array) -> LesionChange:
        """A lesion of these voxels (N, 3), with the places that belong to it; `edited` is what a reader has changed."""
        called = [place for place in places if place.called(self.limit)]
        gained, lost = self._rim(called, 1), self._rim(called, -1)
        known = bool(called) or self.step.evidence.knows(voxels)
        once = not (one.prior and one.current)
        sure = 1.0 if once and edited.ndim == 3 and edited[tuple(voxels.T)].mean() >= 0.5 else None
        change, reason = self._by_hand(one) if sure else self._call(one, gained, lost, known)
        deciding = _deciding(places, change)
        later = [place.later for place in deciding if place.later is not None]
        nothing = 0.0 if known else None
        return replace(
            one,
            change=change,
            reason=reason,
            evidence=max((place.sign * place.peak for place in deciding), key=abs, default=nothing),
            gained_mm3=gained,
            lost_mm3=lost,
            confidence=sure or max((place.confidence for place in deciding), default=nothing),
            later_confidence=max(later, default=None),
            t1w_evidence=self._second_witness(deciding),
        )

    def _by_hand(self, one: LesionChange) -> tuple[Change, str]:
        """Of a lesion of one visit that is there, or not there, because a reader says so."""
        return (Change.NEW, BY_HAND) if one.current else (Change.RESOLVED, BY_HAND)

    def _rim(self, called: Sequence[Place], sign: int) -> float:
        """Volume of what became lesion (sign 1), or is lesion no more."""
        other = self.maps[0] if sign > 0 else self.maps[1]
        voxels = [np.count_nonzero(other[tuple(p.voxels.T)] == 0) for p in called if p.sign == sign]
        return float(sum(voxels)) * self.voxel_mm3

    def _call(self, one: LesionChange, gained: float, lost: float, known: bool) -> tuple[Change, str]:
        """The change and why; exchanging the visits gives the opposite change."""
        if one.reason == UNSEEN:
            return Change.STABLE, UNSEEN
        if not one.prior and gained:
            return Change.NEW, f"{gained:.0f} mm3 became brighter"
        if not one.current and lost:
            return Change.RESOLVED, f"{lost:.0f} mm3 became darker"
        if not known:
            return Change.STABLE, NOT_COMPARED
        if not (one.prior and one.current) or gained == lost == 0:
            return Change.STABLE, NOT_SEEN
        if gained == lost:
            return Change.STABLE, f"as much of it became brighter as darker: {gained:.0f} mm3"
        share = max(gained, lost) / min(one.prior_mm3, one.current_mm3)
        if share <= self.least_growth + ROUNDING:
            return Change.STABLE, f"{share:.0%} of it changed, of {self.least_growth:.0%} that count"
        if gained > lost:
            return Change.ENLARGING, f"{gained:.0f} mm3 beside it became brighter"
        return Change.SHRINKING, f"{lost:.0f} mm3 of it became darker"

    def _second_witness(self, places: Sequence[Place]) -> float | None:
        """Mean evidence of the T1w where the FLAIR changed, in standard deviations; lesions are dark in it."""
        if self.step.t1w is None:
            return None
        seen = [place for place in places if self.step.t1w.knows(place.voxels)]
        return float(np.mean([self.step.t1w.z[tuple(place.voxels.T)].mean() for place in seen])) if seen else None


def _deciding(places: Sequence[Place], change: Change) -> list[Place]:
    """The places that speak for a change; of a lesion that is stable, all that might."""
    sign = {Change.NEW: 1, Change.ENLARGING: 1, Change.SHRINKING: -1, Change.RESOLVED: -1}.get(change)
    return [place for place in places if sign in (None, place.sign)]


def _owner(place: Place, groups: Sequence[Array], volumes: Array, reach_voxels: float) -> int:
    """The group that most of a place belongs to, at both visits together, or is near; of two the larger; 0 for none."""
    box, near = around(place, groups[0].shape, reach_voxels)
    inside, around_it = (
        np.sum([np.bincount(part, minlength=len(volumes)) for part in parts], axis=0)
        for parts in ([labels[tuple(place.voxels.T)] for labels in groups], [labels[box][near] for labels in groups])
    )
    counts = inside if inside[1:].any() else around_it
    counts[0] = 0
    best = np.flatnonzero(counts == counts.max()) if counts.max() else np.zeros(1, int)
    return int(best[np.argmax(volumes[best])])
