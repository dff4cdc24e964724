"""What two images of one contrast say, voxel by voxel: brighter or darker than before, in standard deviations.

Radiologists read subtraction images for the same purpose (Moraal et al. 2009, Radiology 250, 216-222). The steps are
those of statistical detection of change (Schmidt et al. 2019, NeuroImage: Clinical 23, 101849): make both images alike,
subtract, and hold the difference against that of tissue that did not change.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from lesiondelta.images import Array
from lesiondelta.timings import timed

SMOOTH_MM = 1.0
"""Standard deviation of the Gaussian that both images are smoothed by, beside what their slices differ in."""
FIELD_MM, NOISE_MM = 15.0, 20.0
"""Over which the bias field, and the noise, change."""
DARK, TISSUE = 0.2, 0.5
"""Between the darkest fluid (0) and the brain's median (1): what is raised to this before logarithms, and where tissue
begins."""
DARKEST = 2.0
"""Percentile of the brain's values that stands for fluid."""
OUTLIER = 3.0
"""Standard deviations beyond which a voxel says nothing of the bias field."""
BINS, SAMPLED = 32, 200_000
"""Of brightness and of gradient; and the voxels that they are measured on."""
MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
ABSOLUTE = 0.7979
"""Mean of the absolute value of a standard normal variable."""
MARGIN_MM = 2.0
"""Around lesions, which say nothing of unchanged tissue; and within the border of the brain, where masks make
differences, farther in where the images are smoothed."""


@dataclass(frozen=True, eq=False)
class VisitImage:
    """An image of a visit on the patient's grid of cubic voxels.

    Attributes
    ----------
    data : (X, Y, Z) float
        0 where nothing is known.
    blur : (3, 3) float
        Covariance in mm2, along the patient's axes, of the box that a voxel of the image's own grid averages over.
    """

    data: Array
    blur: Array


@dataclass(frozen=True, eq=False)
class Evidence:
    """Of a step from a visit to the next.

    Attributes
    ----------
    z : (X, Y, Z) float32
        Difference, later less earlier, in standard deviations of unchanged tissue; 0 where it is not known.
    steepness : (X, Y, Z) float32
        Gradient per mm where both images have it: what a registration error turns into a difference.
    calm : (X, Y, Z) bool
        Tissue that was taken for unchanged: all but lesions and what is near them; nothing if it is too little.
    known : (X, Y, Z) bool
        Where both images were compared: not at the border of the brain, nor within half a slice of where one ends.
    """

    z: Array
    steepness: Array
    calm: Array
    known: Array

    def knows(self, voxels: Array) -> bool:
        """Whether at least half of some voxels (N, 3) were compared."""
        return bool(self.known[tuple(voxels.T)].mean() >= 0.5) if len(voxels) else False


