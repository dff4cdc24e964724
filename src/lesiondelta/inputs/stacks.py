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
MOST_TURNS = 4
"""Parts that slices of one stack may have gone to by turns."""


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
    counts, beside = _counted(other.places, stack.places)
    if not beside.max() <= 0.5:
        return False
    outside = np.maximum(-counts, counts - len(stack.places) + 1)
    on_grid = np.abs(counts - np.rint(counts)).max() < 0.1
    return one_scan or bool(on_grid and 0 < outside.min() <= len(stack.places))


def takes_turns(stack: Stack, other: Stack) -> bool:
    """Whether slices of the other lie between those of this stack, where an even stack that is finer has some."""
    if len(stack.places) < 2 or not stack.alike(other) or not stack.apart(other):
        return False
    counts, beside = _counted(other.places, stack.places)
    turns = np.arange(2, MOST_TURNS + 1)[:, None]
    off_grid = np.abs(counts * turns - np.rint(counts * turns)).max(axis=1)
    within = counts.min() > -1 and counts.max() < len(stack.places)
    return bool(within and beside.max() <= 0.5 and off_grid.min() <= SPACING_TOLERANCE)


def begins_in(place: Array, others: Array) -> bool:
    """Whether an image begins where one of an even stack of `others` would, within it or next to it."""
    (count,), (beside,) = _counted(place[None], others)
    return bool(beside < 0.5 and -1.5 < count < len(others) + 0.5)


def _counted(places: Array, stack: Array) -> tuple[Array, Array]:
    """Steps of an even stack (M, 3) from its first place to each of `places` (N, 3), and steps beside its line.

    Not a number where all of the stack lies at one place.
    """
    way = stack[np.linalg.norm(stack - stack[0], axis=1).argmax()] - stack[0]
    first, last = stack[(stack @ way).argmin()], stack[(stack @ way).argmax()]
    step = (last - first) / (len(stack) - 1)
    counts = (places - first) @ step / (step @ step or np.nan)
    beside = np.linalg.norm(places - first - np.outer(counts, step), axis=1) / (np.linalg.norm(step) or np.nan)
    return counts, beside


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
