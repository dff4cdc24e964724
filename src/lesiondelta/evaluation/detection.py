"""Which changed lesions a prediction finds, and which of those that it calls are right.

A called change is right if a changed lesion of the reference has the same class and lies at its place: at one of the
two visits a voxel of either is no more than 1 mm from one of the other, from centre to centre (tracking's tolerance);
voxels that both share are. A changed lesion of the reference is found if such a call is there. None is used up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from lesiondelta.evaluation.changes import TRACKING, ChangedLesion
from lesiondelta.evaluation.metrics import SIZES, size_class
from lesiondelta.images import Array

ROUNDING_MM = 1e-3

Source = Literal["calls", "masks"]


@dataclass(frozen=True)
class JudgedChange:
    """A changed lesion of the reference and whether it was found, or a called one and whether it is right.

    `confidence` is that of the call; of a lesion of the reference, that of the surest call that finds it.
    """

    change: str
    size: str
    hit: bool
    confidence: float | None = None


@dataclass(frozen=True)
class StepDetection:
    """The changed lesions of a step from a visit to the next.

    `source`: where the called ones come from, the table of changes of a run, or the two predicted masks alone; `note`
    says why the masks had to do although there is a table.
    """

    reference: tuple[JudgedChange, ...]
    called: tuple[JudgedChange, ...]
    source: Source = "masks"
    note: str = ""

    @property
    def is_graded(self) -> bool:
        """Whether all calls have a confidence."""
        return self.source == "calls" and all(one.confidence is not None for one in self.called)

    def at_limit(self, limit: float) -> "StepDetection":
        """The same if only calls of this confidence count."""

        def sure(one: JudgedChange) -> bool:
            return one.confidence is not None and one.confidence >= limit

        reference = tuple(replace(one, hit=one.hit and sure(one)) for one in self.reference)
        return replace(self, reference=reference, called=tuple(filter(sure, self.called)))


def detect(
    reference: Sequence[ChangedLesion], called: Sequence[ChangedLesion], source: Source = "masks", note: str = ""
) -> StepDetection:
    """Hold called changes against those of the reference."""
    pairs = _pairs(reference, called)
    finders = [[one for one, hit in zip(called, hits, strict=True) if hit] for hits in list(pairs)]
    return StepDetection(
        tuple(_judged(one, bool(own), _surest(own)) for one, own in zip(reference, finders, strict=True)),
        tuple(_judged(one, bool(hits.any()), one.confidence) for one, hits in zip(called, pairs.T, strict=True)),
        source,
        note,
    )


def _surest(calls: Sequence[ChangedLesion]) -> float | None:
    return max((one.confidence for one in calls if one.confidence is not None), default=None)


def _judged(one: ChangedLesion, hit: bool, confidence: float | None) -> JudgedChange:
    size = SIZES[int(size_class(np.array(one.volume_mm3)))]
    return JudgedChange(str(one.change), size, hit, confidence)


def _pairs(reference: Sequence[ChangedLesion], called: Sequence[ChangedLesion]) -> Array:
    """Which lesion of the reference has the class and the place of which called one, (R, C) bool."""
    near = np.zeros((len(reference), len(called)), bool)
    for side in (0, 1):
        (points, owners), (others, of) = (_points(lesions, side) for lesions in (reference, called))
        if len(points) and len(others):
            pairs = cKDTree(points).sparse_distance_matrix(
                cKDTree(others), TRACKING.tolerance_mm + ROUNDING_MM, output_type="ndarray"
            )
            near[owners[pairs["i"]], of[pairs["j"]]] = True
    same: Array = np.array([[a.change == b.change for b in called] for a in reference], bool).reshape(near.shape)
    return near & same


def _points(lesions: Sequence[ChangedLesion], side: int) -> tuple[Array, Array]:
    """The voxels of all lesions at one visit (N, 3) in mm, and whose they are (N,)."""
    places = [one.places[side] for one in lesions]
    owners = np.repeat(np.arange(len(places)), [len(place) for place in places])
    return np.concatenate([np.zeros((0, 3)), *places]), owners
