"""Whether two volumes hold the same values at the same places, however their axes run."""

import numpy as np
from scipy.spatial import KDTree

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


def apart_mm(a: Volume, b: Volume) -> float:
    """How far the voxels of two masks that are not 0 lie from one another at most; infinite if they are not as many."""
    there, here = (
        np.argwhere(mask.data) @ mask.affine[:3, :3].T + mask.affine[:3, 3] for mask in (a, b)
    )  # fmt: skip
    return float(KDTree(here).query(there)[0].max()) if len(here) == len(there) else float("inf")
