"""How far the surface of a lesion of any shape lies from where it was, when its volume changes."""

from collections.abc import Iterator
from itertools import product

import numpy as np

from lesiondelta.images import Array

SIZES = np.geomspace(1 / 4, 4, 25)
"""Volumes, of a lesion's own, that its surface is known for."""
UNCHANGED = len(SIZES) // 2
ROUGH_MM, ROUGH_SCALE = 0.4, 4.0
"""Standard deviation and width of what makes surfaces irregular, and no two voxels equally deep."""


def eighths(depth: Array) -> Iterator[Array]:
    """Depths (X, Y, Z) in the middles of the eight parts of every voxel, by linear interpolation.

    What is drawn lies between the voxels of the map; on them alone, small lesions seem larger than they are drawn.
    """
    for steps in product((-1, 1), repeat=3):
        part = depth
        for axis, step in enumerate(steps):
            beside = np.clip(np.arange(depth.shape[axis]) + step, 0, depth.shape[axis] - 1)
            part = np.float32(0.75) * part + np.float32(0.25) * np.take(part, beside, axis)
        yield part


def surfaces_mm(depths: Array, count: float) -> Array:
    """What to add to depths, of all points that a lesion may hold, so that `SIZES * count` of them are positive.

    Midway between the last point inside and the first one outside; at most all of them.

    >>> surfaces_mm(np.array([3.0, 2.0, 1.0, 0.0, -1.0]), 2)[[UNCHANGED, UNCHANGED + 6]]  # 2 points and 4
    array([-1.5,  0.5])
    """
    ordered = np.sort(depths, axis=None)[::-1]
    surfaces: Array = -np.interp(np.minimum(SIZES * count, len(ordered)) - 0.5, np.arange(len(ordered)), ordered)
    return surfaces


def surface_mm(surfaces: Array, size: float) -> float:
    """`surfaces_mm` of any size between."""
    return float(np.interp(np.log(size), np.log(SIZES), surfaces))
