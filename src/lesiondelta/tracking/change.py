"""What masks alone say of every lesion from one visit to the next, and how large the error of a volume is."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from lesiondelta.cohort import Change, LesionChange
from lesiondelta.images import Array
from lesiondelta.settings import TrackingSettings
from lesiondelta.tracking.identity import Group, groups_of
from lesiondelta.tracking.visit import TrackedVisit

UNSURE_LOGIT = 1.0
"""A voxel whose logit is so near to the threshold's might be on its other side: one standard deviation."""
REACH_MM = 2.0
"""Unsure voxels outside lesions, so near to one, might be its own."""
BRAIN_RADIUS_MM = 70.0
"""At which a registration's residual is what a wrong scale does."""
ROUNDING = 1e-9
UNSEEN = "half of it or more lies where the FLAIR of the other visit shows nothing"
"""Why a lesion of one visit alone is neither new nor resolved; most often it lies outside the other's field of view."""
LEAST_GROWTH = 0.3
"""Share of the smaller volume by which a lesion has to change, where nothing else is said and masks alone are known."""
MUCH_THICKER = 1.5
"""Slices, by this factor or more, show fewer small lesions."""
TOO_SMALL = "smaller than a ball as wide as the other visit's slices, which are much thicker and may not show it"
"""Why another such lesion is neither."""


def changes_by_masks(
    visits: tuple[TrackedVisit, TrackedVisit],
    maps: tuple[Array, Array],
    earlier: set[int],
    spacing_mm: float,
    threshold: float,
    settings: TrackingSettings,
) -> list[LesionChange]:
    """What became of every lesion of two visits; `earlier` has the numbers of lesions at visits before these."""
    groups = groups_of(*maps, settings.tolerance_mm / spacing_mm)
    volumes, variances, hidden = _measured(visits, maps, groups, spacing_mm, threshold)
    changes = []
    rows = zip(groups, volumes.T, variances.sum(axis=0), hidden.sum(axis=0), strict=True)
    for group, (before, after), variance, unseen in rows:
        error = settings.error_sd * float(np.sqrt(variance))
        too_small = max(before, after) < _least_shown_mm3(visits, group)
        growth = LEAST_GROWTH if settings.least_growth is None else settings.least_growth
        change, reason = classify(group, (before, after), error, growth, unseen, too_small=too_small)
        returned = not group.prior and any(number in earlier for number in group.current)
        changes.append(
            LesionChange(group.prior, group.current, change, float(before), float(after), error, reason, returned)
        )
    return sorted(changes, key=lambda one: one.current or one.prior)


def _least_shown_mm3(visits: tuple[TrackedVisit, TrackedVisit], group: Group) -> float:
    """Volume of a ball as wide as the other visit's slices, for a lesion of one visit alone with much thinner ones."""
    own, other = (visits[1], visits[0]) if group.current else visits
    return math.pi / 6 * other.slice_mm**3 if other.slice_mm > (MUCH_THICKER - 1e-3) * own.slice_mm else 0.0


def classify(
    group: Group,
    volumes: tuple[float, float],
    error: float,
    least_growth: float,
    unseen: float = 0.0,
    *,
    too_small: bool = False,
) -> tuple[Change, str]:
    """The change and why; exchanging the visits gives the opposite change.

    `volumes` before and after, and their error, in mm3; `unseen` is the volume that the other visit's image does not
    show, `too_small` whether its slices might not show a lesion that is there.
    """
    before, after = volumes
    apart = after - before
    once = not group.prior or not group.current
    if once and unseen >= abs(apart) / 2:
        return Change.STABLE, UNSEEN
    if once and too_small:
        return Change.STABLE, TOO_SMALL
    if once and abs(apart) <= error:
        seen = "before" if not group.prior else "now"
        return Change.STABLE, f"within the measurement error: it may have been there {seen}, below the threshold"
    if not group.prior:
        return Change.NEW, "no lesion was there"
    if not group.current:
        return Change.RESOLVED, "no lesion is there any more"
    share = max(before, after) / min(before, after) - 1
    if share <= least_growth + ROUNDING:
        return Change.STABLE, f"the volume differs by {share:.0%}, of {least_growth:.0%} that count"
    if abs(apart) <= error:
        return Change.STABLE, f"within the measurement error: {apart:+.0f} mm3, of {error:.0f} mm3 that might be chance"
    return (Change.ENLARGING if apart > 0 else Change.SHRINKING), f"the volume differs by {share:.0%}"


