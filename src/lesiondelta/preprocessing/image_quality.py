"""How good an image is: noise within its slices, and how far these are apart."""

import numpy as np
from scipy import ndimage

from lesiondelta.images import Array, Volume

MOST_SIZE_CHANGE = 0.05
"""Of the brain's volume between visits; atrophy takes 1 or 2 % a year."""
MOST_NOISE, MOST_SLICE_MM = 0.12, 5.5
"""Beyond what the bundled model was tested with (its card: noise of 0.1 of white matter, slices of 5 mm)."""
MOST_NEGATIVE = 0.01
"""Share of the brain's values; an image with more of them is standardised (z-scores)."""
LAPLACIAN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
LAPLACIAN_NORM = 6.0
MAD = 0.6745
"""Median absolute deviation of a standard normal distribution."""


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


def doubts(contrast: str, noise_share: float | None, distance_mm: float) -> list[str]:
    """What lies outside the range that masks were tested in."""
    found = []
    if noise_share is not None and noise_share > MOST_NOISE:
        found.append(f"noise in the {contrast} is {noise_share:.2f} of white matter, and masks were tested up to 0.10")
    if distance_mm > MOST_SLICE_MM:
        found.append(f"slices of the {contrast} are {distance_mm:.1f} mm apart, and masks were tested up to 5 mm")
    return found
