"""The gate: whether two images are aligned, and whether they show one person.

Aligned is judged by local optimality, never by an absolute similarity: mutual information is evaluated around the
solution, and a parabola per parameter tells how far away its best value lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lesiondelta.errors import RegistrationError
from lesiondelta.images import Affine, Array, Volume
from lesiondelta.preprocessing.located import Located
from lesiondelta.preprocessing.person import displacement_mm
from lesiondelta.preprocessing.points import apply, coarse_mask, inside_mm
from lesiondelta.timings import timed

WORKING_MM = 2.0
HALF_WIDTHS = {"shift": 3.0, "rotation": 0.05, "scale": 0.05}
"""Of the scan around the solution: mm, radians, share."""
SCAN = np.linspace(-1, 1, 5)
BINS = 32
RESIDUAL_FAIL_MM, RESIDUAL_WARN_MM = 1.0, 0.6
CERTAINTY, OF_A_SLICE = 1.645, 0.05
"""Standard errors by which a residual may exceed its limit (95 %, one-sided), and the share of the thickest slice that
this may be."""
SHARP_MM, BLURRED_MM = 0.2, 0.4
"""Standard errors up to which a residual may exceed its limit, and from which on it is doubtful: one person's images
have 0.06 to 0.19 mm, two people's 0.87 mm and more (decision 011)."""
GROUPS, BLOCK_MM = 8, 20.0
"""Of the brain's points, which are left out in turn to find the standard error; neighbours are left out together."""
SCALE_LIMIT = 0.05
PERSON_FAIL_MM, PERSON_WARN_MM = 2.2, 1.5
"""One person: 0.5 mm, 1.5 mm with 56 ml of bright new lesions; two people: 3.4 mm and more (decision 011)."""


@dataclass(frozen=True)
class Check:
    """A figure that passed, with its standard error where that is known, and what is worth a look."""

    value_mm: float
    warnings: tuple[str, ...] = ()
    error_mm: float | None = None


@dataclass(frozen=True)
class Residual:
    """How far two images are out of line, and the standard error of that."""

    value_mm: float
    error_mm: float


def check_alignment(fixed: Located, moving: Located, brain: Volume) -> Check:
    """Raise RegistrationError where two images are out of line, or one had to be stretched beyond belief."""
    names = f"{moving.image.name} and {fixed.image.name}"
    stretch = scales(moving.transform @ np.linalg.inv(fixed.transform))
    if np.abs(stretch - 1).max() > SCALE_LIMIT:
        raise RegistrationError(
            f"{names} fit only with scales {', '.join(f'{s:.2f}' for s in stretch)} (1 within {SCALE_LIMIT:.2f} is "
            "believed): look whether both show the head of one person, and whether the voxel sizes are right."
        )
    found = residual(fixed, moving, brain)
    slice_mm = max(float(one.image.grid.spacing.max()) for one in (fixed, moving))
    sharp = found.error_mm <= SHARP_MM
    limit = RESIDUAL_FAIL_MM + (min(CERTAINTY * found.error_mm, OF_A_SLICE * slice_mm) if sharp else 0.0)
    figures = f"{found.value_mm:.2f} mm out of line (standard error {found.error_mm:.2f} mm, limit {limit:.2f} mm)"
    if not found.value_mm <= limit:  # so that NaN fails, too
        raise RegistrationError(f"{names} are {figures}: look at both, or try another registration engine.")
    doubt = f"{names} may be {figures}: look at both."
    doubtful = found.value_mm > RESIDUAL_WARN_MM or found.error_mm > BLURRED_MM
    return Check(found.value_mm, (doubt,) if doubtful else (), found.error_mm)


def check_person(fixed: Located, moving: Located, brain: Volume, *, refuse: bool = True) -> Check:
    """Raise RegistrationError, or warn, where two aligned images of one contrast show two people."""
    names = f"{moving.image.name} and {fixed.image.name}"
    value = displacement_mm(fixed, moving, brain)
    figures = f"after registration the brain would still have to move by {value:.1f} mm (limit {PERSON_FAIL_MM:.1f} mm)"
    if refuse and not value <= PERSON_FAIL_MM:  # so that NaN fails, too
        raise RegistrationError(f"{names} do not show one person: {figures}. Look whether a file was mixed up.")
    doubt = f"{names} may not show one person: {figures}. Look at both."
    return Check(value, () if value <= PERSON_WARN_MM else (doubt,))


