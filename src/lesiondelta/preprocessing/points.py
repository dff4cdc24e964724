"""Points in space: the voxels of a mask in mm, values at points, coarse copies."""

from typing import Literal

import numpy as np
from edt import edt
from scipy import ndimage

from lesiondelta.images import Array, Grid, Volume, corners_mm, isotropic_grid, resample

Degrees = Literal[6, 12]
"""Of freedom of a transform: rigid or affine."""
ROUNDING_MM = 1e-4
"""Of distances in float32."""


def apply(transform: Array, points_mm: Array) -> Array:
    """Move points (N, 3)."""
    moved: Array = points_mm @ transform[:3, :3].T + transform[:3, 3]
    return moved


def voxels_mm(grid: Grid) -> Array:
    """Centres of all voxels, (X * Y * Z, 3) in RAS+ mm."""
    return apply(grid.affine, np.indices(grid.shape, dtype=np.float32).reshape(3, -1).T)


def inside_mm(mask: Volume) -> Array:
    """Centres of the voxels of a mask, (N, 3) in RAS+ mm."""
    return apply(mask.affine, np.argwhere(mask.data))


def sample(volume: Volume, points_mm: Array, outside: float = 0) -> Array:
    """Linear interpolation at points (N, 3) in RAS+ mm."""
    where = apply(np.linalg.inv(volume.affine), points_mm).T
    data = volume.data.astype(np.float32, copy=False)
    values: Array = ndimage.map_coordinates(data, where, order=1, cval=outside)
    return values


def coarse(volume: Volume, spacing_mm: float) -> Volume:
    """A copy on cubic voxels of the world's axes, smoothed along the axes that lose resolution."""
    spacing = volume.grid.spacing
    sigma = 0.5 * np.sqrt(np.maximum(spacing_mm**2 - spacing**2, 0)) / spacing
    smooth = volume.with_data(ndimage.gaussian_filter(volume.data.astype(np.float32, copy=False), sigma))
    return resample(smooth, isotropic_grid(corners_mm(volume.grid), spacing_mm), order="linear")


def coarse_mask(mask: Volume, spacing_mm: float) -> Volume:
    """A mask on cubic voxels."""
    return resample(mask, isotropic_grid(corners_mm(mask.grid), spacing_mm), order="nearest")


def dilate(mask: Volume, margin_mm: float) -> Volume:
    """Every voxel within `margin_mm` of the mask; distances are found only where they may decide."""
    spacing = mask.grid.spacing
    margin = np.ceil(margin_mm / spacing).astype(int) + 1
    found = mask.data.astype(bool)
    boxes = [_box(values, margin) for values in (found, ~found)]
    if None in boxes:
        return mask.with_data(found)
    box = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(*boxes, strict=True))
    grown = found.copy()
    grown[box] = distance_mm(found[box], spacing) <= margin_mm + ROUNDING_MM
    return mask.with_data(grown)


def distance_mm(mask: Array, spacing: Array) -> Array:
    """Of every voxel (X, Y, Z) from the nearest one of the mask, in mm, float32: 0 inside, infinite without a mask."""
    found: Array = edt(~mask, anisotropy=tuple(np.asarray(spacing, float)))
    return found


def _box(values: Array, margin: Array) -> tuple[slice, ...] | None:
    """The box of what is true, and a margin around it; None where nothing is."""
    found = ndimage.find_objects(values.astype(np.uint8))
    if not found:
        return None
    return tuple(
        slice(max(s.start - m, 0), min(s.stop + m, n)) for s, m, n in zip(found[0], margin, values.shape, strict=True)
    )


def litres(mask: Volume) -> float:
    """Volume of a mask."""
    return float(np.count_nonzero(mask.data)) * mask.grid.voxel_volume_mm3 / 1e6
