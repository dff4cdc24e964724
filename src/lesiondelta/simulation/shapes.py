"""Shapes and places of real lesions, from masks on the MNI152 grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from lesiondelta.errors import ImageError
from lesiondelta.images import Array, read_mask

SMALLEST_VOXELS = 4
BORDER = 6  # voxels kept around a lesion


@dataclass(frozen=True, eq=False)
class Shape:
    """One real lesion.

    Attributes
    ----------
    depth_mm : (x, y, z) float32
        Distance to its surface, positive inside, on a 1 mm RAS grid with a border.
    center_mm : (3,), RAS+ mm in MNI152
        Of the middle voxel of `depth_mm`.
    volume_mm3 : float
    """

    depth_mm: Array
    center_mm: Array
    volume_mm3: float


def draw_shapes(rng: np.random.Generator, masks: Sequence[Path], count: int | None) -> list[Shape]:
    """Up to `count` lesions (None: all) of one patient drawn at random, all mirrored or none, jittered by 3 mm."""
    if not masks:
        return []
    shapes = read_shapes(masks[int(rng.integers(len(masks)))])
    chosen = rng.permutation(len(shapes))[:count]
    mirrored = rng.random() < 0.5
    return [_moved(rng, shapes[int(index)], mirrored) for index in chosen]


@lru_cache(maxsize=32)
def read_shapes(path: Path) -> tuple[Shape, ...]:
    """The lesions of a mask, larger than 3 voxels, on a 1 mm grid."""
    import nibabel as nib

    mask = read_mask(path)
    if not np.allclose(mask.grid.spacing, 1, atol=0.05):
        raise ImageError(f"{path} has voxels of {mask.grid.spacing.round(2)} mm: lesion shapes need a 1 mm grid.")
    image = nib.as_closest_canonical(nib.Nifti1Image(mask.data.astype(np.uint8), mask.affine))
    labels, _ = ndimage.label(np.pad(np.asarray(image.dataobj), BORDER), np.ones((3, 3, 3)))
    shapes = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        wide = tuple(slice(s.start - BORDER, s.stop + BORDER) for s in box)
        inside = labels[wide] == number
        if np.count_nonzero(inside) >= SMALLEST_VOXELS:
            middle = [(s.start + s.stop) // 2 - BORDER for s in wide]
            shapes.append(_shape(inside, image.affine[:3, :3] @ middle + image.affine[:3, 3]))
    return tuple(shapes)


def _shape(inside: Array, center_mm: Array) -> Shape:
    depth = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    return Shape(depth.astype(np.float32), center_mm, float(np.count_nonzero(inside)))


def _moved(rng: np.random.Generator, shape: Shape, mirrored: bool) -> Shape:
    center = shape.center_mm * ([-1, 1, 1] if mirrored else [1, 1, 1]) + rng.normal(0, 3, 3)
    return Shape(shape.depth_mm[::-1] if mirrored else shape.depth_mm, center, shape.volume_mm3)