def _measured(
    visits: tuple[TrackedVisit, TrackedVisit],
    maps: tuple[Array, Array],
    groups: Sequence[Group],
    spacing_mm: float,
    threshold: float,
) -> tuple[Array, Array, Array]:
    """Volume in mm3, its variance, and how much of the other visit's is not shown: (2, N), of groups at both visits."""
    own = [
        of_group([group.prior for group in groups], maps[0]),
        of_group([group.current for group in groups], maps[1]),
    ]
    low, high = (1 / (1 + (1 / threshold - 1) * np.exp(shift)) for shift in (UNSURE_LOGIT, -UNSURE_LOGIT))
    reach, voxel = REACH_MM / spacing_mm, spacing_mm**3
    boxes = [ndimage.find_objects(labels, max_label=len(groups)) for labels in own]
    volumes, variances, hidden = np.zeros((3, 2, len(groups)))
    for index, group in enumerate(groups):
        box = _around([of_visit[index] for of_visit in boxes if of_visit[index]], math.ceil(reach))
        inside = [labels[box] == index + 1 for labels in own]
        near = ndimage.distance_transform_edt(~(inside[0] | inside[1])) <= reach
        for number, visit in enumerate(visits):
            p = visit.probability[box]
            lost = np.count_nonzero(inside[number] & (p <= high))
            gained = np.count_nonzero(near & (own[number][box] == 0) & (p > low))
            volume = np.count_nonzero(inside[number]) * voxel
            by_registration = 3 * volume * visit.residual_mm / BRAIN_RADIUS_MM
            volumes[number, index] = volume
            if visit.covered is not None:
                hidden[number, index] = np.count_nonzero(inside[1 - number] & ~visit.covered[box]) * voxel
            parts: list[float] = [max(lost, gained) * voxel, hidden[number, index]]
            if group.prior and group.current:  # however coarse its slices are, a lesion is there or is not
                parts += [by_slices(volume, visit.slice_mm, spacing_mm), by_registration]
            variances[number, index] = np.square(parts).sum()
    return volumes, variances, hidden


def by_slices(volume_mm3: float, slice_mm: float, spacing_mm: float) -> float:
    """Standard deviation in mm3 of a ball's volume when slices, of square pixels of a spacing, cut it at random.

    A ball that is thinner than a slice is seen in one, by its section there, or in none. Else the variance is that of
    counting the points of a lattice: radius^2 / (2 pi^2) * sum of 1 / |k|^4 over the reciprocal lattice (Kendall 1948),
    where slices alone give pi^4 / 45 * slice^4, and pixels about 14.4 * slice * spacing^3.
    """
    radius = float(np.cbrt(3 * volume_mm3 / (4 * np.pi)))
    along = np.pi**2 / 90 * radius**2 * slice_mm**4
    if 2 * radius <= slice_mm:
        along = 16 / 15 * np.pi**2 * radius**5 * slice_mm - volume_mm3**2
    within = 14.4 / (2 * np.pi**2) * radius**2 * slice_mm * spacing_mm**3
    return float(np.sqrt(along + within))


def _around(boxes: Sequence[tuple[slice, ...]], margin: int) -> tuple[slice, ...]:
    """The box that holds all of these, and a margin."""
    return tuple(
        slice(max(min(axis.start for axis in axes) - margin, 0), max(axis.stop for axis in axes) + margin)
        for axes in zip(*boxes, strict=True)
    )


def of_group(lesions: Sequence[tuple[int, ...]], labels: Array) -> Array:
    """The number, from 1, of the group that each voxel's lesion is in."""
    numbers = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
    for index, members in enumerate(lesions, start=1):
        numbers[list(members)] = index
    groups: Array = numbers[labels]
    return groups
