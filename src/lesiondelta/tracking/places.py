"""Places where images say that something changed, each with a confidence that it did.

A place is a 26-connected piece of evidence with some probability of lesion at the visit where it is brighter
(hysteresis: both have to be high somewhere in it, neither everywhere). What lacks all probability, however strong the
evidence, is only possible.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cc3d
import numpy as np
from scipy import ndimage

from lesiondelta.images import Array
from lesiondelta.tracking.evidence import Evidence

WEAK, STRONG = 2.0, 3.0
"""Standard deviations that every voxel of a place has, and one of them at least."""
FAINT, LIKELY = 0.003, 0.03
"""Probabilities of lesion, where it is brighter, that every voxel of a place has, and one of them at least."""
LEAST_MM3, LEAST_RIM_MM3 = 6.0, 3.0
"""Volume of a place, and of its rim: what was below the threshold of lesion where it is darker."""
OUTLINE = 0.4
"""Share of the strongest evidence that every voxel of a place has in the end, in one piece around it."""
POSSIBLE_Z, POSSIBLE_STEEPNESS, POSSIBLE_MM3, COMPACT = 5.0, 0.15, (10.0, 2000.0), 0.3
"""Of a lesion that probabilities lack: strongest evidence, steepness, volume, and share of the ball of its extent."""
SUREST = 4.0
"""Logarithm of the odds that one comparison of two is taken for at most."""
WEIGHTS = {"log_peak": 5.503, "log_steepness": -1.48, "gain": 0.419, "likeliest": 0.216, "constant": -13.39}
"""Of the logarithm of the odds that a place changed, fitted to simulated rescans (recipes/evidence_confidence.py)."""


@dataclass(frozen=True, eq=False)
class Place:
    """Where a lesion became brighter (`sign` 1) or darker (-1) from a visit to the next.

    Attributes
    ----------
    voxels : (N, 3) int
    peak : strongest evidence, in standard deviations, without sign
    confidence : probability that it changed
    later : the same, once the next visit is known too
    possible : probabilities lack it, only the images show it
    """

    sign: int
    voxels: Array
    peak: float
    confidence: float
    possible: bool = False
    later: float | None = None
    features: tuple[float, ...] = ()

    def called(self, limit: float) -> bool:
        """Whether it is sure enough."""
        return not self.possible and self.confidence >= limit


def find_places(
    found: Evidence, earlier: Array, later: Array, spacing_mm: float, threshold: float = 0.5
) -> list[Place]:
    """All places of a step.

    `earlier` and `later` (X, Y, Z) are the visits' probabilities, `threshold` is that of lesion.
    """
    brighter = _places(1, found, (later, earlier), threshold, spacing_mm)
    return brighter + _places(-1, found, (earlier, later), threshold, spacing_mm)


def _places(
    sign: int, found: Evidence, probabilities: tuple[Array, Array], threshold: float, spacing_mm: float
) -> list[Place]:
    """Places of one sign, with the probabilities where they are brighter, and where darker."""
    bright, dark = probabilities
    labels = cc3d.connected_components(((sign * found.z) > WEAK) & (bright > FAINT), connectivity=26)
    where = np.flatnonzero(labels)
    owners = labels.ravel()[where]
    order = np.argsort(owners, kind="stable")
    groups = np.split(where[order], np.flatnonzero(np.diff(owners[order])) + 1) if len(where) else []
    flat = _Flat(sign * found.z.ravel(), found.steepness.ravel(), bright.ravel(), dark.ravel())
    voxel, places = spacing_mm**3, []
    for inside in groups:
        if len(inside) * voxel < LEAST_MM3 or flat.z[inside].max() < STRONG:
            continue
        voxels = np.stack(np.unravel_index(inside, labels.shape), axis=1)
        features = flat.features(inside)
        outline = _around_peak(voxels, flat.z[inside])
        peak, likeliest = float(flat.z[inside].max()), float(flat.bright[inside].max())
        rim = np.count_nonzero(flat.dark[inside] < threshold) * voxel
        if likeliest > LIKELY and rim >= LEAST_RIM_MM3:
            places.append(Place(sign, outline, peak, confidence(features), features=features))
        elif likeliest <= LIKELY and _is_possible(outline, peak, float(flat.steepness[inside].mean()), spacing_mm):
            places.append(Place(sign, outline, peak, confidence(features), possible=True, features=features))
    return places


@dataclass(frozen=True, eq=False)
class _Flat:
    """Flattened maps; z has the place's sign."""

    z: Array
    steepness: Array
    bright: Array
    dark: Array

    def features(self, inside: Array) -> tuple[float, ...]:
        """What `WEIGHTS` weighs, of a place's voxels."""
        bright, dark = (_logit(one[inside]) for one in (self.bright, self.dark))
        return (
            float(np.log(max(self.z[inside].max(), 0.1))),
            float(np.log(max(self.steepness[inside].mean(), 1e-3))),
            float((bright - dark).mean()),
            float(bright.max()),
        )