@timed("difference of images")
def evidence(earlier: VisitImage, later: VisitImage, brain: Array, lesions: Array, spacing_mm: float) -> Evidence:
    """Compare two images; exchanging them changes the sign of z and nothing else.

    1. Both get one sharpness: each is smoothed by what the other's slices blur and its own do not.
    2. Both get one offset and gain (fluid 0, median of the brain 1), and share a smooth multiplicative field f, the
       local mean of log(later / earlier) without outliers: d = later exp(-f/2) - earlier exp(f/2).
    3. What d is at each brightness, in the median, is contrast that scanners differ in, and is taken off.
    4. z = d / (s(g) n), where s is the robust standard deviation of d at each steepness g of the mean image, since
       registration errors and thick slices show at edges, and n the level of noise around.

    Parameters
    ----------
    brain, lesions : (X, Y, Z) bool
        Where to look, and what either visit's lesions cover.
    """
    box = _box(brain)
    inside = brain[box] & (earlier.data[box] != 0) & (later.data[box] != 0)
    blurs = _excess(later.blur, earlier.blur), _excess(earlier.blur, later.blur)
    margin = (MARGIN_MM, MARGIN_MM + np.sqrt(np.linalg.eigvalsh(blurs[0] + blurs[1]).max()))
    near, border = (max(1, round(mm / spacing_mm)) for mm in margin)
    known = ndimage.binary_erosion(inside, iterations=border)
    known &= ~_near_an_end(brain[box] & ~inside, earlier, later, spacing_mm)
    calm = known & ~ndimage.binary_dilation(lesions[box], iterations=near)
    z, steepness = np.zeros(brain.shape, np.float32), np.zeros(brain.shape, np.float32)
    calm_everywhere, known_everywhere = np.zeros(brain.shape, bool), np.zeros(brain.shape, bool)
    if np.count_nonzero(calm) < BINS**2:
        return Evidence(z, steepness, calm_everywhere, known_everywhere)
    calm_everywhere[box], known_everywhere[box] = calm, known
    before, after = (
        _standardised(_smooth_inside(image.data[box], inside, blur, spacing_mm), calm)
        for image, blur in zip((earlier, later), blurs, strict=True)
    )
    half = np.exp(_field(before, after, calm, spacing_mm) / 2)
    before, after = before * half, after / half
    mean, difference = (before + after) / 2, after - before
    difference -= _binned(mean, difference, calm, np.median)(mean)
    gradients = [_gradient(image, spacing_mm) for image in (mean, before, after)]
    deviation = _binned(gradients[0], difference, calm, _robust_sd, rising=True)(gradients[0])
    found = difference / np.maximum(deviation, 1e-6)
    found /= np.maximum(_local_mean(np.minimum(np.abs(found), OUTLIER), calm, NOISE_MM / spacing_mm) / ABSOLUTE, 0.3)
    z[box] = np.where(known, found, 0)
    steepness[box] = np.where(known, ndimage.gaussian_filter(np.minimum(*gradients[1:]), 1 / spacing_mm), 0)
    return Evidence(z, steepness, calm_everywhere, known_everywhere)


def box_blur(affine: Array) -> Array:
    """`VisitImage.blur` of voxels whose edges are the columns of an affine (4, 4) into the patient's space."""
    edges = affine[:3, :3]
    covariance: Array = edges @ edges.T / 12
    return covariance


def _near_an_end(hidden: Array, earlier: VisitImage, later: VisitImage, spacing_mm: float) -> Array:
    """Within half a slice of what one of the images does not show: there it is a mean of brain and nothing."""
    slice_mm = math.sqrt(12 * max(np.linalg.eigvalsh(one.blur).max() for one in (earlier, later)))
    parts = ndimage.binary_opening(hidden, iterations=2)  # single voxels of fluid may be 0
    near: Array = ndimage.binary_dilation(parts, iterations=max(1, round(slice_mm / 2 / spacing_mm)))
    return near


def _excess(other: Array, own: Array) -> Array:
    """The part of a covariance that another one lacks: along its principal axes, where it is the larger one."""
    values, axes = np.linalg.eigh(other - own)
    part: Array = (axes * np.maximum(values, 0)) @ axes.T
    return part


def _smooth_inside(data: Array, inside: Array, blur: Array, spacing_mm: float) -> Array:
    """Smoothed by a Gaussian of a covariance in mm2, and a little more; of values inside only."""
    covariance = (blur + np.eye(3) * SMOOTH_MM**2) / spacing_mm**2
    values = _gaussian(np.where(inside, data, 0), covariance)
    smooth: Array = values / np.maximum(_gaussian(inside.astype(np.float32), covariance), 1e-3)
    return smooth


