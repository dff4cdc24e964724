"""A visit as tracking takes it, and what tracking returns."""

from dataclasses import dataclass

from lesiondelta.cohort import LesionChange
from lesiondelta.images import Array
from lesiondelta.tracking.evidence import VisitImage
from lesiondelta.tracking.places import Place


@dataclass(frozen=True, eq=False)
class TrackedVisit:
    """A visit on the patient's grid.

    Attributes
    ----------
    mask : (X, Y, Z) bool
    probability : (X, Y, Z) float
        Of lesion.
    slice_mm : float
        Thickness of the slices that the mask rests on.
    residual_mm : float
        By how far the registration may be off.
    covered : (X, Y, Z) bool or None
        Where the visit's image has data; None: everywhere.
    image : VisitImage or None
        The FLAIR that the mask was made for; None: masks are all that is known.
    t1w : VisitImage or None
        A second witness: lesions are dark in it.
    by_hand : (X, Y, Z) bool or None
        Where a reader has changed the mask; None: the mask is as it was segmented.
    """

    mask: Array
    probability: Array
    slice_mm: float = 1.0
    residual_mm: float = 0.0
    covered: Array | None = None
    image: VisitImage | None = None
    t1w: VisitImage | None = None
    by_hand: Array | None = None


@dataclass(frozen=True, eq=False)
class Tracking:
    """What became of a patient's lesions.

    Attributes
    ----------
    instances : a map (X, Y, Z) int32 for every visit, with numbers that stay over all visits
    before : for every step, the map of the earlier visit, and in it what only the images show to have been there
    changes : for every step from a visit to the next, what became of every lesion
    evidence : for every step, the standard deviations (X, Y, Z) by which the images differ; None without images
    called : for every step, where the images show change that is called (X, Y, Z): 1 brighter, -1 darker
    possible : for every step, places that only the images show
    """

    instances: tuple[Array, ...]
    before: tuple[Array, ...]
    changes: tuple[tuple[LesionChange, ...], ...]
    evidence: tuple[Array | None, ...] = ()
    called: tuple[Array | None, ...] = ()
    possible: tuple[tuple[Place, ...], ...] = ()
