"""How good an image is: its noise, how far its slices are apart and how thick they are, and ghosts in the air."""

import numpy as np
from scipy import ndimage

from lesiondelta.images import Array, Volume
from lesiondelta.preprocessing.points import distance_mm
from lesiondelta.timings import timed

MOST_SIZE_CHANGE = 0.05
"""Of the brain's volume between visits; atrophy takes 1 or 2 % a year."""
MOST_NEGATIVE = 0.01
"""Share of the brain's values; an image with more of them is standardised (z-scores)."""
LAPLACIAN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
LAPLACIAN_NORM = 6.0
MAD = 0.6745
"""Median absolute deviation of a standard normal distribution."""
WIDTHS_MM = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0)
"""Of the slices that blur is compared with."""
LAG_MM = 2.0
"""Distance of the values whose difference tells how sharp an image is; of neighbouring slices, where these are farther
apart."""
MOST_LINES = 1500
"""Of voxels, that are looked at along each axis."""
AIR_STEP_MM = 3.0
"""Distance of the voxels of the air that are looked at."""
SCALP_MM = 25.0
"""Farther from the brain, above its centre, there is air."""
LEAST_AIR = 200
"""Voxels, fewer than which say nothing."""


@timed("image quality")
def measured(image: Volume, inside: Array) -> dict[str, float]:
    """What is known of an image whose brain is inside (X, Y, Z) bool, by the names of the functions below."""
    found = {
        "noise": noise(image, inside),
        "slice_mm": slice_mm(image),
        "thickness_mm": thickness_mm(image, inside),
        "ghosting": ghosting(image, inside),
    }
    return {name: value for name, value in found.items() if value is not None}


def noise(image: Volume, inside: Array) -> float | None:
    """Standard deviation of noise within slices, as a share of the median inside (X, Y, Z) bool; None for z-scores.

    Immerkaer (1996), Computer Vision and Image Understanding 64, 300-302: a difference of two Laplacians does not see
    planes and edges; here with a median, which does not see lesions and fluid.
    """
    kernel = np.expand_dims(LAPLACIAN, int(np.argmax(image.grid.spacing)))
    inside = ndimage.binary_erosion(inside) & (image.data != 0)
    if not inside.any() or is_standardised(image.data[inside]):
        return None
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    response = ndimage.convolve(image.data[box].astype(np.float32), kernel)[inside[box]]
    level = float(np.median(image.data[inside]))
    return float(np.median(np.abs(response)) / MAD / LAPLACIAN_NORM / max(abs(level), 1e-6))


def is_standardised(values: Array) -> bool:
    """Whether values of the brain are z-scores, whose size says nothing of brightness."""
    return bool(np.mean(values < 0) > MOST_NEGATIVE)


def slice_mm(image: Volume) -> float:
    """Distance of the slices: the longest edge of a voxel."""
    return float(image.grid.spacing.max())


def doubts_of_size(ratio: float) -> list[str]:
    """What is odd about the brain's volume, divided by that at the first visit."""
    if abs(ratio - 1) <= MOST_SIZE_CHANGE:
        return []
    return [f"the brain has {ratio:.0%} of its volume at the first visit: see whether the voxel sizes are right"]


def thickness_mm(image: Volume, inside: Array) -> float | None:
    """How thick the slices are: the edge of a voxel, or more where thick slices were interpolated.

    The mean square difference of values inside (X, Y, Z) bool, some way apart, is least along that axis. Answered is
    the thickness of the slices that would make it as small along the other two axes; known to a fifth. None where
    nothing is inside.
    """
    spacing = image.grid.spacing
    lag = max(LAG_MM, float(spacing.max()))
    lines = [_lines(image.data, inside, axis) for axis in range(3)]
    sharpness = [_difference(*along, lag / step) for along, step in zip(lines, spacing, strict=True)]
    if not np.all(np.isfinite(sharpness)) or min(sharpness) <= 0:
        return None
    blurred = int(np.argmin(sharpness))
    others = [axis for axis in range(3) if axis != blurred]
    expected = [np.mean([np.log(_sliced(*lines[a], width, lag, spacing[a])) for a in others]) for width in WIDTHS_MM]
    width = np.interp(-np.log(sharpness[blurred]), -np.array(expected), WIDTHS_MM)
    return float(max(width, spacing.max()))


def ghosting(image: Volume, inside: Array) -> float | None:
    """How much brighter the air beside the head is than that in the corners, as a share of the median inside.

    Motion and pulsation repeat the head along the axis of phase encoding (Mortamet et al. 2009, Magnetic Resonance in
    Medicine 62, 365-372, look for that in the air); answered is the axis with more of it. Inside is (X, Y, Z) bool.
    None where the image was cut to the head or standardised.
    """
    steps = tuple(slice(None, None, max(1, round(AIR_STEP_MM / step))) for step in image.grid.spacing)
    data, inside = image.data[steps].astype(np.float32), inside[steps]
    spacing = image.grid.spacing * [step.step for step in steps]
    if not inside.any() or is_standardised(data[inside]):
        return None
    head = distance_mm(inside, spacing) <= SCALP_MM
    height = np.einsum("i,ixyz->xyz", image.affine[2, :3] * [step.step for step in steps], np.indices(data.shape))
    above = (height > height[inside].mean()) & ~head
    across = int(np.argmax(image.grid.spacing))
    one, other = (np.broadcast_to(head.any(axis=a, keepdims=True), head.shape) for a in range(3) if a != across)
    corners, beside = above & ~one & ~other, (above & one & ~other, above & other & ~one)
    if min(np.count_nonzero(air) for air in (corners, *beside)) < LEAST_AIR or not data[above].any():
        return None
    brightest = max(float(data[air].mean()) for air in beside)
    level = abs(float(np.median(data[inside])))
    return max(0.0, brightest - float(data[corners].mean())) / max(level, 1e-6)


def _lines(data: Array, inside: Array, axis: int) -> tuple[Array, Array]:
    """Lines of voxels along an axis (N, length) through the brain, evenly spread, and what of them is inside."""
    values, within = np.moveaxis(data, axis, -1), np.moveaxis(inside, axis, -1)
    places = np.argwhere(within.any(axis=-1))
    chosen = places[:: max(1, len(places) // MOST_LINES)]
    return values[tuple(chosen.T)].astype(np.float32), within[tuple(chosen.T)]


def _sliced(values: Array, within: Array, width_mm: float, lag_mm: float, step_mm: float) -> float:
    """As `_difference`, of lines blurred as by slices of this thickness (by a Gaussian of the same variance)."""
    sigma = width_mm / np.sqrt(12) / step_mm
    smooth = ndimage.gaussian_filter1d(values, sigma, axis=-1, mode="nearest") if sigma else values
    return _difference(smooth, within, lag_mm / step_mm)


def _difference(values: Array, within: Array, lag: float) -> float:
    """Mean square difference of values so many voxels apart, between whole numbers of voxels interpolated."""
    whole = max(1, int(lag + 1e-3))

    def at(lag: int) -> float:
        both = within[:, lag:] & within[:, :-lag]
        return float(np.mean((values[:, lag:] - values[:, :-lag])[both] ** 2)) if both.any() else np.nan

    part = max(0.0, lag - whole)
    return at(whole) if part < 1e-3 else at(whole) * (1 - part) + at(whole + 1) * part
