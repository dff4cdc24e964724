"""Brains from maps of tissue labels: people of whom no image is needed."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from lesiondelta.errors import ImageError
from lesiondelta.images import Affine, Array, Volume, read_labels
from lesiondelta.preprocessing.regions import atlas_to, regions_of
from lesiondelta.simulation.anatomy import TISSUES, Anatomy, from_masks, require_cubic

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
        A tissue is missing, or another label is there.
    GeometryError, RegistrationError
        As `image_anatomy`.
    """
    found = set(np.unique(labels.data).astype(int).tolist())
    if not {1, 2, 3} <= found <= {0, 1, 2, 3, LESION}:
        raise ImageError(f"{labels.name} has the labels {sorted(found)}: give 1 CSF, 2 grey, 3 white matter, 4 lesion.")
    data, affine = _cropped(labels)
    brain = data > 0
    data[data == LESION] = TISSUES.index("WM") + 1
    shares = np.stack([ndimage.gaussian_filter((data == k).astype(np.float32), 0.6) for k in (1, 2, 3)]) * brain
    tissues = (shares / np.maximum(shares.sum(axis=0), 1e-6)).astype(np.float32)
    t1w = Volume(np.tensordot(LIKE_T1W, tissues, axes=1), affine, labels.name)
    from_atlas = register(t1w)
    regions = regions_of(t1w.with_data(brain), from_atlas)
    return Anatomy(affine, brain, tissues, regions, {}, from_masks=from_masks(from_atlas))


def read_label_anatomy(path: Path) -> Anatomy:
    """`label_anatomy` of a file."""
    return label_anatomy(read_labels(path))


def _cropped(labels: Volume) -> tuple[Array, Affine]:
    """The labels in RAS order, cut to the brain and a margin."""
    image = nib.as_closest_canonical(nib.Nifti1Image(labels.data.astype(np.uint8), labels.affine))
    data = np.asarray(image.dataobj)
    require_cubic(image.affine, labels.name)
    box = ndimage.find_objects((data > 0).astype(np.uint8))[0]
    affine = np.array(image.affine, np.float64)
    affine[:3, 3] += affine[:3, :3] @ [axis.start - MARGIN for axis in box]
    return np.pad(data[box], MARGIN), affine
