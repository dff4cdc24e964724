"""Where images lie in a stack: evenly, perpendicular, one beyond the other. Geometry only, in mm along LPS axes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import highdicom as hd
import numpy as np

from lesiondelta.images import Array

SPACING_TOLERANCE = 0.05
"""Of the distance between slices, as a share of it."""
ORIENTATION_TOLERANCE = 1e-3
LARGEST_DRIFT_MM = 0.5
"""Of a slice from its place in an even stack."""
LARGEST_LEAN_MM = 0.5
SAME_PLACE_MM = 0.1
"""Between images that count as at one place: rounding moves them."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Parallel images: places (N, 3), direction cosines (6,), and rows, columns and their spacing (4,)."""

    places: Array
    orientation: Array
    pixels: Array

    @property
    def along(self) -> Array:
        """Places (N,) along the normal, in the order of `places`."""
        return self.places @ normal(self.orientation)

    def parallel(self, other: "Stack") -> bool:
        """Whether the images of both are at one angle."""
        return bool(np.abs(self.orientation - other.orientation).max() <= ORIENTATION_TOLERANCE)

    def alike(self, other: "Stack") -> bool:
        """Whether images of the other could be slices of this one, but for their place."""
        return self.parallel(other) and np.allclose(self.pixels, other.pixels, rtol=1e-3)

    def apart(self, other: "Stack") -> bool:
        """Whether no image of the other lies where one of this does."""
        mine = np.sort(self.along)
        after = np.searchsorted(mine, other.along)
        beside = mine[[(after - 1).clip(0), after.clip(max=len(mine) - 1)]]
        return bool(np.abs(beside - other.along).min() > SAME_PLACE_MM)


def make_one(parts: Sequence[Stack]) -> bool:
    """Whether stacks that share no place are together one even stack."""
    places, first = np.concatenate([part.places for part in parts]), parts[0]
    whole = Stack(places, first.orientation, first.pixels)
    return (
        all(first.alike(part) for part in parts)
        and bool(np.diff(np.sort(whole.along)).min() > SAME_PLACE_MM)
        and bool(np.ptp(places - np.outer(whole.along, normal(first.orientation)), axis=0).max() <= LARGEST_LEAN_MM)
        and even(places, first.orientation)
    )


def goes_on(stack: Stack, other: Stack, *, one_scan: bool) -> bool:
    """Whether the other lies beyond the end of this stack, or between its slices.

    If they are not of one scan, its images have to be alike and lie beyond an end, at multiples of the step, and begin
    no farther away than the stack is long.
    """
    fits = stack.parallel(other) if one_scan else stack.alike(other)
    if len(stack.places) < 2 or not fits or not stack.apart(other):
        return False
    way, ends = _line(stack.places)
    step = way / (len(stack.places) - 1)
    if not step.any():
        return False
    counts = (other.places - ends[0]) @ step / (step @ step)
    beside = np.linalg.norm(other.places - ends[0] - np.outer(counts, step), axis=1).max()
    if beside > np.linalg.norm(step) / 2:
        return False
    outside = np.maximum(-counts, counts - len(stack.places) + 1)
    on_grid = np.abs(counts - np.rint(counts)).max() < 0.1
    return one_scan or bool(on_grid and 0 < outside.min() <= len(stack.places))


def begins_in(place: Array, others: Array) -> bool:
    """Whether an image begins where one of an even stack of `others` would, within it or next to it."""
    way, ends = _line(others)
    step = way / (len(others) - 1)
    count = (place - ends[0]) @ step / (step @ step)
    beside = np.linalg.norm(place - ends[0] - count * step)
    return bool(beside < np.linalg.norm(step) / 2 and -1.5 < count < len(others) + 0.5)


def _line(places: Array) -> tuple[Array, Array]:
    """From the first to the last place, and both (2, 3)."""
    way = places[np.linalg.norm(places - places[0], axis=1).argmax()] - places[0]
    ends = places[[(places @ way).argmin(), (places @ way).argmax()]]
    return ends[1] - ends[0], ends


def normal(orientation: Array) -> Array:
    """Of the images (3,), to the viewer's back."""
    return np.cross(orientation[:3], orientation[3:])


def even(places: Array, orientation: Array, **allowed: Any) -> bool:  # noqa: ANN401
    """Whether places are evenly spaced, near enough."""
    spacing, order = hd.spatial.get_volume_positions(places, orientation, rtol=SPACING_TOLERANCE, **allowed)
    if spacing is None:
        return False
    along = np.sort(places @ -normal(orientation))  # the way that highdicom counts
    drift = along - along[0] - np.sort(order) * spacing
    return bool(np.abs(drift).max() <= LARGEST_DRIFT_MM)


def lean_mm(places: Array, orientation: Array) -> float:
    """How far the last slice lies beside the place that is straight over the first."""
    along = places @ normal(orientation)
    span = places[along.argmax()] - places[along.argmin()]
    return float(np.sqrt(max(0.0, span @ span - np.ptp(along) ** 2)))