def _gaussian(data: Array, covariance: Array) -> Array:
    """Convolution with a Gaussian of a covariance in voxels; zeros lie beyond the borders."""
    data = data.astype(np.float32)
    variances = np.diag(covariance)
    if np.abs(covariance - np.diag(variances)).max() < 0.02 * variances.min():
        found: Array = ndimage.gaussian_filter(data, np.sqrt(variances), mode="constant", truncate=3.0)
        return found
    shape = [
        fft.next_fast_len(n + int(3 * deviation) + 1, real=True)
        for n, deviation in zip(data.shape, np.sqrt(variances), strict=True)
    ]
    frequencies = fft.fftfreq(shape[0]), fft.fftfreq(shape[1]), fft.rfftfreq(shape[2])
    x, y, z = np.meshgrid(*frequencies, indexing="ij", sparse=True)
    (a, d, e), (_, b, f), (_, _, c) = covariance
    exponent = a * x * x + b * y * y + c * z * z + 2 * (d * x * y + e * x * z + f * y * z)
    spectrum = fft.rfftn(data, shape) * np.exp(-2 * np.pi**2 * exponent).astype(np.float32)
    smooth: Array = fft.irfftn(spectrum, shape)[tuple(slice(n) for n in data.shape)]
    return smooth


def _standardised(data: Array, calm: Array) -> Array:
    """With fluid at 0 and the median of calm tissue at 1."""
    fluid, median = np.percentile(_sample(data[calm]), (DARKEST, 50))
    values: Array = (data - fluid) / max(median - fluid, np.finfo(np.float32).tiny)
    return values


def _field(earlier: Array, later: Array, calm: Array, spacing_mm: float) -> Array:
    """The logarithm of the smooth ratio of two images."""
    ratio = np.log(np.maximum(later, DARK) / np.maximum(earlier, DARK))
    tissue = calm & (earlier > TISSUE) & (later > TISSUE)
    used, field = tissue, np.zeros(ratio.shape, np.float32)
    for _ in range(2):
        field = _local_mean(ratio, used, FIELD_MM / spacing_mm)
        left = ratio - field
        used = tissue & (np.abs(left) < OUTLIER * max(_robust_sd(_sample(left[tissue])), 1e-6))
    return field


def _local_mean(values: Array, where: Array, voxels: float) -> Array:
    """Weighted mean of the values there are around, by a Gaussian of so many voxels; found on a coarse grid."""
    step = max(1, int(voxels / 5))
    reduced = [
        ndimage.uniform_filter(np.where(where, one, 0).astype(np.float32), step)[(slice(step // 2, None, step),) * 3]
        for one in (values, 1.0)
    ]
    sums, weights = (ndimage.gaussian_filter(one, voxels / step, mode="constant") for one in reduced)
    mean: Array = sums / np.maximum(weights, 1e-4)
    for axis, n in enumerate(values.shape):
        place = np.clip((np.arange(n) - step // 2) / step, 0, mean.shape[axis] - 1)
        low = np.minimum(place.astype(int), mean.shape[axis] - 1)
        high = np.minimum(low + 1, mean.shape[axis] - 1)
        share = (place - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        mean = np.take(mean, low, axis) * (1 - share) + np.take(mean, high, axis) * share
    return mean


def _binned(
    by: Array, values: Array, calm: Array, statistic: Callable[[Array], float], *, rising: bool = False
) -> Callable[[Array], Array]:
    """A statistic of calm values at each level of another quantity, as a function of that."""
    levels, values = _sample(by[calm]), _sample(values[calm])
    order = np.argsort(levels)
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    centres = np.array([np.median(levels[part]) for part in parts])
    found = ndimage.gaussian_filter1d(np.array([statistic(values[part]) for part in parts]), 1)
    found = np.maximum.accumulate(found) if rising else found
    return lambda places: np.interp(places, centres, found).astype(np.float32)


def _robust_sd(values: Array) -> float:
    return float(MAD * np.median(np.abs(values)))


def _gradient(image: Array, spacing_mm: float) -> Array:
    steep: Array = np.sqrt(sum(one**2 for one in np.gradient(image, spacing_mm)))
    return steep


def _sample(values: Array) -> Array:
    """Evenly spread values, if there are many."""
    return values[:: max(1, len(values) // SAMPLED)]


def _box(mask: Array) -> tuple[slice, ...]:
    found = ndimage.find_objects(mask.astype(np.uint8))
    box: tuple[slice, ...] = found[0] if found else (slice(0, 0),) * 3
    return box
