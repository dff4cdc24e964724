"""Small heads with texture: an ellipsoid of 1.2 litres in cortex, its folds drawn from one person's seed."""

from datetime import datetime

import nibabel as nib
import numpy as np
from scipy import ndimage

from lesiondelta.cohort import Patient, Visit
from lesiondelta.images import Grid, Volume, resample, write_volume

SPACING_MM = 4.0
CONTRASTS = ("T1w", "FLAIR")


def person(seed: int, spacing_mm: float = SPACING_MM, skull: bool = False) -> dict[str, Volume]:
    """A T1w and a FLAIR of one person on one RAS grid, the world's origin in the middle of the brain."""
    shape = tuple(int(edge / spacing_mm) for edge in (180, 210, 170))
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = [-(n - 1) * spacing_mm / 2 for n in shape]
    places = np.indices(shape).transpose(1, 2, 3, 0) * spacing_mm + affine[:3, 3]
    radius = np.linalg.norm(places / (62, 78, 58), axis=-1)
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 8 / spacing_mm)
    folds = np.where(radius < 0.88, noise / noise.std(), -1)  # cortex around them
    tissue = {"T1w": np.where(folds > 0, 500.0, 380.0), "FLAIR": np.where(folds > 0, 180.0, 280.0)}
    smooth = {name: ndimage.gaussian_filter(values, 4 / spacing_mm) for name, values in tissue.items()}
    images = {name: np.where(radius < 1, values, 0) for name, values in smooth.items()}
    if skull:
        for values in images.values():
            values[(radius > 1.12) & (radius < 1.25)] = 700
    return {name: Volume(values.astype(np.float32), affine, name) for name, values in images.items()}


def moved(volume: Volume, transform=None, affine=None, shape=None) -> Volume:
    """The same head scanned on another grid, after a movement."""
    grid = Grid(shape or volume.data.shape, volume.affine if affine is None else affine)
    return resample(volume, grid, transform, order="bspline")


def rigid(angle_rad: float, shift_mm=(0.0, 0.0, 0.0), axis: int = 2):
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(4)
    matrix[[a, a, b, b], [a, b, a, b]] = np.cos(angle_rad), -np.sin(angle_rad), np.sin(angle_rad), np.cos(angle_rad)
    matrix[:3, 3] = shift_mm
    return matrix


def write_patient(folder, visits, label="01", masks=()) -> Patient:
    """Write the volumes of each visit; `masks` gives brain masks by visit index.

    No scanner gives the same voxels twice: each visit is a little brighter than the one before.
    """
    made = []
    for index, images in enumerate(visits):
        paths = {name: folder / f"{label}_{index}_{name}.nii.gz" for name in images}
        for name, volume in images.items():
            write_volume(paths[name], volume.with_data(volume.data * (1 + index / 1000)))
        mask = None
        if index in dict(masks):
            mask = folder / f"{label}_{index}_brain.nii.gz"
            write_volume(mask, dict(masks)[index])
        made.append(Visit(str(index), paths, datetime(2020, 1, 1 + index), mask))
    return Patient(label, tuple(made))


def write_sheared(path, volume: Volume) -> None:
    """Shear survives in the sform alone."""
    image = nib.Nifti1Image(volume.data, volume.affine)
    image.set_sform(volume.affine, code="scanner")
    nib.save(image, path)
