"""Distances between the surfaces of two masks, in mm."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from lesiondelta.images import Array, Grid

ROUNDING_MM = 1e-4
"""Of affines in float32: on a rotated grid of 1 mm, neighbours may lie 1.0000001 mm apart."""


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distance in mm from each surface voxel of one mask to the nearest of the other; infinite where there is none."""

    from_reference: Array
    from_prediction: Array

    @property
    def pooled(self) -> Array:
        """Both ways together."""
        return np.concatenate([self.from_reference, self.from_prediction])

    def hd95_mm(self) -> float:
        """95th percentile of the pooled distances, linear between ranks."""
        return float(np.percentile(self.pooled, 95))

    def assd_mm(self) -> float:
        """Average symmetric surface distance: mean of the pooled distances."""
        return float(self.pooled.mean())

    def nsd(self, tolerance_mm: float) -> float:
        """Normalised surface distance: share of both surfaces, counted in voxels, within the tolerance of the other."""
        return float((self.pooled <= tolerance_mm + ROUNDING_MM).mean())


def surface_distances(reference: Array, prediction: Array, grid: Grid, *, border: bool = True) -> SurfaceDistances:
    """Between two masks (X, Y, Z) bool; `border` counts the faces of the image as outside the masks."""
    points = [surface_mm(mask, grid, border=border) for mask in (reference, prediction)]
    return SurfaceDistances(*(_nearest_mm(*pair) for pair in (points, points[::-1])))


def surface_mm(mask: Array, grid: Grid, *, border: bool = True) -> Array:
    """Centres (N, 3) in mm of the voxels of a mask that have a 6-neighbour outside it."""
    box = bounding_box(mask, margin=1)
    cropped = mask[box]
    inner = ndimage.binary_erosion(cropped, ndimage.generate_binary_structure(3, 1), border_value=0 if border else 1)
    voxels = np.argwhere(cropped & ~inner) + [side.start for side in box]
    points: Array = voxels @ grid.affine[:3, :3].T
    return points


def bounding_box(mask: Array, margin: int = 0) -> tuple[slice, slice, slice]:
    """Box around the true voxels, wider by a margin, inside the image; empty where there are none."""
    sides = []
    for axis in range(3):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        low, high = (line[0], line[-1] + 1) if len(line) else (0, 0)
        sides.append(slice(max(int(low) - margin, 0), min(int(high) + margin, mask.shape[axis])))
    return sides[0], sides[1], sides[2]


def _nearest_mm(points: Array, others: Array) -> Array:
    if not len(points) or not len(others):
        return np.full(len(points), np.inf)
    distances: Array = cKDTree(others).query(points)[0]
    return distances