@timed("gate")
def residual(fixed: Located, moving: Located, brain: Volume) -> Residual:
    """Mean distance in the brain between the given alignment and the best one nearby, by mutual information at 2 mm.

    Shifts, rotations and scales about the brain's centre are scanned one at a time; the tops of the nine parabolas
    together make the change whose mean effect on the brain's points is returned. Its standard error is a jackknife's
    over groups of blocks of the brain (Efron and Tibshirani 1993, An Introduction to the Bootstrap, eq. 11.5): large
    where slices are thick, contrast is low or noise is high.
    """
    points = inside_mm(coarse_mask(brain, WORKING_MM))
    centre, groups = points.mean(axis=0), _groups(points)
    rows = _rows(_levels(fixed.coarse(WORKING_MM).at(points)), groups)
    other = moving.coarse(WORKING_MM)

    def similarities(change: Affine) -> list[float]:
        """Of all points, then without each group."""
        parts = _joint(rows, _levels(other.at(apply(change, points))))
        whole = parts.sum(axis=0)
        return [_information(joint) for joint in (whole, *(whole - part for part in parts))]

    best = [np.eye(4)] * (GROUPS + 1)
    for kind, half_width in HALF_WIDTHS.items():
        for axis in range(3):
            scanned = [similarities(_change(kind, axis, share * half_width, centre)) for share in SCAN]
            tops = [_top(values) * half_width for values in zip(*scanned, strict=True)]
            best = [one @ _change(kind, axis, top, centre) for one, top in zip(best, tops, strict=True)]
    moved, *without = (apply(one, points) - points for one in best)
    spread = ((np.array(without) - np.mean(without, axis=0)) ** 2).sum(axis=(0, 2)) * (GROUPS - 1) / GROUPS
    return Residual(float(np.linalg.norm(moved, axis=1).mean()), float(np.sqrt(spread).mean()))


def _groups(points: Array) -> Array:
    """A group for every point (N, 3), by the block that it lies in; (N,)."""
    _, block = np.unique(np.floor(points / BLOCK_MM).astype(int), axis=0, return_inverse=True)
    shuffled: Array = np.random.default_rng(0).permutation(block.max() + 1) % GROUPS
    return shuffled[block.ravel()]


def scales(transform: Affine) -> Array:
    """The three stretches of a transform."""
    values: Array = np.linalg.svd(transform[:3, :3], compute_uv=False)
    return values


def _change(kind: str, axis: int, amount: float, centre: Array) -> Affine:
    """A small shift (mm), rotation (radians) or scale (share) along or around an axis through `centre`."""
    change = np.eye(4)
    if kind == "shift":
        change[axis, 3] = amount
        return change
    if kind == "scale":
        change[axis, axis] = 1 + amount
    else:
        a, b = (axis + 1) % 3, (axis + 2) % 3
        change[[a, a, b, b], [a, b, a, b]] = np.cos(amount), -np.sin(amount), np.sin(amount), np.cos(amount)
    change[:3, 3] = centre - change[:3, :3] @ centre
    return change


def _top(values: Sequence[float]) -> float:
    """Where the parabola through values at SCAN has its maximum, within the scan; its best end where it has none."""
    curve, slope, _ = np.polyfit(SCAN, values, 2)
    if curve >= 0:
        return float(SCAN[np.argmax(values)])
    return float(np.clip(-slope / (2 * curve), -1, 1))


def _levels(values: Array) -> Array:
    """Grey levels 0 ... BINS - 1 between the percentiles 0.5 and 99.5, as real numbers."""
    low, high = np.percentile(values, (0.5, 99.5))
    share: Array = np.clip((values - low) / max(high - low, 1e-9), 0, 1) * (BINS - 1)
    return share


def _rows(levels: Array, groups: Array) -> list[tuple[Array, Array]]:
    """Where the rows of the joint histograms of grey levels begin, and the share of each value that belongs there."""
    size = BINS + 1
    return [((groups * size + x) * size, share) for x, share in _bins(levels)]


def _joint(rows: Sequence[tuple[Array, Array]], levels: Array) -> Array:
    """Joint histograms, one a group, of `_rows` and other grey levels; each value is shared between its two bins."""
    joint = np.zeros(GROUPS * (BINS + 1) ** 2)
    for row, share in rows:
        for column, other_share in _bins(levels):
            joint += np.bincount(row + column, share * other_share, joint.size)
    return joint.reshape(GROUPS, BINS + 1, BINS + 1)


def _information(joint: Array) -> float:
    """Mutual information of a joint histogram."""
    joint = joint / joint.sum()
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    filled = joint > 0
    return float((joint[filled] * np.log(joint[filled] / independent[filled])).sum())


def _bins(levels: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    lower = levels.astype(np.intp)
    upper_share = levels - lower
    return (lower, 1 - upper_share), (lower + 1, upper_share)