def judged_again(place: Place, found: Evidence, earlier: Array, later: Array) -> Place:
    """The place with its confidence once a later visit is known, which is compared with the visit before the step.

    A lesion that is there for good shows again; an artefact of one visit does not, however strong it was. The
    logarithms of the odds, none surer than `SUREST`, are averaged, since both comparisons share a visit; if both say
    that it changed, it is no less sure than before. Nothing is said where the later visit does not show the place.
    """
    if not found.knows(place.voxels):
        return place
    bright, dark = (later, earlier) if place.sign > 0 else (earlier, later)
    flat = _Flat(place.sign * found.z.ravel(), found.steepness.ravel(), bright.ravel(), dark.ravel())
    inside = np.ravel_multi_index(tuple(place.voxels.T), found.z.shape)
    first, second = log_odds(place.features), log_odds(flat.features(inside))
    odds = float(np.clip([first, second], -SUREST, SUREST).mean())
    return replace(place, later=_probability(max(first, odds) if min(first, second) > 0 else odds))


def confidence(features: Sequence[float]) -> float:
    """Probability that a place of these features changed."""
    return _probability(log_odds(features))


def log_odds(features: Sequence[float]) -> float:
    """Logarithm of the odds that a place of these features changed."""
    *weights, constant = WEIGHTS.values()
    return constant + float(np.dot(weights, features))


def _probability(log_odds: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(log_odds, -30, 30))))


def _around_peak(voxels: Array, z: Array) -> Array:
    """Of the voxels (N, 3) with evidence (N,) those that outline the strongest one."""
    low = voxels.min(axis=0)
    strong = np.zeros(voxels.max(axis=0) - low + 1, bool)
    strong[tuple((voxels - low)[z >= OUTLINE * z.max()].T)] = True
    labels = cc3d.connected_components(strong, connectivity=26)
    piece = labels[tuple(voxels[int(np.argmax(z))] - low)]
    outline: Array = np.argwhere(labels == piece) + low
    return outline


def _is_possible(voxels: Array, peak: float, steepness: float, spacing_mm: float) -> bool:
    """Strong, compact, and not at an edge."""
    volume = len(voxels) * spacing_mm**3
    radius = (np.linalg.norm(voxels - voxels.mean(axis=0), axis=1).max() + 0.5) * spacing_mm
    low, high = POSSIBLE_MM3
    compact = volume / (4 / 3 * np.pi * radius**3) >= COMPACT
    return peak >= POSSIBLE_Z and steepness < POSSIBLE_STEEPNESS and low <= volume <= high and compact


def _logit(probability: Array) -> Array:
    p = np.clip(probability.astype(np.float64), 1e-3, 1 - 1e-3)
    odds: Array = np.log(p / (1 - p))
    return odds


def around(place: Place, shape: tuple[int, ...], tolerance_voxels: float) -> tuple[tuple[slice, ...], Array]:
    """The box around a place, and which of its voxels are in the place or within the tolerance of it."""
    margin = math.ceil(tolerance_voxels)
    low = np.maximum(place.voxels.min(axis=0) - margin, 0)
    high = np.minimum(place.voxels.max(axis=0) + margin + 1, shape)
    inside = np.zeros(high - low, bool)
    inside[tuple((place.voxels - low).T)] = True
    near: Array = ndimage.distance_transform_edt(~inside) <= tolerance_voxels
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True)), near
