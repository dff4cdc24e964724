"""Whether two volumes hold the same values at the same places, however their axes run."""

import numpy as np

from lesiondelta.images import Volume


def same_places(a: Volume, b: Volume, tolerance_voxels: float = 1e-3) -> bool:
    """Every voxel of `a` lies on one of `b`, all of them are reached, and their values are equal."""
    indices = np.indices(a.data.shape).reshape(3, -1)
    across = np.linalg.inv(b.affine) @ a.affine
    there = across[:3, :3] @ indices + across[:3, 3:]
    nearest = np.rint(there).astype(int)
    inside = (nearest >= 0).all() and (nearest < np.array(b.data.shape)[:, None]).all()
    if a.data.size != b.data.size or not inside or np.abs(there - nearest).max() > tolerance_voxels:
        return False
    return bool(np.array_equal(a.data.ravel(), b.data[tuple(nearest)]))


def places(mask: Volume) -> np.ndarray:
    """Places (N, 3) in mm of all voxels that are not 0, sorted: whatever the grid around them."""
    points = np.argwhere(mask.data) @ mask.affine[:3, :3].T + mask.affine[:3, 3]
    return points[np.lexsort(np.round(points, 2).T)]
