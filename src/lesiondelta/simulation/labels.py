"""Brains from maps of tissue labels: people of whom no image is needed."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from lesiondelta.atlas import mni152_regions
from lesiondelta.errors import ImageError
from lesiondelta.images import Affine, Array, Volume, read_labels, resample
from lesiondelta.simulation.anatomy import TISSUES, Anatomy, atlas_to

LESION = 4
MARGIN = 8  # voxels around the brain
LIKE_T1W = np.array([0.3, 0.65, 1.0], np.float32)


def label_anatomy(labels: Volume, register: Callable[[Volume], Affine] = atlas_to) -> Anatomy:
    """A person from labels on an isotropic grid: 0 background, 1 CSF, 2 grey matter, 3 white matter, 4 lesion.

    Lesions become white matter: others are drawn into it. Borders are blurred by 0.6 voxels, since a voxel at a border
    holds both tissues. `register` finds the matrix from the atlas's points to those of a T1w made from the labels.

    Raises
    ------
    ImageError
        A tissue is missing, another label is there, or the voxels are not cubes.
    """
    found = set(np.unique(labels.data).astype(int).tolist())
    if not {1, 2, 3} <= found <= {0, 1, 2, 3, LESION}:
        raise ImageError(f"{labels.name} has the labels {sorted(found)}: give 0 background, 1 CSF, 2 grey, 3 white, 4.")
    if np.ptp(labels.grid.spacing) > 0.01:
        raise ImageError(f"{labels.name} has voxels of {labels.grid.spacing.round(2)} mm: give an isotropic grid.")
    data, affine = _cropped(labels)
    brain = data > 0
    data[data == LESION] = TISSUES.index("WM") + 1
    shares = np.stack([ndimage.gaussian_filter((data == k).astype(np.float32), 0.6) for k in (1, 2, 3)]) * brain
    tissues = (shares / np.maximum(shares.sum(axis=0), 1e-6)).astype(np.float32)
    t1w = Volume(np.tensordot(LIKE_T1W, tissues, axes=1), affine, labels.name)
    to_atlas = np.asarray(np.linalg.inv(register(t1w)), np.float64)
    regions = resample(mni152_regions(), t1w.grid, to_atlas, order="nearest").data
    return Anatomy(affine, brain, tissues, regions, {})


def read_label_anatomy(path: Path) -> Anatomy:
    """`label_anatomy` of a file."""
    return label_anatomy(read_labels(path))


def _cropped(labels: Volume) -> tuple[Array, Affine]:
    """The labels in RAS order, cut to the brain and a margin."""
    image = nib.as_closest_canonical(nib.Nifti1Image(labels.data.astype(np.uint8), labels.affine))
    data = np.asarray(image.dataobj)
    box = ndimage.find_objects((data > 0).astype(np.uint8))[0]
    affine = np.array(image.affine, np.float64)
    affine[:3, 3] += affine[:3, :3] @ [axis.start - MARGIN for axis in box]
    return np.pad(data[box], MARGIN), affine
