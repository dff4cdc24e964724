"""What surrounds the brain: fluid, skull, scalp, and a rough lower head."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lesiondelta.images import Affine, Array
from lesiondelta.simulation.anatomy import Anatomy
from lesiondelta.simulation.fields import enlarge, smooth_field

MARGIN_MM = 28
STEP_MM = 4
DEFACED_SHARE = 0.4  # of the patients
DEFACED_FROM_MM = 7.0  # of the brain's hull
TISSUES = ("air", "fluid", "bone", "marrow", "fat", "muscle")


@dataclass(frozen=True, eq=False)
class Head:
    """Tissue labels (X, Y, Z) uint8, indices into TISSUES, on the anatomy's grid padded by `margin` voxels."""

    labels: Array
    affine: Affine
    margin: int


def no_head(anatomy: Anatomy) -> Head:
    """Air around a stripped brain."""
    return Head(np.zeros(anatomy.brain.shape, np.uint8), anatomy.affine, 0)


def draw_head(rng: np.random.Generator, anatomy: Anatomy) -> Head:
    """Shells of uneven thickness around the brain; below it a mixture of muscle, fat, bone and air."""
    margin = round(MARGIN_MM / anatomy.spacing_mm)
    brain = np.pad(anatomy.brain, margin)
    affine = anatomy.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, margin)
    away, below = _away_mm(brain, anatomy.spacing_mm), _below(brain, anatomy.spacing_mm)
    labels = _shells(rng, away, anatomy.spacing_mm)
    face = below & (away > 4)
    labels[face] = _face(rng, brain.shape, away, anatomy.spacing_mm)[face]
    if rng.random() < DEFACED_SHARE:
        labels[_front(brain) & (away > DEFACED_FROM_MM)] = TISSUES.index("air")
    return Head(labels, affine, margin)


def head_values(rng: np.random.Generator) -> dict[str, Array]:
    """Brightness of TISSUES on T1w and FLAIR, where white matter is 1; half of the FLAIRs suppress fat."""
    fat = rng.uniform(0.15, 0.5) if rng.random() < 0.5 else rng.uniform(0.8, 1.4)
    return {
        "T1w": np.array([0.0, 0.25, rng.uniform(0.05, 0.2), rng.uniform(0.5, 1.1), rng.uniform(1.1, 1.9), 0.6]),
        "FLAIR": np.array([0.0, 0.2, rng.uniform(0.05, 0.15), 0.5 * fat, fat, rng.uniform(0.3, 0.6)]),
    }


def with_head(image: Array, head: Head, brain: Array, values: Mapping[str, Array], name: str) -> Array:
    """The brain's image set into its head."""
    around = values[name].astype(np.float32)[head.labels]
    soft: Array = ndimage.gaussian_filter(around, 0.6)
    inner = tuple(slice(head.margin, n - head.margin) for n in head.labels.shape)
    soft[inner] = np.where(brain, image, soft[inner])
    return soft


def _away_mm(brain: Array, spacing_mm: float) -> Array:
    """Distance to the hull of the brain, smooth over its folds and fissures."""
    step = round(STEP_MM / spacing_mm)
    coarse = ndimage.binary_closing(np.pad(brain[::step, ::step, ::step], 4), iterations=4)[4:-4, 4:-4, 4:-4]
    away = ndimage.distance_transform_edt(~coarse) - ndimage.distance_transform_edt(coarse)
    return enlarge((ndimage.gaussian_filter(away, 0.7) * STEP_MM).astype(np.float32), brain.shape)


def _below(brain: Array, spacing_mm: float) -> Array:
    """Everything under a plane that rises towards the face and lies near the base of the brain."""
    y = np.arange(brain.shape[1])[None, :, None]
    z = np.arange(brain.shape[2])[None, None, :]
    low = np.flatnonzero(brain.any(axis=(0, 1)))[0]
    front, back = np.flatnonzero(brain.any(axis=(0, 2)))[[-1, 0]]
    height = low + (10 + 40 * np.clip((y - back) / (front - back), 0, 1)) / spacing_mm
    return np.broadcast_to(z < height, brain.shape)


def _front(brain: Array) -> Array:
    """The lower front quarter, where the face is."""
    rows, height = (np.flatnonzero(brain.any(axis=axes))[[0, -1]] for axes in ((0, 2), (0, 1)))
    y, z = np.arange(brain.shape[1])[None, :, None], np.arange(brain.shape[2])[None, None, :]
    return np.broadcast_to((y > rows.mean()) & (z < height.mean()), brain.shape)


def _shells(rng: np.random.Generator, away: Array, spacing_mm: float) -> Array:
    """Fluid, bone with marrow, fat with muscle."""
    uneven = 1 + 0.25 * smooth_field(rng, away.shape, 30 / spacing_mm)
    borders = np.cumsum([rng.uniform(0.5, 2.5), 2.0, rng.uniform(0.5, 3), 2.0, rng.uniform(3, 7)])
    labels = np.full(away.shape, TISSUES.index("fluid"), np.uint8)
    for border, tissue in zip(borders, ("bone", "marrow", "bone", "fat", "air"), strict=True):
        labels[away > border * uneven] = TISSUES.index(tissue)
    return labels


def _face(rng: np.random.Generator, shape: tuple[int, ...], away: Array, spacing_mm: float) -> Array:
    """Blobs of soft tissue and bone, within 24 mm of the brain."""
    field = smooth_field(rng, shape, 10 / spacing_mm) + 0.4 * smooth_field(rng, shape, 4 / spacing_mm)
    kinds = np.array([TISSUES.index(t) for t in ("air", "bone", "muscle", "fat")], np.uint8)
    labels = kinds[np.digitize(field, (-1.2, -0.6, 0.7))]
    labels[away > 20 + 2 * smooth_field(rng, shape, 30 / spacing_mm)] = 0
    return labels
